"""Questions: from a number of rows, from chats, and from lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.dataset import Chat, ChatTurn, PlainText
from pipeline.errors import InputError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.rows import make_questions, read_questions
from tests.pipeline.chatml import byte_tokenizer


def chat(*texts: str, line: int = 1) -> Chat:
    return Chat(tuple(ChatTurn("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)), line)


def asked(questions: Any, tmp_path: Path) -> list[Chat] | None:
    return read_questions(EvaluateConfig(tmp_path / "d", tmp_path / "o", base="b", questions=questions))


def test_the_first_different_chats_are_asked() -> None:
    rows = [chat("a", "1"), PlainText("text", 2), chat("a", "1", line=3), chat("b", "2"), chat("c", "3")]
    found = make_questions(byte_tokenizer(), rows, None, 2)
    assert [(one.text, one.wanted) for one in found] == [("a", "1"), ("b", "2")]
    assert make_questions(byte_tokenizer(), rows, None, 0) == []


def test_a_conversation_is_asked_its_last_question() -> None:
    tokenizer = byte_tokenizer()
    [found] = make_questions(tokenizer, [chat("a", "1", "b", "2")], None, 1)
    assert (found.text, found.wanted) == ("b", "2")
    assert tokenizer.decode(list(found.ids)).endswith(
        "assistant\n1<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_chat_without_an_answer_is_asked_whole() -> None:
    [found] = make_questions(byte_tokenizer(), [], [chat("a", "1", "b")], 0)
    assert (found.text, found.wanted) == ("b", None)


def test_lines_of_a_text_file_are_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("\ufeffWho are you?\r\n\r\n  Ahoy 🦜 \n".encode())
    found = asked(path, tmp_path)
    assert found is not None
    assert [one.turns for one in found] == [
        (ChatTurn("user", "Who are you?"),),
        (ChatTurn("user", "Ahoy 🦜"),),
    ]
    assert found[1].where == f"{path}, line 3"


def test_a_file_of_chats_is_read_as_data(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}))
    found = asked(path, tmp_path)
    assert found is not None and found[0].turns == (ChatTurn("user", "Hi"),)
    assert asked(3, tmp_path) is None


def test_a_file_of_questions_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(InputError, match=r"q\.txt is no text in UTF-8: save it as UTF-8"):
        asked(path, tmp_path)
    with pytest.raises(InputError, match=r"none\.jsonl does not exist: give a JSONL file of chats, a \.txt"):
        asked(tmp_path / "none.jsonl", tmp_path)


def test_a_question_that_the_template_refuses_is_told() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no questions here') }}"
    with pytest.raises(InputError, match=r"refuses it \(no questions here.*: change the question"):
        make_questions(tokenizer, [], [chat("a")], 0)
