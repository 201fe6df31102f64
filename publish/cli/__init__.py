"""The commands of `publish`."""
