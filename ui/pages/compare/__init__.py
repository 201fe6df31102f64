"""The page that compares two models, with a blind vote."""
