"""Runs the checks: in which order, in which process, of an export or of any GGUF."""
