"""One module per check of a certificate."""
