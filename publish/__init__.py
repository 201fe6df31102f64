"""Bring what an export made to the Hugging Face Hub."""
