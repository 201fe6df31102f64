"""Messages -> prompt tokens: the model's chat template, in jinja2's sandbox.

When a model is opened, marked messages must be found again in the prompt (common/message_form.py). Control
tokens spelled out in a message ("<|im_end|>") stay plain text: they are cut out before the template runs, so
a message can neither end its turn nor open another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jinja2

from common.chat_templates import ADVICE, OPTION, OTHER_ADVICE, expand_name
from common.errors import InputError
from common.message_form import MessageForm, Shaped, find_form
from common.text import first_line, map_texts
from engine.errors import ModelError, PromptTooLong, RequestError
from engine.prompt.jinja_environment import environment
from engine.prompt.message_checks import check_messages
from engine.prompt.tool_form import MARKED, ToolForm, find_tools
from engine.types import Message, ToolFormat

_PRIVATE_USE = range(0xE000, 0xF8FF)
NO_TOOLS = (
    "this model's chat template has no tools, or none that can be read: leave tools and their messages out, "
    "or serve a model whose template has them"
)


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

    def __init__(self, source: str, bos: str, eos: str, ends: Sequence[str] = (), tool_use: str = "") -> None:
        """`source` is Jinja, or a name of llama.cpp's; `bos` and `eos` are spellings, or "".

        `ends` are spellings of all tokens that end an answer. `tool_use` is the template of conversations
        with tools, where the first one has none.

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
        self._tool_use: _ToolUse | None = None
        for other in (self._template, *self._compiled(tool_use)):
            render = partial(self._render, template=other)
            with suppress(Exception):  # an untrusted template may raise anything
                form = self.form if other is self._template else find_form(partial(render, tools=MARKED))
                if not form.lost and (found := find_tools(render, form, (eos, *ends))):
                    self._tool_use = _ToolUse(other, form, *found)
                    break

    @property
    def tools(self) -> ToolFormat | None:
        """How the model writes calls of functions; None if the template has no tools that can be read."""
        return self._tool_use.format if self._tool_use is not None else None

    def _compiled(self, source: str) -> Iterator[jinja2.Template]:
        with suppress(Exception):  # as above
            if source.strip():
                yield environment().from_string(source)

    @property
    def takes_system(self) -> bool:
        """Whether the template has a system role, in the first message at least."""
        return self.form.system != "nowhere"

    def _render(
        self,
        messages: list[Shaped],
        *,
        tools: list[Any] | None = None,
        answered: bool = False,
        template: jinja2.Template | None = None,
    ) -> str:
        return (template or self._template).render(
            messages=messages,
            add_generation_prompt=not answered,
            tools=tools,
            documents=None,
            **self._tokens,
        )

    def render(
        self,
        messages: Sequence[Message],
        functions: Sequence[Mapping[str, Any]] = (),
        *,
        answered: bool = False,
    ) -> str:
        """Render the prompt up to the beginning of the answer. Raises RequestError.

        Contents are given as texts or lists of parts, system messages and calls as the template takes them.
        With `answered`, it ends after the last message, without a generation prompt.
        """
        with_tools = functions or any(m["role"] == "tool" or m.get("tool_calls") for m in messages)
        if with_tools and self._tool_use is None:
            raise RequestError(NO_TOOLS)
        try:
            if not with_tools or (use := self._tool_use) is None:
                return self._render(self.form.shape(messages), answered=answered)
            shaped, tools = use.message_form.shape(use.form.shape(messages)), use.form.functions(functions)
            if not tools and use.template is self._template:
                return self._render(shaped, answered=answered)
            return self._render(shaped, tools=tools, answered=answered, template=use.template)
        except Exception as error:
            raise RequestError(
                f"the model's chat template refuses this conversation: {_brief(error)}"
            ) from error


@dataclass(frozen=True)
class _ToolUse:
    """The template of conversations with tools, and how it takes them."""

    template: jinja2.Template
    message_form: MessageForm
    form: ToolForm
    format: ToolFormat


def _brief(error: Exception) -> str:
    return first_line(error)[:200]


class PromptBuilder:
    """Turns conversations into token ids; one per loaded model, safe to share between threads."""

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: TemplateTokenizer,
        control: Sequence[str],
        functions: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`control` are the spellings of the vocabulary's control tokens, `functions` a ToolRequest's."""
        self._template, self._functions = template, functions
        self._tokenizer = tokenizer
        # Longest first, so that a spelling that begins with another one is taken whole.
        spellings = sorted({s for s in control if len(s) > 1}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    @property
    def tools(self) -> ToolFormat | None:
        """How the model writes calls of functions; None if its template has none that can be read."""
        return self._template.tools

    def with_functions(self, functions: Sequence[Mapping[str, Any]]) -> PromptBuilder:
        """Return a builder of prompts with these functions. Raises RequestError if the model has none."""
        if functions and self._template.tools is None:
            raise RequestError(NO_TOOLS)
        other = copy(self)
        other._functions = functions
        return other

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
        text = self._template.render(hidden.messages, hidden.functions, answered=answered)
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

    def overhead(self, limit: int) -> int:
        """Return about how many tokens the functions take in each prompt; `limit + 1` if surely more."""
        return self.measure(_json(self._functions), limit) if self._functions else 0

    def exceeds(self, messages: Sequence[Message], limit: int) -> bool:
        """Return True if the messages surely have more than `limit` tokens, in time that the limit bounds."""
        texts = [text_of(message) for message in messages]
        if self._functions:
            texts.append(_json(self._functions))
        return sum(map(bool, texts)) > limit or self._tokenizer.exceeds(" ".join(texts), limit)

    def _hide(self, messages: Sequence[Message]) -> _Hidden:
        """Replace each control spelling in messages and functions by a character that they do not contain."""
        texts = [*map(text_of, messages), _json(self._functions)]
        if self._control is None or not any(self._control.search(text) for text in texts):
            return _Hidden(list(messages), self._functions, {})
        control, used = self._control, " ".join(texts)
        free = (chr(n) for n in _PRIVATE_USE if chr(n) not in used and _escaped(chr(n)) not in used)
        stand_in: dict[str, str] = {}

        def hide(match: re.Match[str]) -> str:
            if match[0] not in stand_in:
                stand_in[match[0]] = _next(free)
            return stand_in[match[0]]

        shaped, functions = (
            map_texts([*parts], lambda text: control.sub(hide, text)) for parts in (messages, self._functions)
        )
        return _Hidden(shaped, functions, {mark: spelling for spelling, mark in stand_in.items()})

    def _tokenize(self, text: str, spellings: Mapping[str, str]) -> list[int]:
        if not spellings:
            return self._tokenizer.tokenize(text, special=True)
        for mark in spellings:  # as Python prints it in a dict, and JSON in ASCII
            text = text.replace(_escaped(mark), mark)
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


def _escaped(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


def _next(free: Iterator[str]) -> str:
    """Return the next character that no message contains. Raises RequestError."""
    if (mark := next(free, None)) is None:
        raise RequestError("the messages contain every private-use character: leave some of them out")
    return mark


@dataclass(frozen=True)
class _Hidden:
    """Messages and functions with placeholders, and the spelling of each placeholder."""

    messages: list[Message]
    functions: Sequence[Mapping[str, Any]]
    spellings: dict[str, str]


def text_of(message: Message) -> str:
    """Return all that a message says, with its calls as JSON."""
    extra = [message[key] for key in ("tool_calls", "name") if message.get(key)]
    return f"{message['content']} {_json(extra)}" if extra else message["content"]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
