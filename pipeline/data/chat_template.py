"""The chat template of a transformers tokenizer: set it, and find out how it takes messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from common.chat_templates import ADVICE, OTHER_ADVICE, expand_name
from common.message_form import MessageForm, Render, Shaped, find_form, lost_places
from pipeline.data.rows import Chat
from pipeline.errors import InputError

_ends: WeakKeyDictionary[Any, tuple[object, tuple[int, ...]]] = WeakKeyDictionary()
_forms: WeakKeyDictionary[Any, tuple[object, MessageForm]] = WeakKeyDictionary()


def set_template(tokenizer: Any, given: str | None = None) -> None:
    """Give a tokenizer the template `given`, else its own one named "default"; a mere name becomes Jinja.

    Raises InputError for a word that is no name of llama.cpp's.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    source = given or own
    tokenizer.chat_template = expand_name(source) if source else None


def message_form(tokenizer: Any) -> MessageForm:
    """Return how the tokenizer's template takes messages; plain texts if it refuses a mere question."""
    source = getattr(tokenizer, "chat_template", None)
    known = _forms.get(tokenizer)
    if known is None or known[0] != source:
        try:
            form = find_form(_render(tokenizer))
        except Exception:  # noqa: BLE001 - an untrusted template may raise anything; each chat is refused then
            form = MessageForm()
        _forms[tokenizer] = known = (source, form)
    return known[1]


def shaped(tokenizer: Any, messages: Sequence[Any]) -> list[Shaped]:
    """Return the messages with their contents as texts or lists of parts, as the template takes them."""
    form = message_form(tokenizer)
    return [form.shape_one(message) for message in messages]


def reject_lost_messages(tokenizer: Any, chats: Sequence[Chat]) -> None:
    """Raise InputError for the first chat with a message that its prompt would leave out.

    Each order of roles is rendered once, with marked messages in place of the chat's.
    """
    form, render = message_form(tokenizer), _render(tokenizer, add_generation_prompt=False)
    by_roles = {tuple(m["role"] for m in chat.messages()): chat for chat in reversed(chats)}
    for roles, chat in reversed(by_roles.items()):
        try:
            lost = next(lost_places(render, form, roles), None)
        except Exception:  # noqa: BLE001 - encode_chat refuses the chat, with the template's reason
            continue
        if lost is not None:
            raise InputError(
                f"{chat.where}, message {lost + 1}: what the {roles[lost]} says does not reach the prompt, "
                f"as the model's chat template leaves it out: {OTHER_ADVICE}, or leave such messages out"
            )


def end_of_turn(tokenizer: Any) -> tuple[int, ...]:
    """Return the id of the token that the template puts after an answer; none if that is plain text.

    It need not be among the special tokens that the tokenizer lists, as <|end|> in some of Phi-3.
    """
    source = getattr(tokenizer, "chat_template", None)
    known = _ends.get(tokenizer)
    if known is None or known[0] != source:
        _ends[tokenizer] = known = (source, _end_of_turn(tokenizer))
    return known[1]


def _end_of_turn(tokenizer: Any) -> tuple[int, ...]:
    answer = "zyxwvu"
    texts = ("tsrqpo", answer, "nmlkji")
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    try:
        text = _render(tokenizer)(shaped(tokenizer, messages))
    except Exception:  # noqa: BLE001 - an untrusted template may raise anything; each chat is refused then
        return ()
    after = text.rpartition(answer)[2].lstrip()
    added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    found = max((token for token in added if token and after.startswith(token)), key=len, default=None)
    return () if found is None else (added[found],)


def no_template(spec: str) -> InputError:
    """Return the error for a base without a chat template."""
    return InputError(
        f"the base {spec!r} has no chat template: {ADVICE}, or choose its -Instruct or -Chat version"
    )


def _render(tokenizer: Any, *, add_generation_prompt: bool = True) -> Render:
    def render(messages: list[Shaped]) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    return render
