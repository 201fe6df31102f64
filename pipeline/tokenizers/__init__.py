"""Chooses the tokenizer that ships, and records what transformers does with it as a reference."""
