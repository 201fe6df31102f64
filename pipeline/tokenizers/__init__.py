"""The tokenizer of an export: which one is written, and transformers' results with it as a reference."""
