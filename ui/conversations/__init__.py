"""Conversations as trees in SQLite; import and export."""
