"""Requests and responses of /v1/chat/completions: OpenAI's fields, plus top_k, min_p and repeat_penalty.

https://platform.openai.com/docs/api-reference/chat/create. The form of an answer is ui.openai.answer_form's,
all fields that are not kept are ui.openai.other_fields'.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    create_model,
    field_validator,
    model_validator,
)

from engine.config import MAX_TOKENS, SAMPLING_FIELDS, SamplingParams, sampling_over
from engine.types import (
    Event,
    Finished,
    FinishReason,
    Message,
    MessagesDropped,
    ModelInfo,
    PromptInput,
    RequestStats,
    Role,
    TextDelta,
)
from ui.openai.answer_form import FORM_FIELDS, AnswerForm, answer_form
from ui.openai.other_fields import check_other_fields

Content = str | list[Mapping[str, Any]] | None
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class NullIsAbsent(BaseModel):
    """A part of a request, in which null means the same as a field that is missing."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given


class ChatMessage(NullIsAbsent):
    """One message; its content is a text or a list of text parts."""

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

    @model_validator(mode="after")
    def _check_calls(self) -> ChatMessage:
        for name in ("tool_calls", "function_call", "audio"):
            if (self.model_extra or {}).get(name):
                raise ValueError(f"{name} is not served here: leave it out")
        return self


class StreamOptions(NullIsAbsent):
    """Options of a streamed response."""

    include_usage: bool = False


MaxTokens = Annotated[int | None, Field(description="-1 is no limit, as in llama-server")]
_NO_LIMIT = (-1, -2)  # llama.cpp's -2 fills the context, which is the limit here anyway


class GenerationRequest(NullIsAbsent):
    """What requests for an answer and for a completion have in common."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = None
    n_predict: MaxTokens = None
    n: Annotated[int | None, Field(description="how many answers")] = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    _form: AnswerForm = PrivateAttr(default_factory=AnswerForm)
    _unknown: list[str] = PrivateAttr(default_factory=list)

    @field_validator("n")
    @classmethod
    def _check_n(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError("only one answer at a time is served here: send 1, or several requests")
        return n

    @field_validator("max_tokens", "max_completion_tokens", "n_predict", check_fields=False)
    @classmethod
    def _check_limit(cls, limit: int | None) -> int | None:
        if limit is not None and limit < 1 and limit not in _NO_LIMIT:
            raise ValueError(f"{limit} is no limit of tokens: use 1 or more, or -1 for none")
        return limit

    @model_validator(mode="after")
    def _read_others(self) -> GenerationRequest:
        others = self.model_extra or {}
        self._form = answer_form(others)
        others = {name: value for name, value in others.items() if name not in FORM_FIELDS}
        self._unknown = check_other_fields(others, type(self).model_fields)
        return self

    @property
    def unknown_fields(self) -> list[str]:
        """The names of the fields that are ignored because nothing is known of them."""
        return self._unknown

    def _limits(self) -> list[int]:
        """Return the limits of tokens that are given, the one that counts first."""
        names = ("max_completion_tokens", "max_tokens", "n_predict")
        return [limit for name in names if (limit := getattr(self, name, None)) is not None]

    @property
    def has_limit(self) -> bool:
        """Whether a limit of tokens was given, if only as -1."""
        return bool(self._limits())

    def sampling(self, model: ModelInfo) -> SamplingParams:
        """Return the sampling params; without a limit, up to the model's context. Raises SettingsError."""
        given = {name: value for name in SAMPLING_TYPES if (value := getattr(self, name)) is not None}
        if given.get("top_k") == -1:  # off, as in vLLM and others
            given["top_k"] = 0
        limit = next(iter(self._limits()), -1)
        return replace(
            sampling_over(model.recommended, given),
            max_tokens=min(model.context, MAX_TOKENS) if limit in _NO_LIMIT else limit,
            # -1 is another one each time, as in llama.cpp; OpenAI's may be negative
            seed=None if self.seed in (None, -1) else (self.seed or 0) % 2**32,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            grammar=self._form.grammar,
            json_schema=self._form.json_schema,
        )


SAMPLING_TYPES: dict[str, Any] = {
    row.name: (row.type | None, None)
    for row in SAMPLING_FIELDS
    if row.name not in GenerationRequest.model_fields
}
"""A field for each sampling parameter but max_tokens and seed, which follow OpenAI's own rules."""


class _ChatRequest(GenerationRequest):
    """The body of the request."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: MaxTokens = None

    def conversation(self) -> list[Message]:
        """Return the messages for the engine."""
        return [{"role": _ROLES[message.role], "content": message.text} for message in self.messages]

    def prompts(self) -> Sequence[PromptInput]:
        """Return the one prompt for the engine."""
        return [self.conversation()]

    def responses(self, model: str) -> Sequence[ChatResponse]:
        """Return an empty response; `model` is the name to send back."""
        return [ChatResponse(model)]


if TYPE_CHECKING:
    ChatRequest = _ChatRequest
else:
    ChatRequest = create_model("ChatRequest", __base__=_ChatRequest, **SAMPLING_TYPES)


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
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.reason}
        return {**self.head("chat.completion"), "choices": [choice], "usage": self.usage(), **self._notes()}

    def first_chunk(self) -> dict[str, Any]:
        """Return the first chunk, with the role."""
        return self._chunk({"role": "assistant", "content": ""})

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
