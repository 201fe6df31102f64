"""Requests and responses of /v1/embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr, field_validator, model_validator

from engine.types import EmbeddingVector, Event, Finished
from ui.openai.other_fields import check_other_fields
from ui.openai.schemas import NullIsAbsent

MAX_TEXTS = 256


class EmbeddingsRequest(NullIsAbsent):
    """The body of the request; `input` is one text or several, which are read one after another."""

    input: str | Annotated[list[Any], Field(min_length=1, max_length=MAX_TEXTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(description="only the model's own number")] = None
    _unknown: list[str] = PrivateAttr(default_factory=list)

    @field_validator("input")
    @classmethod
    def _check_texts(cls, texts: str | list[Any]) -> str | list[Any]:
        for text in [texts] if isinstance(texts, str) else texts:
            if isinstance(text, int | list):
                raise ValueError(
                    "token ids are another model's: send texts (LangChain: check_embedding_ctx_length=False)"
                )
            if not isinstance(text, str) or not text.strip():
                raise ValueError("send a text that is not empty, or a list of such texts")
        return texts

    @model_validator(mode="after")
    def _read_others(self) -> EmbeddingsRequest:
        self._unknown = check_other_fields(self.model_extra or {}, type(self).model_fields)
        return self

    @property
    def unknown_fields(self) -> list[str]:
        """The names of the fields that are ignored because nothing is known of them."""
        return self._unknown

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        return [self.input] if isinstance(self.input, str) else self.input


@dataclass
class EmbeddingsResponse:
    """The response, as the vectors come; `model` is the name to send back."""

    model: str
    vectors: list[list[float]] = field(default_factory=list)
    tokens: int = 0

    def update(self, event: Event) -> None:
        """Apply an event."""
        if isinstance(event, EmbeddingVector):
            self.vectors.append(event.vector)
        elif isinstance(event, Finished):
            self.tokens += event.stats.prompt_tokens

    def body(self, encoding: str) -> dict[str, Any]:
        """Return the whole response, with the vectors as lists or as base64 of float32 (little-endian)."""
        shown = [_base64(vector) if encoding == "base64" else vector for vector in self.vectors]
        data = [
            {"object": "embedding", "index": number, "embedding": one} for number, one in enumerate(shown)
        ]
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
