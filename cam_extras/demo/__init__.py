"""The demo: a small classifier of digits on cluttered canvases, its data and its training script."""
