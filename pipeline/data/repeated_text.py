"""Whether a text repeats a conversation: its messages in order, with only a template's marks between."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_ROLE = (
    r"(?:user|human|person|prompter|assistant|gpt|chatgpt|model|bot|chatbot|ai|system|developer|instructions?"
    r"|input|output|prompt|completion|question|answer|query|response|context|q|a)"
)
_MARK = re.compile(
    rf"""[\s#*=_:：-]
    | {_ROLE}\b (?= \**[ \t]*(?: [:：\r\n<\[] | \Z ))
    | <[|｜][^<>\n]{{1,40}}[|｜]> | <\|?/?{_ROLE}\|?>
    | </?s> | <</?SYS>> | </?think> | <\|?(?:start_of_|end_of_)?turn\|?>
    | <(?:bos|eos|pad|sep|unk|im_start|im_end|end_of_utterance)>
    | \[/?(?:INST|SYSTEM_PROMPT|BOS|EOS|SEP|CLS|gMASK|sMASK)\]
    | Below\ is\ an\ instruction\ that\ describes\ a\ task\b
    | ,\ paired\ with\ an\ input\ that\ provides\ further\ context\.
    | \.?\ ?Write\ a\ response\ that\ appropriately\ completes\ the\ request\.
    | Cutting\ Knowledge\ Date:\ \w+\ \d{{4}} | Today\ Date:\ \d+\ \w+\ \d{{4}}
    | (?:You\ are\ Qwen,\ created\ by\ Alibaba\ Cloud\.\ )?You\ are\ a\ helpful\ assistant\.?
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""A role, a token of a chat template, or what Alpaca's, Llama's and Qwen's templates say in every prompt."""


def repeats(text: str, messages: Sequence[str]) -> bool:
    """Return whether the text is the messages in their order, and nothing else but marks of a template.

    Marks may also be between the paragraphs of a message, as between an instruction and its input.
    """
    parts = [part.strip() for message in messages for part in message.split("\n\n") if part.strip()]
    ends = {0}
    for part in parts:
        ends = {place + len(part) for place in _reached(text, ends) if text.startswith(part, place)}
    return bool(parts) and len(text) in _reached(text, ends)


def _reached(text: str, starts: set[int]) -> Iterator[int]:
    """Yield the places that are reached from one of the starts over any number of marks."""
    seen: set[int] = set()
    for start in starts:
        place = start
        while place not in seen:
            seen.add(place)
            yield place
            if (mark := _MARK.match(text, place)) is None:
                break
            place = mark.end()
