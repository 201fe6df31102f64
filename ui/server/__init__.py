"""The web application: FastAPI, middleware, the Gradio page in it."""
