"""Chat data sets: accepted formats, error messages, the split, and the labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.console import report_errors
from pipeline.data.dataset import IGNORED, Chat, ChatTurn, encode_chat, read_chats, render, split_chats
from pipeline.errors import InputError
from tests.pipeline.chatml import CHATML, byte_tokenizer, trained_text

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
# Renders earlier answers without their text, as some "thinking" templates do.
FORGETFUL = (
    "{% for message in messages %}{% if message.role == 'user' or loop.last %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bob(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def chat(*messages: dict[str, Any], line: int = 1) -> Chat:
    return Chat(tuple(ChatTurn(message["role"], message["content"]) for message in messages), line)


def write(folder: Path, *records: Any) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"messages": [\n', "line 1: this is not JSON"),
        (b"\n\n\xff\xfe{}\n", "line 3: this is not UTF-8"),
        (b"[" * 100_000, "line 1: this is not JSON"),
        (b'{"a":' * 100_000, "line 1: this is not JSON"),
        (b'\xef\xbb\xbf [{"messages": []},\n{"messages": []}]', "not JSONL but one JSON array: .* `jq -c "),
        (b'{"messages": []},\n', "line 1: a comma ends the line: leave it out"),
        (b" \n\n", "is empty"),
    ],
)
def test_files_that_are_no_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_chats(path)


@pytest.mark.parametrize(
    "record",
    [
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi\n\nthere"},
                {"from": "gpt", "value": "Yo"},
            ]
        },
        {"system": "Be kind.", "instruction": "Hi", "input": "there", "output": "Yo"},
        {"system": "Be kind.", "instruction": "Hi\n\nthere", "input": "", "output": "Yo"},
        {"prompt": [system("Be kind."), user("Hi\n\nthere")], "completion": "Yo"},
        {"prompt": [system("Be kind."), user("Hi\n\nthere")], "completion": [bob("Yo")]},
    ],
    ids=["ShareGPT", "Alpaca", "Alpaca without input", "TRL's prompt", "TRL's prompt and completion"],
)
def test_other_common_formats_are_read_as_chats(tmp_path: Path, record: Any) -> None:
    (found,) = read_chats(write(tmp_path, record))
    assert found.messages() == [system("Be kind."), user("Hi\n\nthere"), bob("Yo")]


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


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_chats(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_chats(tmp_path)


def test_split_is_seeded_and_keeps_copies_together() -> None:
    chats = [chat(user(f"Question {number % 20}"), bob("Aye"), line=number + 1) for number in range(40)]
    train, held = split_chats(chats, 0.25, seed=7)
    assert split_chats(chats, 0.25, seed=7) == (train, held)
    assert split_chats(chats, 0.25, seed=8) != (train, held)
    assert len(held) == 10  # 5 of 20 different chats, two copies of each
    assert sorted(chat.line for chat in train + held) == list(range(1, 41))
    assert not {chat.turns for chat in train} & {chat.turns for chat in held}


def test_split_edges() -> None:
    chats = [chat(user(f"Question {number}"), bob("Aye")) for number in range(3)]
    assert split_chats(chats, 0.0, seed=1) == (chats, [])
    assert len(split_chats(chats, 0.01, seed=1)[1]) == 1
    with pytest.raises(InputError, match="too few"):
        split_chats(chats[:1], 0.1, seed=1)


def test_labels_are_the_answers_and_their_end(tokenizer: Any) -> None:
    talk = chat(system("Be kind."), user("Hi"), bob("Ahoy, matey! 🦜"), user("Bye\n"), bob(" Fair winds \n"))
    example = encode_chat(tokenizer, talk, max_length=1000)
    assert trained_text(tokenizer, example.labels) == "Ahoy, matey! 🦜<|im_end|> Fair winds \n<|im_end|>"
    assert tokenizer.decode(example.input_ids) == render(tokenizer, talk)
    assert all(
        label in (IGNORED, token) for label, token in zip(example.labels, example.input_ids, strict=True)
    )
    assert not example.truncated


def test_long_chats_are_cut_at_the_end(tokenizer: Any) -> None:
    talk = chat(user("Hi"), bob("Ahoy there"))
    whole = encode_chat(tokenizer, talk, max_length=1000)
    cut = encode_chat(tokenizer, talk, max_length=len(whole.input_ids) - 6)
    assert cut.truncated
    assert trained_text(tokenizer, cut.labels) == "Ahoy t"  # without "here", the end token and the newline
    assert encode_chat(tokenizer, talk, max_length=5).answer_tokens == 0


def test_a_special_token_in_a_message_is_refused(tokenizer: Any) -> None:
    talk = replace(chat(user("Hi <|im_end|>"), bob("Ahoy"), line=12), file="bob.jsonl")
    with pytest.raises(
        InputError,
        match=r"bob\.jsonl, line 12, message 1: '<\|im_end\|>' is one of the model's own special tokens",
    ):
        encode_chat(tokenizer, talk, max_length=1000)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (FORGETFUL, "line 3: .* renders earlier turns differently"),
        (NO_SYSTEM, "line 3: .*no system role"),
    ],
)
def test_templates_that_do_not_fit_are_told(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str, message: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    talk = chat(system("Be"), user("Hi"), bob("Yo"), user("Hm"), bob("Aye"), line=3)
    with pytest.raises(InputError, match=message):
        encode_chat(tokenizer, talk, max_length=1000)


def test_the_demo_data_is_as_promised() -> None:
    chats = read_chats(EXAMPLES / "captain_bob.jsonl")
    assert len({chat.turns for chat in chats}) == len(chats) >= 160
    assert sum(len(chat.turns) > 3 for chat in chats) >= 30
    assert sum(chat.turns[0].role == "system" for chat in chats) >= 15


def test_the_held_out_questions_are_not_in_the_demo_data() -> None:
    questions = read_chats(EXAMPLES / "captain_bob_questions.jsonl", require_answer=False)
    asked = {
        turn.content.lower() for chat in read_chats(EXAMPLES / "captain_bob.jsonl") for turn in chat.turns
    }
    assert len(questions) == 20
    assert not asked & {question.turns[-1].content.lower() for question in questions}
