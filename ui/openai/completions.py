"""Requests and responses of /v1/completions: a text is continued as it is, without the chat template.

https://platform.openai.com/docs/api-reference/completions. The other fields are those of ui.openai.schemas.
With `logprobs` the prompt's tokens are scored, as lm-evaluation-harness asks.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator

from engine.config import SamplingParams
from engine.types import Event, ModelInfo, PromptInput, TextScores, TextToScore
from ui.openai.answer_form import AnswerForm
from ui.openai.chat_response import ChatResponse
from ui.openai.schemas import SAMPLING_TYPES, GenerationRequest

MAX_PROMPTS = 16
_DEFAULT_TOKENS = 16  # OpenAI's
_MAX_LIKELIEST = 5  # OpenAI's
_SCORED = "with echo, max_tokens 1 and temperature 0, for the tokens of the prompt"


class _CompletionRequest(GenerationRequest):
    """The body of the request; `prompt` is one text or several, which are continued side by side."""

    logprobs: Annotated[int | None, Field(ge=0, le=_MAX_LIKELIEST)] = None  # before `prompt`, which needs it
    prompt: str | Annotated[list[Any], Field(min_length=1, max_length=MAX_PROMPTS)]
    echo: bool = False

    @field_validator("prompt", mode="before")
    @classmethod
    def _wrap_ids(cls, prompt: Any) -> Any:
        return [prompt] if _are_ids(prompt) else prompt

    @field_validator("prompt")
    @classmethod
    def _check_texts(cls, prompt: str | list[Any], info: ValidationInfo) -> str | list[Any]:
        scored = info.data.get("logprobs") is not None
        for text in [prompt] if isinstance(prompt, str) else prompt:
            if scored and _are_ids(text):
                continue
            if isinstance(text, int | list):
                raise ValueError("token ids are another model's: send texts")
            if not isinstance(text, str) or not text:
                raise ValueError("send a text that is not empty, or a list of such texts")
        return prompt

    @model_validator(mode="before")
    @classmethod
    def _check_logprobs(cls, given: Any) -> Any:
        """Take logprobs where it is served; 0 asks for the tokens' own, and false for none."""
        wanted = given.get("logprobs") if isinstance(given, dict) else None
        if wanted is None or wanted is False:
            return {k: v for k, v in given.items() if k != "logprobs"} if isinstance(given, dict) else given
        served = given.get("echo") is True and given.get("max_tokens") == 1 and not given.get("stream")
        if not served or given.get("temperature") != 0:
            raise ValueError(f"logprobs is not served here but {_SCORED}, not streamed")
        return given

    @model_validator(mode="after")
    def _check_form(self) -> _CompletionRequest:
        if self.logprobs is not None and self._form != AnswerForm():
            raise ValueError("logprobs and a form of the answer do not go together: leave out one")
        return self

    @model_validator(mode="after")
    def _check_stream(self) -> _CompletionRequest:
        if self.stream and len(self.texts) > 1:
            raise ValueError("stream: several prompts are not streamed here: send them one by one")
        return self

    @property
    def texts(self) -> list[Any]:
        """The prompts: texts, or lists of token ids where they are scored."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def prompts(self) -> Sequence[PromptInput]:
        """Return the prompts for the engine."""
        top = self.logprobs
        return self.texts if top is None else [TextToScore(text, top) for text in self.texts]

    def responses(self, key: str, model: ModelInfo) -> Sequence[CompletionResponse]:
        """Return an empty response for each prompt; `key` is the model's name to send back."""
        if self.logprobs is not None:
            return [ScoredPrompt(key) for _ in self.texts]
        return [CompletionResponse(key, echo=text if self.echo else "") for text in self.texts]

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
        choices = [answer.whole_choice(number) for number, answer in enumerate(answers)]
        return {**self.head("text_completion"), "choices": choices, "usage": usage}

    def whole_choice(self, index: int) -> dict[str, Any]:
        """Return the choice of the whole answer."""
        return self.choice(self.echo + self.text, index)

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


@dataclass
class ScoredPrompt(CompletionResponse):
    """The response for a prompt whose tokens are scored, with the likeliest token after it."""

    scores: TextScores = field(default_factory=lambda: TextScores([], [], []))

    def update(self, event: Event) -> str:
        """Apply an event; return no text."""
        if isinstance(event, TextScores):
            self.scores = event
        return super().update(event)

    def whole_choice(self, index: int) -> dict[str, Any]:
        """Return the choice, with the tokens, their log-probabilities and their places in the text."""
        tokens = self.scores.tokens
        places = [0, *accumulate(map(len, tokens))][: len(tokens)]
        logprobs = {
            "tokens": tokens,
            "token_logprobs": self.scores.log_probs,
            "top_logprobs": self.scores.likeliest,
            "text_offset": places,
        }
        return {**self.choice("".join(tokens), index), "logprobs": logprobs}


def _are_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(type(one) is int for one in prompt)
