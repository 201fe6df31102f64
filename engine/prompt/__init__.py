"""From messages to tokens: chat templates and the truncation of long conversations."""
