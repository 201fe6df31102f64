"""The page that shows a model's certificate."""
