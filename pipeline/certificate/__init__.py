"""Is this GGUF still that model? Checks of an export, and the certificate that they add up to."""
