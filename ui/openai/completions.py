"""Requests and responses of /v1/completions: a text is continued as it is, without the chat template.

https://platform.openai.com/docs/api-reference/completions. The other fields are those of ui.openai.schemas.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model, field_validator, model_validator

from engine.config import SamplingParams
from engine.types import ModelInfo, PromptInput
from ui.openai.schemas import SAMPLING_TYPES, ChatResponse, GenerationRequest

MAX_PROMPTS = 16
_DEFAULT_TOKENS = 16  # OpenAI's


class _CompletionRequest(GenerationRequest):
    """The body of the request; `prompt` is one text or several, which are continued side by side."""

    prompt: str | Annotated[list[Any], Field(min_length=1, max_length=MAX_PROMPTS)]
    echo: bool = False

    @field_validator("prompt")
    @classmethod
    def _check_texts(cls, prompt: str | list[Any]) -> str | list[Any]:
        for text in [prompt] if isinstance(prompt, str) else prompt:
            if isinstance(text, int | list):
                raise ValueError("token ids are another model's: send texts")
            if not isinstance(text, str) or not text:
                raise ValueError("send a text that is not empty, or a list of such texts")
        return prompt

    @model_validator(mode="before")
    @classmethod
    def _refuse_logprobs(cls, given: Any) -> Any:
        wanted = given.get("logprobs") if isinstance(given, dict) else None
        if wanted is not None and wanted is not False:  # 0 asks for the chosen token's
            raise ValueError("logprobs is not served here: leave it out")
        return given

    @model_validator(mode="after")
    def _check_stream(self) -> _CompletionRequest:
        if self.stream and len(self.texts) > 1:
            raise ValueError("stream: several prompts are not streamed here: send them one by one")
        return self

    @property
    def texts(self) -> list[str]:
        """The prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def prompts(self) -> Sequence[PromptInput]:
        """Return the prompts for the engine."""
        return self.texts

    def responses(self, model: str) -> Sequence[CompletionResponse]:
        """Return an empty response for each prompt; `model` is the name to send back."""
        return [CompletionResponse(model, echo=text if self.echo else "") for text in self.texts]

    def sampling(self, model: ModelInfo) -> SamplingParams:
        """Return the sampling params; without a limit, 16 tokens. Raises SettingsError."""
        sampling = super().sampling(model)
        return sampling if self.has_limit else replace(sampling, max_tokens=_DEFAULT_TOKENS)


if TYPE_CHECKING:
    CompletionRequest = _CompletionRequest
else:
    CompletionRequest = create_model("CompletionRequest", __base__=_CompletionRequest, **SAMPLING_TYPES)


@dataclass
class CompletionResponse(ChatResponse):
    """The response for one prompt, as its text grows; `echo` is the prompt if it is sent back."""

    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    echo: str = ""

    def completion(self, others: Sequence[ChatResponse] = ()) -> dict[str, Any]:
        """Return the whole response, with a choice for each of the others too."""
        answers = [self, *(other for other in others if isinstance(other, CompletionResponse))]
        usages = [answer.usage() for answer in answers]
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage = {**usages[0], **{name: sum(one[name] for one in usages) for name in names}}
        choices = [answer.choice(answer.echo + answer.text, number) for number, answer in enumerate(answers)]
        return {**self.head("text_completion"), "choices": choices, "usage": usage}

    def choice(self, text: str, index: int = 0) -> dict[str, Any]:
        """Return a choice with the text, and the finish reason if the answer has ended."""
        reason = self.reason if self.end is not None else None
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def first_chunk(self) -> dict[str, Any]:
        """Return the first chunk, with the prompt if it is sent back."""
        return self._text_chunk(self.echo)

    def text_chunk(self, delta: str) -> dict[str, Any]:
        """Return a chunk with the next piece of text."""
        return self._text_chunk(delta)

    def last_chunk(self) -> dict[str, Any]:
        """Return the chunk with the finish reason."""
        return self._text_chunk("")

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk with the token counts, sent last if `include_usage` is set."""
        return {**self.head("text_completion"), "choices": [], "usage": self.usage()}

    def _text_chunk(self, text: str) -> dict[str, Any]:
        return {**self.head("text_completion"), "choices": [self.choice(text)]}
