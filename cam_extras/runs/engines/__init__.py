"""Engines: who does the work of a run."""
