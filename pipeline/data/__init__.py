"""Chat data sets: formats, reading, rendering."""
