"""The tuned model before and after: held-out losses, greedy answers side by side, standard tasks."""
