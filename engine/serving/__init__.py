"""Loaded models for many callers: worker thread, streams, the pool of models, Prometheus metrics."""
