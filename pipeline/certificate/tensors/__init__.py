"""Compares each tensor of a GGUF with the one expected from the checkpoint and its adapters."""
