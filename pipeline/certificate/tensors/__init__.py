"""Every tensor of a GGUF against the tensor that the checkpoint and its adapters give."""
