"""HTML and Markdown of messages, status lines and tables."""
