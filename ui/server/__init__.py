"""The web application: FastAPI with its middleware and the Gradio page, and its start."""
