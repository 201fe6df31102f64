"""The models a page offers: files, Hub downloads, the catalog, the pool."""
