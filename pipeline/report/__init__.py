"""Writes the report, charts, model card and Ollama Modelfile of an export."""
