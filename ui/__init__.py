"""The Gradio panels. The only room that imports gradio; it is handed a ChatBackend."""
