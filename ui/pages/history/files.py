"""The files that the history exports."""

from __future__ import annotations

from collections.abc import Sequence

from ui.conversations.database import Conversation
from ui.conversations.json_transfer import to_json
from ui.conversations.markdown import to_markdown
from ui.pages.assets import File


def markdown_file(conversations: Sequence[Conversation]) -> File:
    """Return the conversations as a Markdown file."""
    return _file(conversations, to_markdown(conversations), "md", "text/markdown")


def json_file(conversations: Sequence[Conversation]) -> File:
    """Return the conversations as a JSON file, which can be imported."""
    return _file(conversations, to_json(conversations), "json", "application/json")


def _file(conversations: Sequence[Conversation], content: str, ending: str, kind: str) -> File:
    """The name is the title's letters and digits, which every file system takes."""
    title = conversations[0].title if len(conversations) == 1 else ""
    plain = "-".join("".join(c if c.isalnum() else " " for c in title).split())[:50]
    return {"name": f"{plain or 'chats'}.{ending}", "type": kind, "content": content}
