"""What counts as good and as bad in the quality of a quantized file, and why."""

from __future__ import annotations

GOOD_KL, BAD_KL = 0.1, 0.5
"""Nats a token."""
KL_REASON = (
    f"KL of at most {GOOD_KL} nats a token: a text then surprises the file about a tenth more than the "
    f"model; above {BAD_KL} it is another model's text."
)
GOOD_SURVIVAL, BAD_SURVIVAL = 0.95, 0.5
"""Shares of what the adapter changed."""
SURVIVAL_REASON = (
    f"At least {GOOD_SURVIVAL:.0%} of what the adapter changed; below {BAD_SURVIVAL:.0%} the error is larger "
    "than what is left of the tuning."
)
