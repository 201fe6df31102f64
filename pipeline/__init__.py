"""Fine-tunes LoRA adapters and exports them to certified GGUF files."""
