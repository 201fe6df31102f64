"""Scores models on the same texts: divergence, survival and speed."""
