"""From a LoRA adapter to GGUF files. One verb, one file."""
