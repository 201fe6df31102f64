"""transformers' results for a tokenizer and its chat template: the reference that a GGUF is compared with.

The converter's worker process has imported transformers anyway, so it saves the reference while it runs
(ConvertJob.tokenizer_reference); importing transformers elsewhere costs three seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.dataclass_json import to_json
from common.errors import MissingPackage
from common.files import write_atomically
from common.system import RENDER_SECONDS, kill_after
from pipeline.data.chat_template import set_template, shaped
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from pipeline.tokenizers.own_code import NeedsCode, load_without_code
from pipeline.tokenizers.stop_tokens import find_stop_token
from pipeline.tokenizers.stress_corpus import stress_corpus, token_texts

_MAX_USER_CHATS = 64
_QUESTION = {"role": "user", "content": "Who are you?"}
_SYSTEM = {"role": "system", "content": "You answer in one sentence."}
_TURNS = [
    {"role": "assistant", "content": "A program that answers."},
    {"role": "user", "content": "  And what is\n\n2 + 2?  "},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "Danke! 🦜"},
]
Conversations = dict[str, list[dict[str, str]]]
"""Messages by the conversation's name."""


CHATS: Conversations = {
    "one turn": [_QUESTION],
    "one turn with a system prompt": [_SYSTEM, _QUESTION],
    "several turns": [_QUESTION, *_TURNS],
    "several turns with a system prompt": [_SYSTEM, _QUESTION, *_TURNS],
}


@dataclass(frozen=True)
class EncodedText:
    """A text of the corpus, its kind there, and its token ids without a BOS."""

    kind: str
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Token:
    """An added token; a `special` one is never parsed from text that a user typed."""

    id: int
    spelling: str
    special: bool


@dataclass(frozen=True)
class RenderedChat:
    """A conversation and its prompt's token ids, with the generation prompt.

    `ids` is None when the template rejects the conversation.
    """

    name: str
    messages: list[dict[str, str]]
    ids: list[int] | None


@dataclass(frozen=True)
class TokenizerReference:
    """Everything recorded from transformers. The field names are the keys of the JSON file.

    `vocabulary` holds the tokens by id, None for an id without one; `roles` maps "bos" and "eos" to ids.
    `adds_bos` is true when plain text gets a BOS. `turn_end` is the token that ends an answer
    (stop_tokens.py).
    """

    vocabulary: list[str | None]
    roles: dict[str, int | None]
    adds_bos: bool
    tokens: tuple[Token, ...]
    texts: tuple[EncodedText, ...]
    has_template: bool
    chats: tuple[RenderedChat, ...]
    turn_end: int | None

    def save(self, path: Path) -> None:
        """Write the reference to `path` as JSON; creates the folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(to_json(self)))


def load_tokenizer_reference(path: Path, folder: Path, evaluation: Path | None) -> TokenizerReference:
    """Read the reference saved at `path`; when it is missing, record it from the tokenizer in `folder` first.

    Raises InputError when the tokenizer does not load.
    """
    if not path.is_file():
        ask_tokenizer(load_tokenizer(folder), evaluation).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    lists: dict[str, Any] = {
        "tokens": tuple(Token(**item) for item in content.pop("tokens")),
        "texts": tuple(EncodedText(**item) for item in content.pop("texts")),
        "chats": tuple(RenderedChat(**item) for item in content.pop("chats")),
    }
    return TokenizerReference(**content, **lists)


def ask_tokenizer(tokenizer: Any, evaluation: Path | None) -> TokenizerReference:
    """Record the reference of a loaded tokenizer, with the chats of the JSONL file `evaluation`."""
    tokens = tuple(
        Token(number, str(token.content), bool(token.special))
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    )
    user_chats = _user_chats(evaluation)
    return TokenizerReference(
        vocabulary=[
            token if token is None else str(token)
            for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        ],
        roles={"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id},
        adds_bos=tokenizer.bos_token_id in tokenizer("x").input_ids[:1],
        tokens=tokens,
        texts=tuple(_texts(tokenizer, tokens, user_chats)),
        has_template=bool(tokenizer.chat_template),
        chats=tuple(_chats(tokenizer, user_chats)) if tokenizer.chat_template else (),
        turn_end=turn_end(tokenizer),
    )


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`, with its template named "default".

    Raises InputError when it does not load.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingPackage(error.name or "transformers") from error
    try:
        tokenizer = load_without_code(AutoTokenizer.from_pretrained, folder, local_files_only=True)
    except NeedsCode:
        raise
    except Exception as error:  # noqa: BLE001 - an untrusted file, and tokenizers raises plain Exceptions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"transformers cannot load the tokenizer in {folder}: {reason}") from None
    with suppress(InputError):  # an unknown name renders as itself, and the check of the template says so
        set_template(tokenizer)
    return tokenizer


def _user_chats(evaluation: Path | None) -> Conversations:
    """Return the user's conversations, each cut after its last question."""
    chats = {}
    for chat in read_chats(evaluation, require_answer=False)[:_MAX_USER_CHATS] if evaluation else []:
        messages = chat.messages()
        while messages and messages[-1]["role"] != "user":
            messages.pop()
        chats[f"line {chat.line} of {evaluation.name if evaluation else ''}"] = messages
    return chats


def _texts(tokenizer: Any, tokens: Sequence[Token], user_chats: Conversations) -> Iterator[EncodedText]:
    typed = tuple(message["content"] for messages in user_chats.values() for message in messages)
    added = token_texts([token.spelling for token in tokens])
    special = {"special tokens": added[: len(tokens)], "tokens between words": added[len(tokens) :]}
    for kind, texts in {**stress_corpus(), **special, "user": typed}.items():
        for text in texts:
            yield EncodedText(kind, text, list(tokenizer.encode(text, add_special_tokens=False)))


def _chats(tokenizer: Any, user_chats: Conversations) -> Iterator[RenderedChat]:
    for name, messages in {**CHATS, **user_chats}.items():
        yield RenderedChat(name, messages, _ids(tokenizer, messages, add_generation_prompt=True))


def _ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int] | None:
    from jinja2.exceptions import TemplateError

    try:
        with kill_after(RENDER_SECONDS):
            ids = tokenizer.apply_chat_template(
                shaped(tokenizer, messages), tokenize=True, return_dict=False, **options
            )
    except TemplateError:
        return None
    return list(ids)


def turn_end(tokenizer: Any) -> int | None:
    """Return the id of the token that ends an answer under the tokenizer's own template; None without one."""
    if not tokenizer.chat_template:
        return None
    with kill_after(RENDER_SECONDS):
        found = find_stop_token(tokenizer, tokenizer.chat_template)
    return None if found is None else found.id
