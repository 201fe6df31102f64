"""Logits of models on the same texts, and what they say: divergence, survival, speed."""
