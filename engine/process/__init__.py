"""A model in a process of its own: the messages, the process, its client, and its supervision."""
