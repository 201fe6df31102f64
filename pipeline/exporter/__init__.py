"""The export of a model or an adapter from end to end, resumable."""
