"""Running answers: streaming into the history, by browser tab, and side by side."""
