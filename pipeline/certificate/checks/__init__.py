"""The checks of a certificate, one module each."""
