"""What an export says of itself: a page for people, a model card for the Hub, a Modelfile for Ollama."""
