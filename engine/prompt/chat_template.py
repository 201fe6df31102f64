"""Messages -> prompt tokens: the model's chat template, in jinja2's sandbox.

When a model is opened, marked messages must be found again in the prompt (common/message_form.py). Control
tokens spelled out in a message ("<|im_end|>") stay plain text: they are cut out before the template runs, so
a message can neither end its turn nor open another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from common.chat_templates import ADVICE, OPTION, OTHER_ADVICE, expand_name
from common.errors import InputError
from common.message_form import Shaped, find_form
from common.text import first_line
from engine.errors import ModelError, PromptTooLong, RequestError
from engine.prompt.jinja_environment import environment
from engine.types import Message, PromptInput, TextToEmbed

_PRIVATE_USE = range(0xE000, 0xF8FF)
_MAX_MESSAGES = 1 << 15  # of a conversation: truncation measures each of them


class TemplateTokenizer(Protocol):
    """The tokenizer methods that prompts need."""

    bos: int
    add_bos: bool

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text, without BOS."""
        ...

    def continue_text(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text that does not begin the prompt."""
        ...

    def exceeds(self, text: str, limit: int) -> bool:
        """Return True if a text surely has more than `limit` tokens, in time that the limit bounds."""
        ...


class LostWords(ModelError):
    """The chat template leaves out what somebody says."""

    def __init__(self, roles: Sequence[str]) -> None:
        """`roles` are those whose texts do not reach the prompt."""
        self.roles = tuple(roles)
        first, *more = sorted(roles, reverse=True)
        others = "".join(f", nor what the {role} says" for role in more)
        super().__init__(
            f"what the {first} says does not reach the prompt{others}: the model's chat template leaves it "
            f"out, as a text and as a list of parts; {OTHER_ADVICE}"
        )


class ChatTemplate:
    """A compiled chat template that renders what everybody says in a conversation."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        """`source` is Jinja, or a name of llama.cpp's; `bos` and `eos` are spellings, or "".

        Raises ModelError when it does not render, or leaves out what somebody says.
        """
        if not source.strip():
            raise ModelError(
                f"the GGUF carries no chat template: {ADVICE}, or export it from the tuned model, whose "
                "tokenizer has one (tokenizer_config.json or chat_template.jinja)"
            )
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment().from_string(expand_name(source))
            self.form = find_form(self._render)
        except InputError as error:
            raise ModelError(f"{error}, with {OPTION}") from error
        except Exception as error:  # an untrusted template may raise anything
            raise ModelError(
                f"the model's chat template does not render: {_brief(error)}; {OTHER_ADVICE}"
            ) from error
        if self.form.lost:
            raise LostWords(self.form.lost)

    @property
    def takes_system(self) -> bool:
        """Whether the template has a system role, in the first message at least."""
        return self.form.system != "nowhere"

    def _render(self, messages: list[Shaped], *, answered: bool = False) -> str:
        return self._template.render(
            messages=messages,
            add_generation_prompt=not answered,
            tools=None,
            documents=None,
            **self._tokens,
        )

    def render(self, messages: Sequence[Message], *, answered: bool = False) -> str:
        """Render the prompt up to the beginning of the answer. Raises RequestError.

        Contents are given as texts or lists of parts, and system messages where the template takes them. With
        `answered`, it ends after the last message, without a generation prompt.
        """
        try:
            return self._render(self.form.shape(messages), answered=answered)
        except Exception as error:
            raise RequestError(
                f"the model's chat template refuses this conversation: {_brief(error)}"
            ) from error


def _brief(error: Exception) -> str:
    return first_line(error)[:200]


def check_prompt(prompt: PromptInput) -> None:
    """Raise RequestError unless the prompt is a text with something in it, or messages in order."""
    if isinstance(prompt, TextToEmbed):
        if not prompt.text.strip():
            raise RequestError("a text is empty: send some text to embed")
    elif not isinstance(prompt, str):
        check_messages(prompt)
    elif not prompt:
        raise RequestError("the prompt is empty: send some text to be continued")


def check_messages(messages: Sequence[Message]) -> None:
    """Raise RequestError unless there are messages, not too many, each with a known role and a text."""
    if not messages:
        raise RequestError("there are no messages: send at least one from the user")
    if len(messages) > _MAX_MESSAGES:
        raise RequestError(
            f"the conversation has {len(messages)} messages: {_MAX_MESSAGES} are the most; start a new chat"
        )
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise RequestError(f"message {number} has the role {role!r}: use system, user or assistant")
        if not isinstance(content, str):
            raise RequestError(
                f"message {number} has no text: `content` is {type(content).__name__}, not a string"
            )


class PromptBuilder:
    """Turns conversations into token ids; one per loaded model, safe to share between threads."""

    def __init__(self, template: ChatTemplate, tokenizer: TemplateTokenizer, control: Sequence[str]) -> None:
        """`control` are the spellings of the vocabulary's control tokens."""
        self._template = template
        self._tokenizer = tokenizer
        # Longest first, so that a spelling that begins with another one is taken whole.
        spellings = sorted({s for s in control if len(s) > 1}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def tokens(self, messages: Sequence[Message], *, answered: bool = False) -> list[int]:
        """Return the prompt's token ids, with exactly one BOS if the model uses one. Raises RequestError.

        A final assistant message is continued: it follows the generation prompt, its turn stays open, and its
        special tokens are plain text. With `answered`, its turn is closed.
        """
        check_messages(messages)
        if messages[-1]["role"] == "assistant" and not answered:
            begun = messages[-1]["content"]
            return self.tokens(messages[:-1]) + self._part(begun, special=False, first=False)
        hidden = self._hide(messages)
        text = self._template.render(hidden.messages, answered=answered)
        return self._one_bos(self._tokenize(text, hidden.spellings))

    def raw_tokens(self, text: str, limit: int) -> list[int]:
        """Return the token ids of a text without the template, with one BOS if the model uses one.

        Spellings of control tokens are control tokens, as in llama.cpp's `llama-completion`: the text is the
        caller's in full. Raises PromptTooLong for more than `limit` tokens, in time that the limit bounds.
        """
        if not self._tokenizer.exceeds(text, limit):
            ids = self._one_bos(self._tokenizer.tokenize(text, special=True))
            if len(ids) <= limit:
                return ids
        raise PromptTooLong(
            f"the prompt has more than {limit} tokens, and {limit} are the most that leave an answer its "
            "room: shorten it, or raise the context"
        )

    def text_tokens(self, text: str, limit: int) -> list[int]:
        """Return the token ids of a text to embed; control tokens that are spelled out in it stay text.

        Raises PromptTooLong for more than `limit` tokens, in time that the limit bounds.
        """
        if not self._tokenizer.exceeds(text, limit):
            ids = self._tokenizer.tokenize(text, special=False)
            ids = [self._tokenizer.bos, *ids] if self._tokenizer.add_bos else ids
            if len(ids) <= limit:
                return ids
        raise PromptTooLong(f"a text has more than {limit} tokens, and {limit} are the most: split it")

    def measure(self, text: str, limit: int) -> int:
        """Return the number of tokens of a text without the template; `limit + 1` if it surely has more."""
        if len(text) > limit and self._tokenizer.exceeds(text, limit):
            return limit + 1
        return len(self._tokenizer.tokenize(text, special=False))

    def exceeds(self, messages: Sequence[Message], limit: int) -> bool:
        """Return True if the messages surely have more than `limit` tokens, in time that the limit bounds."""
        texts = [message["content"] for message in messages]
        return sum(map(bool, texts)) > limit or self._tokenizer.exceeds(" ".join(texts), limit)

    def _hide(self, messages: Sequence[Message]) -> _Hidden:
        """Replace each control spelling in the messages by a character that they do not contain."""
        if self._control is None or not any(self._control.search(m["content"]) for m in messages):
            return _Hidden(list(messages), {})
        used = set().union(*(m["content"] for m in messages))
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        stand_in: dict[str, str] = {}

        def hide(match: re.Match[str]) -> str:
            if match[0] not in stand_in:
                stand_in[match[0]] = _next(free)
            return stand_in[match[0]]

        shaped: list[Message] = [
            {"role": m["role"], "content": self._control.sub(hide, m["content"])} for m in messages
        ]
        return _Hidden(shaped, {mark: spelling for spelling, mark in stand_in.items()})

    def _tokenize(self, text: str, spellings: Mapping[str, str]) -> list[int]:
        if not spellings:
            return self._tokenizer.tokenize(text, special=True)
        ids: list[int] = []
        for number, part in enumerate(re.split(f"([{''.join(spellings)}])", text)):
            if part:
                ids += self._part(spellings.get(part, part), special=part not in spellings, first=number == 0)
        return ids

    def _part(self, text: str, *, special: bool, first: bool) -> list[int]:
        """Tokenize a part of the prompt; `first` begins it."""
        tokenize = self._tokenizer.tokenize if first else self._tokenizer.continue_text
        return tokenize(text, special=special)

    def _one_bos(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos
        start = 0
        while bos >= 0 and start < len(ids) and ids[start] == bos:
            start += 1
        wanted = bos >= 0 and (start > 0 or self._tokenizer.add_bos)
        return [bos, *ids[start:]] if wanted else ids[start:]


def _next(free: Iterator[str]) -> str:
    """Return the next character that no message contains. Raises RequestError."""
    if (mark := next(free, None)) is None:
        raise RequestError("the messages contain every private-use character: leave some of them out")
    return mark


class _Hidden:
    """Messages with placeholders, and the spelling of each placeholder."""

    def __init__(self, messages: list[Message], spellings: dict[str, str]) -> None:
        self.messages = messages
        self.spellings = spellings
