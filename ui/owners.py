"""Whose a conversation is, in one word: "user:NAME" of a login, "local", or "visitor:ID" of a cookie."""

from __future__ import annotations

LOCAL = "local"  # the one person of this machine
VISITOR = "visitor:"  # what such an owner's name begins with
