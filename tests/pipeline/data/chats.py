"""Chats and files of chats for the tests of data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.data.dataset import Chat, ChatTurn


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bob(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def chat(*messages: dict[str, Any], line: int = 1) -> Chat:
    return Chat(tuple(ChatTurn(message["role"], message["content"]) for message in messages), line)


def write(folder: Path, *records: Any) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
