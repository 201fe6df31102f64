"""Style sheets, scripts and the login page, sent to the browser unchanged."""

from pathlib import Path

STATIC = Path(__file__).resolve().parent
