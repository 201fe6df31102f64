"""A request to /v1/chat/completions: OpenAI's fields, and top_k, min_p and repeat_penalty besides.

https://platform.openai.com/docs/api-reference/chat/create. What this server cannot do is refused by name;
fields that change nothing about an answer (user, store, ...) and unknown ones are ignored, as is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.backend import ModelInfo
from engine.recommended import sampling_over
from engine.request import Message, Role
from engine.settings import MOST_TOKENS, SamplingSettings

Content = str | list[Mapping[str, Any]] | None
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_NOT_HERE = ("tools", "functions", "logprobs", "top_logprobs", "logit_bias", "audio")
_SAMPLED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
)


class ChatMessage(BaseModel):
    """One message; its content is a text, or a list of parts that are texts."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: Content = None

    @field_validator("role")
    @classmethod
    def _known(cls, role: str) -> str:
        if role not in _ROLES:
            raise ValueError(f"the role {role!r} is not served here: use {', '.join(_ROLES)}")
        return role

    @property
    def text(self) -> str:
        """The whole text."""
        if isinstance(self.content, list):
            return "\n".join(str(part["text"]) for part in self.content)
        return self.content or ""

    @field_validator("content")
    @classmethod
    def _texts(cls, content: Content) -> Content:
        for part in content if isinstance(content, list) else ():
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"a part of type {part.get('type')!r} is not served here: send text parts")
        return content


class JsonSchema(BaseModel):
    """What the answer has to look like."""

    model_config = ConfigDict(extra="allow")
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(BaseModel):
    """Free text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("the type json_schema needs json_schema.schema")
        return self

    @property
    def schema_text(self) -> dict[str, Any] | None:
        """The schema for the engine; None for free text."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema is not None else {"type": "object"}


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of the request. A value of None means the server's default, as a field that is missing."""

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
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None

    @field_validator("n")
    @classmethod
    def _one(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError("only one answer at a time is served here: send 1, or several requests")
        return n

    @model_validator(mode="after")
    def _served(self) -> ChatRequest:
        for name in _NOT_HERE:
            if (self.model_extra or {}).get(name):
                raise ValueError(f"{name} is not served here: leave it out")
        return self

    def conversation(self) -> list[Message]:
        """The messages as the engine reads them."""
        return [{"role": _ROLES[message.role], "content": message.text} for message in self.messages]

    def sampling(self, model: ModelInfo) -> SamplingSettings:
        """How to answer; without a limit, until the model's context is full. Raises SettingsError."""
        given = {name: value for name in _SAMPLED if (value := getattr(self, name)) is not None}
        form = self.response_format
        settled = sampling_over(model.recommended, given)
        return replace(
            settled,
            max_tokens=self.max_completion_tokens or self.max_tokens or min(model.context, MOST_TOKENS),
            seed=None if self.seed is None else self.seed % 2**32,  # OpenAI's may be negative
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            json_schema=form.schema_text if form is not None else None,
        )
