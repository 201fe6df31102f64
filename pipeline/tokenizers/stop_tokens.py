"""Which token ends an assistant's turn, which id pads a batch, and the BOS before a named template.

A turn that ends in plain text, such as ChatML's <|im_end|> on a vocabulary without that token, never ends for
a model: programs stop at tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.chat_templates import OPTION, GivenTemplate, expand_name
from common.message_form import Shaped, find_form
from common.text import first_line
from pipeline.errors import InputError

_QUESTION, _ANSWER, _NEXT = "Who are you?", "qzanswer", "qznext"
_OFFERED = ("chatml", "llama3", "gemma", "phi3", "zephyr", "llama2", "vicuna", "alpaca")
"""The named templates that errors offer, in this order: those that fit the vocabulary."""


@dataclass(frozen=True)
class StopToken:
    """The token after an assistant's answer: its `id`, its spelling, and whether it is the tokenizer's EOS.

    With `begins_next_turn` the template writes it only when another turn follows, as the beginning of that
    turn: a chat's last answer is then trained on without its end.
    """

    id: int
    text: str
    is_eos: bool
    begins_next_turn: bool = False


def stop_token(tokenizer: Any, source: str) -> StopToken:
    """Return the token that ends an assistant's turn under the Jinja template `source`.

    It is the first added token after an answer, special or not; plain text before it is fine. Raises
    InputError when there is none, with the named templates that end a turn on this vocabulary.
    """
    try:
        found = _find(tokenizer, source)
        end = repr(_after_answer(tokenizer, source, []).strip())
    except Exception as error:  # noqa: BLE001 - an untrusted template may raise anything
        raise InputError(
            f"the chat template does not render a question and its answer ({first_line(error)}): "
            f"give another one with {OPTION} FILE|NAME"
        ) from None
    if found is not None:
        return found
    names = fitting_templates(tokenizer)
    advice = f"use {OPTION} {_either(names)}" if names else "use a base whose tokenizer has an EOS"
    what = f"{end}, which is no token of this vocabulary" if end != "''" else "nothing"
    raise InputError(
        f"the chat template ends an answer with {what}, so that no answer would ever stop: {advice}"
    )


def find_stop_token(tokenizer: Any, source: str) -> StopToken | None:
    """Return what `stop_token` does; None when there is none or the template does not render."""
    try:
        return _find(tokenizer, source)
    except Exception:  # noqa: BLE001 - an untrusted template may raise anything
        return None


def fitting_templates(tokenizer: Any) -> list[str]:
    """Return the common named templates whose end of a turn is one of this vocabulary's tokens."""
    found = {name: find_stop_token(tokenizer, expand_name(name)) for name in _OFFERED}
    return [name for name, stop in found.items() if stop is not None and not stop.begins_next_turn]


def padding_id(tokenizer: Any, stop: StopToken) -> int:
    """Return the id that pads a batch: PAD, UNK, EOS or BOS, the first that is not the stop token.

    Where labels are masked by position, any id will do. transformers' DataCollatorForLanguageModeling masks
    every label that is the padding id instead, and then a stop token that pads is never trained on. Only on
    a vocabulary without another such token is it the stop token.
    """
    roles = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((number for number in roles if number is not None and number != stop.id), stop.id)


def training_template(tokenizer: Any, given: GivenTemplate) -> str:
    """Return a given template's Jinja, with a BOS before a named one if the tokenizer uses a BOS.

    Named templates write none, since llama.cpp's tokenizer adds it; apply_chat_template adds none.
    """
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("x").input_ids[:1] == [bos]
    return "{{- bos_token -}}\n" + given.source if given.is_named and adds_bos else given.source


def _either(names: list[str]) -> str:
    return " or ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])


def _find(tokenizer: Any, source: str) -> StopToken | None:
    last = _first_added(tokenizer, _after_answer(tokenizer, source, []))
    if last is not None:
        return _stop(tokenizer, last, begins_next_turn=False)
    following = [{"role": "user", "content": _NEXT}]
    between = _first_added(tokenizer, _after_answer(tokenizer, source, following))
    if between is None or between == tokenizer.bos_token_id:
        return None
    return _stop(tokenizer, between, begins_next_turn=True)


def _stop(tokenizer: Any, number: int, *, begins_next_turn: bool) -> StopToken:
    text = str(tokenizer.convert_ids_to_tokens(number))
    return StopToken(number, text, number == tokenizer.eos_token_id, begins_next_turn)


def _after_answer(tokenizer: Any, source: str, following: list[Shaped]) -> str:
    """Return the text between an answer and the next message, or the end. Raises what the template raises."""

    def render(messages: list[Shaped], *, prompt: bool = True) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=prompt
            )
        )

    chat = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}, *following]
    form = find_form(render)
    text = render([form.shape_one(message) for message in chat], prompt=False)
    if _ANSWER not in text:
        raise ValueError("it leaves the answer out")
    return text.rpartition(_ANSWER)[2].partition(_NEXT)[0]


def _first_added(tokenizer: Any, text: str) -> int | None:
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids = tokenizer.encode(text, add_special_tokens=False)
    return next((number for number in ids if number in added), None)
