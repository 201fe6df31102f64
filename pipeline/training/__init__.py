"""Fine-tunes a LoRA adapter."""
