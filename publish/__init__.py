"""Bring what an export made, and a chat with it, to the Hugging Face Hub."""
