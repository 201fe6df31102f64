"""Continuous batching in plain Python: scheduler, sequences, prefix cache, speculation, statistics."""
