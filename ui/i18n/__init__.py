"""The page's texts in English, German and Chinese."""
