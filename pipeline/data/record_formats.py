"""Turn a record into messages: OpenAI/TRL, ShareGPT, Alpaca, Dolly, prompt and completion, texts.

A key with a text, a list or an object is taken into the conversation, or it is known to be no part of one (an
id, a source, a score), or it repeats what the messages say; otherwise the record is refused by that key's
name. null is the same as an absent key.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.data.record_files import keys_text
from pipeline.data.repeated_text import repeats
from pipeline.data.rows import UnknownForm
from pipeline.data.text_formats import TEXT_FORMS, parse_text
from pipeline.errors import InputError

_CONVERSATIONS = ("messages", "conversations", "conversation")
_QUESTIONS = (
    "instruction",
    "prompt",
    "question",
    "query",
    "input",
    "inputs",
    "user",
    "human",
    "problem",
    "q",
)
_ANSWERS = (
    "output",
    "completion",
    "response",
    "answer",
    "outputs",
    "assistant",
    "bot",
    "reply",
    "target",
    "targets",
    "solution",
    "a",
)
_SYSTEMS = ("system", "system_prompt", "system_message")
_CONTEXTS = ("input", "context")
_NAMES = frozenset((*_CONVERSATIONS, *_QUESTIONS, *_ANSWERS, *_SYSTEMS, *_CONTEXTS, "text", "history"))
FORMS_TAKEN = (
    "messages, ShareGPT, Alpaca, Dolly, prompt and completion, question and answer, oasst trees, or a text "
    f"of turns ({', '.join(TEXT_FORMS)})"
)
_KEYS = {"from": "role", "value": "content"}
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "developer": "system",
}

_PREFERENCES = re.compile(
    r"(chosen|rejected)(_(response|completion|messages|answer))?|labels?|kto_tag|rewards?|preferences?|preferred"
)
"""Keys of data for DPO, KTO, reward models and classifiers, whose answers are not all to be imitated."""

_HARMLESS = re.compile(
    r"""(__index_level_0__ | (.*_)?(id|idx|ids|uuid|hash|url|date|time|timestamp|name|count|version|at|by)
    | (num|n|is|has|avg|min|max)_.* | index | row | views | length | split | fold | seed | avatarurl | links?
    | (.*_)?(source|fingerprint) | origin | dataset | subset | collection | file | path | author | annotator
    | worker | country | state | region | created | updated | published | licen[cs]e | copyright
    | categor(y|ies) | subcategory | topics? | subtopic | title | subject | domain | genre | tags? | keywords?
    | intent | cluster | tasks? | task_type | type | kind | lang | languages? | locale | models? | generator
    | scores? | score_.* | ratings? | stars | quality | difficulty | level | complexity | toxicity | toxic
    | redacted | flagged | moderation | (openai|detoxify)_moderation | safety
    | meta | metadata | meta_data | stats | usage | embedding | expect)""",
    re.VERBOSE | re.IGNORECASE,
)
"""Keys that describe a record and belong to no conversation."""


class Found(NamedTuple):
    """A record's messages and their form; `unanswered` if a last, open question was left out."""

    form: str
    messages: object
    unanswered: bool = False


def find_messages(record: object, where: str, *, require_answer: bool = True) -> Found:
    """Return the messages of a record in a known form.

    Raises InputError, beginning with `where`, for any other, and for a key whose meaning would be lost.
    """
    if not isinstance(record, dict):
        raise InputError(
            f'{where}: there is no list "messages": write {{"messages": [{{"role": ..., ...}}]}}'
        )
    named = _with_plain_names(record)
    if (messages := _as_messages(named, where)) is not None:
        return Found(_form(named), messages)
    given = {key: value for key, value in named.items() if value is not None}
    if isinstance(text := given.get("text"), str):
        if chat := parse_text(text, require_answer=require_answer):
            _reject_lost(given, {"text"}, chat.messages, where)
            return Found(*chat)
        if all(key == "text" or _HARMLESS.fullmatch(key) for key in given):
            raise UnknownForm(
                f"{where}: the text is no chat of a known form ({', '.join(TEXT_FORMS)}): "
                "to train on it whole, give --text '{text}'"
            )
    raise UnknownForm(
        f'{where}: there is no list "messages" nor another known form in the keys {keys_text(record)}: '
        f"name what it has with {_suggestion(record)} for plain text; known forms are {FORMS_TAKEN}"
    )


def _suggestion(record: dict[str, Any]) -> str:
    """Return --columns and --text with the record's own columns of text, as far as these are plain."""
    texts = [key for key, value in record.items() if _is_text(value) and not _HARMLESS.fullmatch(key.strip())]
    question, answer = (
        texts if len(texts) == 2 and not set(",=") & set("".join(texts)) else ("COLUMN", "COLUMN")
    )
    sample = (texts or [*record, "COLUMN"])[0]
    columns = shlex.quote(f"question={question},answer={answer}")
    return f"--columns {columns}, or --text {shlex.quote(f'{{{sample}}}')}"


def _with_plain_names(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with the keys of known forms as they are known: "Question " becomes "question"."""
    names = {key: key.strip().lower() for key in record if key not in _NAMES}
    plain = {key: name for key, name in names.items() if name in _NAMES and name not in record}
    if len(set(plain.values())) < len(plain):
        return record
    return {plain.get(key, key): value for key, value in record.items()}


def _form(record: dict[str, Any]) -> str:
    keys = {key for key, value in record.items() if value is not None}
    if key := _first(record, _CONVERSATIONS):
        turns = record[key]
        return "messages" if not isinstance(turns, list) or "role" in _keys(turns) else "ShareGPT"
    if "instruction" in keys:
        return "Dolly" if "response" in keys else "Alpaca"
    return "prompt and completion" if "prompt" in keys else "question and answer"


def _keys(turns: list[Any]) -> set[str]:
    return set(turns[0]) if turns and isinstance(turns[0], dict) else {"role"}


def _as_messages(record: dict[str, Any], where: str) -> list[Any] | None:
    given = {key: value for key, value in record.items() if value is not None}
    _reject_preferences(given, where)
    messages, used = _conversation(record, given, where)
    if messages is None:
        return None
    system = _first(given, _SYSTEMS)
    if system is not None and not _is_empty(given[system]):
        messages, used = _with_system(messages, given[system], system, where), {*used, system}
    _reject_lost(given, used, messages, where)
    return messages


def _conversation(
    record: dict[str, Any], given: dict[str, Any], where: str
) -> tuple[list[Any] | None, set[str]]:
    """Return a record's messages without its system prompt, and the keys that they come from."""
    if key := _first(given, _CONVERSATIONS):
        turns = given[key]
        return ([_message(turn) for turn in turns] if isinstance(turns, list) else None), {key}
    filled = {key: value for key, value in given.items() if not _is_empty(value)}
    question, answer = (
        _first(filled, keys) or _first(given, keys) or _first(record, keys) for keys in (_QUESTIONS, _ANSWERS)
    )
    if question is None or answer is None:
        return None, set()
    asked: Any = given.get(question)
    parts = [key for key in _CONTEXTS if key != question and _is_text(given.get(key)) and _is_text(asked)]
    content = "\n\n".join([asked, *(given[key] for key in parts)]) if parts else asked
    history = _history(given["history"], where) if given.get("history") else []
    messages = [*history, *_side("user", content), *_side("assistant", given.get(answer))]
    return messages, {question, answer, *parts, *(["history"] if history else [])}


def _first(record: dict[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in record), None)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_empty(value: object) -> bool:
    return value in ([], {}) or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def _message(turn: object) -> object:
    """Return a message with OpenAI's names for its keys and roles, without null values."""
    if not isinstance(turn, dict):
        return turn
    given = {key: value for key, value in turn.items() if value is not None or key in ("role", "content")}
    names = {old: new for old, new in _KEYS.items() if new not in given}  # else both would be in one key
    named = {names.get(key, key): value for key, value in given.items()}
    role = named.get("role")
    return {**named, "role": _ROLES.get(role.lower(), role.lower())} if isinstance(role, str) else named


def _side(role: str, content: object) -> list[object]:
    """Return the messages of a prompt or completion, which TRL allows to be a text or messages."""
    if isinstance(content, list):
        return [_message(turn) for turn in content]
    return [{"role": role, "content": content}]


def _history(turns: object, where: str) -> list[object]:
    """Return the messages of LLaMA-Factory's `history`: earlier pairs of question and answer."""
    pairs: list[Any] = turns if isinstance(turns, list) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{where}: 'history' is no list of [question, answer] pairs: write it so")
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


def _with_system(messages: list[Any], system: object, key: str, where: str) -> list[Any]:
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") != "system":
        return [{"role": "system", "content": system}, *messages]
    if first.get("content") != system:
        raise InputError(f"{where}: {key!r} and the first message are two system prompts: keep one")
    return messages


def _reject_preferences(given: dict[str, Any], where: str) -> None:
    for key, value in given.items():
        if _PREFERENCES.fullmatch(str(key).lower()) and not _is_empty(value):
            raise InputError(
                f"{where}: {key!r} makes this preference data (for DPO, KTO, rewards, classes), "
                'and training here imitates every answer: keep the good ones alone, as {"messages": [...]}'
            )


def _reject_lost(given: dict[str, Any], used: set[str], messages: list[Any], where: str) -> None:
    """Raise InputError for a key that carries meaning and is not in the conversation."""
    said = [message["content"] for message in messages if _has_text(message)]
    for key, value in given.items():
        if key in used or _is_empty(value) or _is_repeated(value, said):
            continue
        is_weight = key == "weight" and value != 1
        carries = isinstance(value, str | list | dict) and not _HARMLESS.fullmatch(str(key))
        if is_weight or carries:
            raise InputError(
                f"{where}: {str(key)[:80]!r} would be lost in training: put what it says into the messages, "
                "remove the key, or name what to train on with --columns or --text"
            )


def _has_text(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("content"), str)


def _is_repeated(value: object, said: list[str]) -> bool:
    """Return whether the messages say the same: one of them, several of them, or all rendered as one text."""
    if isinstance(value, str):
        return value in said or repeats(value, said)
    texts = list(_texts(value))
    return bool(texts) and all(text in said for text in texts)


def _texts(value: object) -> Iterator[str]:
    """Yield the texts inside a value; of a message only its content."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        message = _message(value)
        content = message.get("content") if isinstance(message, dict) else None
        inner = [content] if content else value.values()
        for one in inner:
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
