"""Rows of chats: their numbers, their order of roles, and the mistakes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.console import report_errors
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, system, user, write


def test_reads_chats_with_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    line = json.dumps({"messages": [system("Be kind."), user("Hé?"), bob("Ahoy!")], "source": "me"})
    path.write_bytes(b"\xef\xbb\xbf" + f"\n{line}\r\n\n{line}\n".encode())
    chats = read_chats(path)
    assert [chat.line for chat in chats] == [2, 4]
    assert chats[0].messages() == [system("Be kind."), user("Hé?"), bob("Ahoy!")]


def test_questions_may_stay_unanswered(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": [user("Hi?")], "expect": ["x"]})
    assert len(read_chats(path, require_answer=False)) == 1
    with pytest.raises(InputError, match="no assistant message"):
        read_chats(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], 'no list "messages"'),
        ({"prompt": "Hi"}, 'no list "messages"'),
        ({"messages": []}, 'no list "messages"'),
        ({"messages": ["Hi"]}, "message 1: it is no object"),
        (
            {"messages": [user("Hi"), {"role": "bot", "content": "Yo"}]},
            "message 2: the role 'bot' is unknown",
        ),
        ({"messages": [user("Hi"), {"role": ["bot"], "content": "Yo"}]}, "message 2: the role"),
        ({"messages": [user("Hi"), bob(" \n")]}, "message 2: the assistant's content is empty"),
        ({"messages": [user("Hi"), {"role": "assistant", "content": None}]}, "content is empty or no text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, bob("Yo")]},
            "message 1: the user's content is a list of parts: write its text as one string",
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "no assistant message"),
        ({"conversations": [{"from": "tool", "value": "Hi"}]}, "message 1: the role 'tool' is unknown"),
        ({"conversations": ["Hi"]}, "message 1: it is no object"),
        ({"instruction": "Hi", "output": ""}, "message 2: the assistant's content is empty"),
        ({"messages": [user("Hi"), {**bob("Yo"), "tool_calls": []}]}, "'tool_calls' would be lost"),
        (
            {"messages": [user("Hi"), user("You?"), bob("Yo")]},
            "message 2: the role is 'user' where 'assistant'",
        ),
        ({"messages": [bob("Yo")]}, "message 1: the role is 'assistant' where 'user' is due"),
        ({"messages": [user("Hi"), bob("Yo"), system("Be")]}, "message 3: the role is 'system' where 'user'"),
        ({"messages": [user("Hi")]}, "no assistant message"),
        ({"messages": [system("Be")]}, "no assistant message"),
        ({"messages": [user("Hi"), bob("Yo"), user("And?")]}, "the last message is not the assistant's"),
        ({"messages": [user("\ud83d"), bob("Yo")]}, "message 1: it holds half a character"),
    ],
)
def test_each_mistake_names_file_line_and_fault(tmp_path: Path, record: Any, message: str) -> None:
    good = {"messages": [user("Hi"), bob("Yo")]}
    path = write(tmp_path, good, record)
    with pytest.raises(InputError) as caught:
        read_chats(path)
    assert str(caught.value).startswith(f"{path}, line 2")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ten_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    good = {"messages": [user("Hi"), bob("Yo")]}
    path = write(tmp_path, *[good, {"messages": [user("Hi")]}] * 12)
    with pytest.raises(InputError) as caught:
        read_chats(path)
    messages = [str(caught.value), *caught.value.more]
    assert [line.split(":")[0] for line in messages] == [
        *(f"{path}, line {number}" for number in range(2, 21, 2)),
        "and 2 more lines",
    ]


def test_further_mistakes_have_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), report_errors():
        raise InputError("one\nthing", ["another\nthing", "and 3 more lines"])
    assert capsys.readouterr().err == "error: one thing\nanother thing\nand 3 more lines\n"
