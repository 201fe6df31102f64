"""Chooses the exported tokenizer, and records transformers' results with it as a reference."""
