"""Requests and responses of /v1/chat/completions: OpenAI's fields, plus top_k, min_p and repeat_penalty.

https://platform.openai.com/docs/api-reference/chat/create. Unsupported features are refused by name; fields
that do not affect the answer (user, store, ...) and unknown ones are ignored, as other servers do.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from engine.config import MAX_TOKENS, SAMPLING_FIELDS, SamplingParams, sampling_over
from engine.types import (
    Event,
    Finished,
    FinishReason,
    Message,
    MessagesDropped,
    ModelInfo,
    RequestStats,
    Role,
    TextDelta,
)

Content = str | list[Mapping[str, Any]] | None
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_NOT_HERE = ("tools", "functions", "logprobs", "top_logprobs", "logit_bias", "audio")


class ChatMessage(BaseModel):
    """One message; its content is a text or a list of text parts."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: Content = None

    @field_validator("role")
    @classmethod
    def _check_role(cls, role: str) -> str:
        if role not in _ROLES:
            raise ValueError(f"the role {role!r} is not served here: use {', '.join(_ROLES)}")
        return role

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(str(part["text"]) for part in self.content)
        return self.content or ""

    @field_validator("content")
    @classmethod
    def _check_parts(cls, content: Content) -> Content:
        for part in content if isinstance(content, list) else ():
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"a part of type {part.get('type')!r} is not served here: send text parts")
        return content


class JsonSchema(BaseModel):
    """OpenAI's wrapper of the schema that the answer must match."""

    model_config = ConfigDict(extra="allow")
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(BaseModel):
    """The form of the answer: free text, any JSON object, or JSON that matches a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("the type json_schema needs json_schema.schema")
        return self

    @property
    def engine_schema(self) -> dict[str, Any] | None:
        """The schema for the engine, None for free text."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema is not None else {"type": "object"}


class StreamOptions(BaseModel):
    """Options of a streamed response."""

    include_usage: bool = False


class _ChatRequest(BaseModel):
    """The body of the request. None means the server's default, as if the field were missing."""

    model_config = ConfigDict(extra="allow")
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(description="how many answers")] = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    response_format: ResponseFormat | None = None

    @field_validator("n")
    @classmethod
    def _check_n(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError("only one answer at a time is served here: send 1, or several requests")
        return n

    @model_validator(mode="after")
    def _served(self) -> _ChatRequest:
        for name in _NOT_HERE:
            if (self.model_extra or {}).get(name):
                raise ValueError(f"{name} is not served here: leave it out")
        return self

    def conversation(self) -> list[Message]:
        """Return the messages for the engine."""
        return [{"role": _ROLES[message.role], "content": message.text} for message in self.messages]

    def sampling(self, model: ModelInfo) -> SamplingParams:
        """Return the sampling params; without a limit, up to the model's context. Raises SettingsError."""
        given = {name: value for name in _SAMPLING_TYPES if (value := getattr(self, name)) is not None}
        form = self.response_format
        return replace(
            sampling_over(model.recommended, given),
            max_tokens=self.max_completion_tokens or self.max_tokens or min(model.context, MAX_TOKENS),
            seed=None if self.seed is None else self.seed % 2**32,  # OpenAI's may be negative
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            json_schema=form.engine_schema if form is not None else None,
        )


_SAMPLING_TYPES: dict[str, Any] = {
    row.name: (row.type | None, None) for row in SAMPLING_FIELDS if row.name not in _ChatRequest.model_fields
}
if TYPE_CHECKING:
    ChatRequest = _ChatRequest
else:  # adds a field for each sampling parameter but max_tokens and seed, which follow OpenAI's own rules
    ChatRequest = create_model("ChatRequest", __base__=_ChatRequest, **_SAMPLING_TYPES)


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

    def completion(self) -> dict[str, Any]:
        """Return the whole response, once the answer has ended."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(), **self._notes()}

    def first_chunk(self) -> dict[str, Any]:
        """Return the first chunk, with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def text_chunk(self, delta: str) -> dict[str, Any]:
        """Return a chunk with the next piece of text."""
        return self._chunk({"content": delta})

    def last_chunk(self) -> dict[str, Any]:
        """Return the chunk with the finish reason."""
        return self._chunk({}, self._reason) | self._notes()

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk with the token counts, sent last if `include_usage` is set."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, object_type: str) -> dict[str, Any]:
        return {"id": self.id, "object": object_type, "created": self.created, "model": self.model}

    def _notes(self) -> dict[str, Any]:
        """Return the number of dropped oldest messages, if any did not fit: not in OpenAI's API."""
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
