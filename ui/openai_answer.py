"""An answer in OpenAI's forms: one completion, or the chunks of a stream. Plain Python."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.request import Dropped, Event, Finished, FinishReason, RequestStats, Text

_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "time": "length",
    "cancelled": "stop",
}


@dataclass
class Answer:
    """One answer as it grows; `model` is the name that the caller knows it by."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    dropped: int = 0
    end: Finished | None = None

    def take(self, event: Event) -> str:
        """Fold an event in; returns the text that it brought."""
        if isinstance(event, Text):
            self.text += event.delta
            return event.delta
        if isinstance(event, Dropped):
            self.dropped = event.messages
        elif isinstance(event, Finished):
            self.end = event
        return ""

    def completion(self) -> dict[str, Any]:
        """The whole answer, once it has ended."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(), **self._notes()}

    def first_chunk(self) -> dict[str, Any]:
        """The chunk that says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def text_chunk(self, delta: str) -> dict[str, Any]:
        """A chunk with the next piece of text."""
        return self._chunk({"content": delta})

    def last_chunk(self) -> dict[str, Any]:
        """The chunk that says why the answer ended."""
        return self._chunk({}, self._reason) | self._notes()

    def usage_chunk(self) -> dict[str, Any]:
        """The chunk after the last, for who asked for the counts."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _notes(self) -> dict[str, Any]:
        """Not OpenAI's: how many of the oldest messages did not fit, where some did not."""
        return {"dropped_messages": self.dropped} if self.dropped else {}

    @property
    def _reason(self) -> str:
        return _REASONS[self._finished.reason]

    @property
    def _finished(self) -> Finished:
        assert self.end is not None, "the answer has not ended"
        return self.end

    def _usage(self) -> dict[str, Any]:
        stats: RequestStats = self._finished.stats
        return {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.generated_tokens,
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
            "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        }
