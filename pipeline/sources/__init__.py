"""Bases and adapters: folders, the Hub, the bundled demo model."""
