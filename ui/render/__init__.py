"""HTML and Markdown of messages, status lines, tables and charts."""
