"""The side bar of past conversations."""
