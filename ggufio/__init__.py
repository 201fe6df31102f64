"""GGUF files and ggml's number types. Imports nothing of ours but common."""
