"""Checks that a GGUF still is the model that it was made of; the certificate holds their findings."""
