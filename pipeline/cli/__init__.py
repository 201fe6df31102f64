"""Command lines: options, errors as one line, tables and progress in the terminal."""
