"""Trials of what a file brings besides its weights: tokenizer, chat template, and vocabulary for grammars.

They run in the probe's child process, each under a clock and a memory limit, and may crash it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

import numpy as np

from common.system import kill_after, limit_memory
from engine.config import SamplingParams
from engine.errors import ModelError, RequestError, TooSlow
from engine.llama.constraint import compile_constraint, new_constraint
from engine.llama.grammar import whole_vocabulary
from engine.llama.model import ModelMetadata
from engine.llama.tokenizer import LlamaTokenizer
from engine.types import Message

TRIAL_SECONDS = 10.0
TEMPLATE_SECONDS = 3.0
_BYTES = 4 << 30
_GRAMMAR = 'root ::= "{" [^}]* "}"'
_SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


def trials(vocab: LlamaTokenizer, facts: ModelMetadata) -> Mapping[str, Callable[[], None]]:
    """Return the trials by name, in order. Each kills the process when it takes too long."""
    return {
        "tokenizer": partial(_limited, TRIAL_SECONDS, partial(try_tokenizer, vocab)),
        "template": partial(_limited, TEMPLATE_SECONDS, partial(try_template, facts)),
        "grammar": partial(_limited, TRIAL_SECONDS, partial(try_grammar, vocab)),
    }


def _limited(seconds: float, trial: Callable[[], None]) -> None:
    limit_memory(_BYTES)
    with kill_after(seconds):
        trial()


def try_tokenizer(vocab: LlamaTokenizer) -> None:
    """Tokenize every byte of UTF-8, U+0000 to U+07FF, long runs and each control token; spell each token.

    Raises ModelError when a text gives no tokens.
    """
    characters = "".join(_characters())
    texts = [*characters, characters, "a" * 5000, " " * 5000, "a b\n" * 500, *vocab.control_spellings]
    for text in texts:
        for special in (False, True):
            vocab.tokenize(text, special=special)
    for token in range(vocab.size):
        vocab.piece(token)
    if not vocab.tokenize("Hello", special=False):
        raise ModelError("its tokenizer finds no tokens in 'Hello'")


def _characters() -> Iterator[str]:
    """Yield U+0000 to U+07FF, and characters with every lead byte of longer ones."""
    yield from map(chr, range(0x800))
    for code in range(0x800, 0x110000, 0x400):
        if not 0xD800 <= code < 0xE000:  # surrogates are no characters
            yield chr(code + 0x80 + code // 0x400 % 64)


def try_template(facts: ModelMetadata) -> None:
    """Render conversations of a dozen shapes. Raises ModelError when a plain one does not render."""
    template = facts.chat_template()
    for shape in _conversations():
        try:
            template.render(shape)
        except RequestError:
            continue  # templates may refuse some shapes, such as two questions in a row


def _conversations() -> Iterator[list[Message]]:
    def user(text: str) -> Message:
        return {"role": "user", "content": text}

    def answer(text: str) -> Message:
        return {"role": "assistant", "content": text}

    system: Message = {"role": "system", "content": "Be brief."}
    turn = [user("Hello"), answer("Hi.")]
    for turns in (0, 1, 2, 3, 6, 20):
        yield [*turn * turns, user("Bye")]
        yield [system, *turn * turns, user("Bye")]
    yield [user("Hello"), user("Are you there?")]
    yield [answer("Welcome."), user("Hello")]
    for text in ("", "1", "é ÿ 日本 😀", "line\n" * 200, "word " * 2000, "{{ x }} {% if %} <|im_end|>"):
        yield [system, user(text), answer(text), user(text)]


def try_grammar(vocab: LlamaTokenizer) -> None:
    """Apply a JSON schema and a grammar to the whole vocabulary, and advance them by their first tokens."""
    for settings in (SamplingParams(json_schema=_SCHEMA), SamplingParams(grammar=_GRAMMAR)):
        with suppress(RequestError, TooSlow):  # a vocabulary need not be able to spell them
            constraint = new_constraint(compile_constraint(settings, vocab), vocab)
            assert constraint is not None
            for token in vocab.tokenize('{"name": "Bob"}', special=False):
                constraint.apply_mask(whole_vocabulary(np.zeros(vocab.size, np.float32)))
                constraint.accept(token)
            constraint.close()
