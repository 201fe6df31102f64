"""Quantizes GGUF files: types, importance matrix, K-quant kernels, llama.cpp's quantizer."""
