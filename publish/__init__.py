"""Bring a model or the chat to the Hugging Face Hub."""
