"""Runs llama.cpp's converter, with merged tensors in place of the base's."""
