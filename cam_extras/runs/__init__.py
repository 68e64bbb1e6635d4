"""Runs over data sets: what goes in, who works on it, what is kept and what comes out."""
