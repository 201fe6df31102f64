"""The models on offer: GGUF files, downloads from the Hub, the catalog, the pool of loaded ones."""
