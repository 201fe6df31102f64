"""Continuous batching in plain Python: scheduler, sequences, prefix cache, speculative decoding, statistics."""
