"""Merges LoRA adapters into a checkpoint, one tensor at a time, by PEFT's own layers."""
