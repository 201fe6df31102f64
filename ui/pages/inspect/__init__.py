"""The view of a GGUF's metadata and tensors."""
