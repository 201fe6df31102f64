"""Runs the checks of an export or of any GGUF, in a worker process."""
