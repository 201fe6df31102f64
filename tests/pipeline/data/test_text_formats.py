"""Texts that hold a conversation: the marks of known forms, and texts that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.reader import load_data, read_chats
from pipeline.data.text_formats import parse_text
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, system, user, write
from tests.pipeline.data.seed_rows import guanaco_llama2, openassistant_guanaco

Q, A, Q2, A2 = user("Hi"), bob("Yo"), user("And?"), bob("No.")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("### Human: Hi### Assistant: Yo", [Q, A]),
        ("### Human: Hi### Assistant: Yo### Human: And?### Assistant: No.", [Q, A, Q2, A2]),
        ("### System: Be.\n### Human: Hi\n### Assistant: Yo\n", [system("Be."), Q, A]),
        ("###Human: Hi\n\n###Assistant: Yo</s>", [Q, A]),
        (
            "### Human: Hi### Assistant: ### 1\nYo ### Human### x",
            [Q, bob("### 1\nYo ### Human### x")],
        ),
        ("<s>[INST] Hi [/INST] Yo </s>", [Q, A]),
        ("<s>[INST] Hi [/INST] Yo </s><s>[INST] And? [/INST] No. </s>", [Q, A, Q2, A2]),
        ("<s>[INST] <<SYS>>\nBe.\n<</SYS>>\n\nHi [/INST] Yo </s>", [system("Be."), Q, A]),
        ("<s>[INST] <<SYS>>\n\n<</SYS>>\n\nHi [/INST] Yo </s>", [Q, A]),
        ("<s>[INST] Hi [/INST]Yo</s>[INST] And? [/INST]No.</s>", [Q, A, Q2, A2]),
        ("[INST]Hi[/INST]Yo", [Q, A]),
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n", [Q, A]),
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|><|end_of_text|>",
            [system("Be."), Q, A],
        ),
        ("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n<eos>", [Q, A]),
        ("<|system|>\nBe.</s>\n<|user|>\nHi</s>\n<|assistant|>\nYo</s>\n", [system("Be."), Q, A]),
        ("<|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n<|endoftext|>", [Q, A]),
        (
            "Below is an instruction that describes a task. Write a response that appropriately completes the"
            " request.\n\n### Instruction:\nHi\n\n### Response:\nYo",
            [Q, A],
        ),
        ("### Instruction:\nHi\n\n### Input:\nthere\n\n### Response:\nYo</s>", [user("Hi\n\nthere"), A]),
    ],
)
def test_a_text_of_turns_becomes_messages(text: str, messages: list[dict[str, Any]]) -> None:
    found = parse_text(text)
    assert found is not None and found.messages == messages
    assert not found.unanswered


@pytest.mark.parametrize(
    "text",
    [
        "The sea is wide.",
        "He said ### Human: Hi### Assistant: Yo",
        "As [INST] shows, [/INST] ends it.",
        "<|im_start|>user\nHi<|im_end|> and more",
        "<|im_start|>user\nHi",
        "### Instruction:\nHi",
        "## Human: Hi",
        "",
    ],
)
def test_other_texts_are_no_chats(text: str) -> None:
    assert parse_text(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "### Human: Hi### Assistant: Yo### Human: And?",
        "### Human: Hi### Assistant: Yo### Human: And?### Assistant: ",
        "<s>[INST] Hi [/INST] Yo </s><s>[INST] And? [/INST]",
    ],
)
def test_a_last_question_without_an_answer_is_left_out_and_counted(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, {"text": text}, {"text": "### Human: Hi### Assistant: Yo"})
    data = load_data(path)
    assert [chat.messages() for chat in read_chats(path)] == [[Q, A], [Q, A]]
    assert data.notes == ["1 chat ended with a question without an answer, which was left out"]
    assert read_chats(path, require_answer=False)[0].messages() == [Q, A, Q2]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "The sea."}, r"the text is no chat of a known form \(### Human:.*give --text '{text}'"),
        ({"text": "### Human: Hi"}, "no assistant message"),
        ({"text": "### Human: Hi### Assistant: "}, "no assistant message"),
        ({"text": "### Human: Hi### Assistant: Yo", "notes": "Hm"}, "'notes' would be lost"),
        (
            {"text": "<|im_start|>tool\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>"},
            "role 'tool' is",
        ),
        ({"text": "### Human: Hi### Human: Hm### Assistant: Yo"}, "message 2: the role is 'user'"),
    ],
)
def test_what_a_text_lacks_is_told_with_its_line(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"line 1.*{message}"):
        read_chats(write(tmp_path, record))


@pytest.mark.parametrize(
    ("rows", "form", "turns"),
    [(openassistant_guanaco(), "### Human:", 4), (guanaco_llama2(), "[INST]", 4)],
)
def test_both_guanacos_are_chats(tmp_path: Path, rows: Any, form: str, turns: int) -> None:
    data = load_data(write(tmp_path, *rows))
    (only,) = data.forms
    assert only.startswith(form) and data.forms[only] == len(data.rows) == 20
    first, third = data.rows[0].content, data.rows[2].content
    assert [turn.role for turn in first] == ["user", "assistant"]
    assert first[0].content == "How do I keep bread fresh, try 0?"
    assert first[1].content.startswith("Wrap it in cloth") and "[" not in first[1].content
    assert len(third) == turns and third[3].content == "Wait for the sun."
