"""Measures us and the usual way side by side, in one run, on the same material."""
