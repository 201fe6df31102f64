"""Style sheets, scripts and the login page, which are sent to the browser as they are."""

from pathlib import Path

STATIC = Path(__file__).resolve().parent
