"""The response to one request to /v1/chat/completions, whole or in chunks.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.types import Event, Finished, FinishReason, MessagesDropped, RequestStats, TextDelta

_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "time": "length",
    "cancelled": "stop",
}


@dataclass
class ChatResponse:
    """The response to one request, as its answer grows; `model` is the name to send back."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    dropped: int = 0
    end: Finished | None = None

    def update(self, event: Event) -> str:
        """Apply an event; return its text."""
        if isinstance(event, TextDelta):
            self.text += event.delta
            return event.delta
        if isinstance(event, MessagesDropped):
            self.dropped = event.messages
        elif isinstance(event, Finished):
            self.end = event
        return ""

    def completion(self, others: Sequence[ChatResponse] = ()) -> dict[str, Any]:
        """Return the whole response, once the answer has ended; `others` is for several prompts."""
        assert not others, "a chat has one prompt"
        choice = {"index": 0, "message": self.message(), "logprobs": None, "finish_reason": self.reason}
        return {**self.head("chat.completion"), "choices": [choice], "usage": self.usage(), **self._notes()}

    def message(self) -> dict[str, Any]:
        """Return the assistant's message, once the answer has ended."""
        return {"role": "assistant", "content": self.text, "refusal": None}

    def first_chunk(self) -> dict[str, Any]:
        """Return the first chunk, with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunks(self, event: Event) -> list[dict[str, Any]]:
        """Apply an event; return its chunks."""
        delta = self.update(event)
        return [self.text_chunk(delta)] if delta else []

    def text_chunk(self, delta: str) -> dict[str, Any]:
        """Return a chunk with the next piece of text."""
        return self._chunk({"content": delta})

    def last_chunk(self) -> dict[str, Any]:
        """Return the chunk with the finish reason."""
        return self._chunk({}, self.reason) | self._notes()

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk with the token counts, sent last if `include_usage` is set."""
        return {**self.head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self.head("chat.completion.chunk"), "choices": [choice]}

    def head(self, object_type: str) -> dict[str, Any]:
        """Return the fields with which every response and chunk begins."""
        return {"id": self.id, "object": object_type, "created": self.created, "model": self.model}

    def _notes(self) -> dict[str, Any]:
        """Return the number of dropped oldest messages, if any did not fit: not in OpenAI's API."""
        return {"dropped_messages": self.dropped} if self.dropped else {}

    @property
    def reason(self) -> str:
        """The finish reason, once the answer has ended."""
        return _REASONS[self._finished.reason]

    @property
    def _finished(self) -> Finished:
        assert self.end is not None, "the answer has not ended"
        return self.end

    def usage(self) -> dict[str, Any]:
        """Return the token counts, once the answer has ended."""
        stats: RequestStats = self._finished.stats
        return {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.generated_tokens,
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
            "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        }
