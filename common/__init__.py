"""Ground for every package: errors, files, paths, text, the machine. Imports nothing of ours."""
