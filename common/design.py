"""The design tokens that all pages share, the export's report among them: colours, type, spacing, motion."""

from __future__ import annotations

from pathlib import Path

TOKENS = Path(__file__).with_name("tokens.css")
