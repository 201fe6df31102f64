"""Conversations as trees of messages, stored in SQLite; export and import."""
