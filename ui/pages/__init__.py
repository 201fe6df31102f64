"""The Gradio pages and their event handlers."""
