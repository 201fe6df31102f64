"""Chat data sets: accepted formats, error messages, the split, and the labels."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile
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


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.parquet",
            b"PAR1\x15\x04",
            r"is Parquet, not JSONL: .*Dataset.from_parquet\('train.parquet'\)",
        ),
        ("train.jsonl", b"PAR1\x15\x04", "is Parquet, not JSONL"),
        (
            "x.arrow",
            b"ARROW1\0\0",
            r"is Arrow, not JSONL: .*Dataset.from_file\('x.arrow'\).to_json\('x.jsonl'\)",
        ),
        ("x.arrow", b"\xff\xff\xff\xff\x10\0\0\0", "is Arrow"),
        (
            "x.jsonl.gz",
            gzip.compress(b"{}"),
            "is gzip, not JSONL: unpack it, as `zcat x.jsonl.gz > x.jsonl` does",
        ),
        ("my x.bz2", bz2.compress(b"{}"), "is bzip2, .*`bzcat 'my x.bz2' > 'my x.jsonl'` does"),
        ("x.xz", lzma.compress(b"{}"), "is xz, .*`xzcat x.xz > x.jsonl`"),
        ("x.zst", b"\x28\xb5\x2f\xfd\0", "is zstd, .*`zstdcat"),
        ("x.zip", _zip("x.jsonl"), "is zip, .*`unzip -p x.zip > x.jsonl`"),
        ("x.xlsx", _zip("xl/workbook.xml"), r"is Excel, .*pandas.read_excel\('x.xlsx'\)"),
        ("x.pt", _zip("x/data.pkl"), "is a pickle, not JSONL: a pickle can run code"),
        ("x.pkl", pickle.dumps([1]), "is a pickle, not JSONL: .*pandas.read_pickle"),
        ("x.db", b"SQLite format 3\0", "is SQLite, not JSONL: write one"),
        ("x.pdf", b"%PDF-1.7", "is PDF, not JSONL"),
        (
            "x.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer, .*`git lfs pull`",
        ),
        ("x.jsonl", b"\n<!DOCTYPE html><html>", "is HTML, not JSONL: it is a web page"),
        ("x.jsonl", '{"messages"'.encode("utf-16"), "is UTF-16, not JSONL: .*`iconv -f UTF-16 -t UTF-8"),
        ("x.csv", b"instruction,output\nHi,Yo\n", r"is CSV, .*Dataset.from_csv\('x.csv'\)"),
        ("x.json", b'{\n "messages": []\n}', "JSON over several lines: .*`jq -c . x.json"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_chats(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["dataset_dict.json", "train/x.arrow"],
            r"load_from_disk\('d'\)\['train'\].to_json\('train.jsonl'\)",
        ),
        (["state.json", "x.arrow"], r"load_from_disk\('d'\).to_json\('train.jsonl'\)"),
        (["data/b.jsonl", "README.md"], "name a file in it, such as data/b.jsonl"),
        ([], "name a JSONL file of chats"),
    ],
)
def test_a_folder_as_data_is_told_with_its_files(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / "d" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / file).touch()
    (tmp_path / "d").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=f"cannot be read: it is a folder: .*{message}"):
        read_chats(tmp_path / "d")


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


_Q, _A = user("Hi"), bob("Yo")
_CHAT = {"messages": [_Q, _A]}
_SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"system": "Be.", **_CHAT}, [system("Be."), _Q, _A]),
        ({"system": "Be.", **_SHAREGPT}, [system("Be."), _Q, _A]),
        (
            {"system_prompt": "Be.", "question": "Hi", "response": "Yo", "id": "flan.1"},
            [system("Be."), _Q, _A],
        ),
        ({"system": "Be.", "prompt": "Hi", "completion": "Yo"}, [system("Be."), _Q, _A]),
        ({"system": "Be.", "messages": [system("Be."), _Q, _A]}, [system("Be."), _Q, _A]),
        ({"system": None, "history": None, "input": None, "instruction": "Hi", "output": "Yo"}, [_Q, _A]),
        ({"system": "", "history": [], "input": "", "instruction": "Hi", "output": "Yo"}, [_Q, _A]),
        ({"tools": "[]", "images": [], "label": None, "rejected": None, **_CHAT}, [_Q, _A]),
        ({"history": [["A", "B"]], "instruction": "Hi", "output": "Yo"}, [user("A"), bob("B"), _Q, _A]),
        (
            {"instruction": "Hi", "context": "Ctx", "response": "Yo", "category": "qa"},
            [user("Hi\n\nCtx"), _A],
        ),
        ({"instruction": "Hi", "input": "In", "output": "Yo", "text": "Hi\n\nIn Yo"}, [user("Hi\n\nIn"), _A]),
        ({"instruction": "", "input": "Hi", "output": "Yo"}, [_Q, _A]),
        ({"instruction": " ", "prompt": None, "query": "Hi", "output": "", "response": "Yo"}, [_Q, _A]),
        (
            {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n", **_CHAT},
            [_Q, _A],
        ),
        ({"text": "<s>[INST] Hi [/INST] Yo</s>", **_CHAT}, [_Q, _A]),
        ({"text": "USER: Hi ASSISTANT: Yo</s>", **_CHAT}, [_Q, _A]),
        ({"text": "**Human**: Hi\n\n**AI**: Yo", **_CHAT}, [_Q, _A]),
        (
            {
                "text": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
                "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>"
                "\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>",
                **_CHAT,
            },
            [_Q, _A],
        ),
        (
            {
                "instruction": "Add.",
                "input": "2, 2",
                "output": "4",
                "text": "Below is an instruction that describes a task, paired with an input that provides "
                "further context. Write a response that appropriately completes the request.\n\n"
                "### Instruction:\nAdd.\n\n### Input:\n2, 2\n\n### Response:\n4",
            },
            [user("Add.\n\n2, 2"), bob("4")],
        ),
        (
            {
                "instruction": "Hi",
                "output": "Yo",
                "text": "Below is an instruction that describes a task. Write a response that appropriately "
                "completes the request.\n\n### Instruction:\nHi\n\n### Response:\nYo",
            },
            [_Q, _A],
        ),
        ({"prompt": "Hi", "prompt_id": "f0", **_CHAT}, [_Q, _A]),
        ({"prompt": [_Q], **_CHAT, "completion": [_A]}, [_Q, _A]),
        ({"conversation": [_Q, _A], "model": "gpt-4", "openai_moderation": [{"flagged": False}]}, [_Q, _A]),
        ({"id": "1", "source": "x", "score": 4.5, "metadata": {"a": "b"}, "views": 7, **_CHAT}, [_Q, _A]),
        (
            {"messages": [{**_Q, "name": None, "weight": 0}, {**_A, "tool_calls": None, "weight": 1}]},
            [_Q, _A],
        ),
        ({"messages": [{**_Q, "train": False}, {**_A, "train": True}], "weight": 1.0}, [_Q, _A]),
        ({"messages": [{"role": "developer", "content": "Be."}, _Q, _A]}, [system("Be."), _Q, _A]),
        ({"messages": [{"role": "User", "content": "Hi"}, {"role": "model", "content": "Yo"}]}, [_Q, _A]),
        ({"input": "Hi", "output": "Yo"}, [_Q, _A]),
    ],
)
def test_what_a_record_says_beside_its_messages_is_read(
    tmp_path: Path, record: Any, messages: list[dict[str, Any]]
) -> None:
    (found,) = read_chats(write(tmp_path, record))
    assert found.messages() == messages


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tools": [{"type": "function"}], **_CHAT}, "'tools' would be lost in training"),
        ({"tools": '[{"name": "f"}]', **_SHAREGPT}, "'tools' would be lost in training"),
        ({"functions": [{"name": "f"}], **_CHAT}, "'functions' would be lost"),
        ({"images": ["a.png"], **_CHAT}, "'images' would be lost"),
        ({"context": "Ctx", **_CHAT}, "'context' would be lost"),
        ({"history": [["A", "B"]], **_CHAT}, "'history' would be lost"),
        ({"history": ["A", "B"], "instruction": "Hi", "output": "Yo"}, "'history' is no list of"),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, **_CHAT},
            "'chat_template_kwargs' would be lost",
        ),
        ({"instruction": "Hi", "input": ["In"], "output": "Yo"}, "'input' would be lost"),
        ({"prompt": [_Q], "context": "Ctx", "completion": [_A]}, "'context' would be lost"),
        ({"thinking": "Hm.", "prompt": "Hi", "completion": "Yo"}, "'thinking' would be lost"),
        ({"persona": "A pirate.", **_CHAT}, "'persona' would be lost"),
        (
            {"question": "2+2", "answer": "4", "rationale": "2+2 is 4 because..."},
            "'rationale' would be lost",
        ),
        ({"instruction": "a", "output": "yes", "notes": "a yes!"}, "'notes' would be lost"),
        ({"instruction": "a", "output": "yes", "notes": "yes a"}, "'notes' would be lost"),
        ({"text": "User: Hi\nThought: Hm.\nAssistant: Yo", **_CHAT}, "'text' would be lost"),
        (
            {"text": "<|im_start|>system\nBe.<|im_end|>user\nHi assistant\nYo", **_CHAT},
            "'text' would be lost",
        ),
        ({"instruction": "Hi", "output": "Yo", "hint": "Say Hi: Yo"}, "'hint' would be lost"),
        ({"instruction": "Other", **_CHAT}, "'instruction' would be lost"),
        ({"weight": 0.5, **_CHAT}, "'weight' would be lost"),
        ({"messages": [_Q, {**_A, "weight": 0}]}, "message 2: 'weight' would be lost"),
        (
            {"messages": [_Q, {**_A, "reasoning_content": "Hm."}]},
            "message 2: 'reasoning_content' would be lost",
        ),
        ({"messages": [_Q, {**_A, "from": "gpt"}]}, "message 2: 'from' would be lost"),
        ({"system": "A", "messages": [system("B"), _Q, _A]}, "'system' and the first message are two system"),
        ({"prompt": "Hi", "chosen": "Yo", "rejected": "No"}, "'chosen' makes this preference data"),
        ({"chosen": [_Q, _A], "rejected": [_Q, bob("No")], **_CHAT}, "'chosen' makes this preference data"),
        ({"prompt": "Hi", "completion": "Yo", "label": False}, "'label' makes this preference data"),
        ({"kto_tag": True, **_CHAT}, "'kto_tag' makes this preference data"),
        ({"reward": 0.1, **_CHAT}, "'reward' makes this preference data"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path, record)
    with pytest.raises(InputError) as caught:
        read_chats(path)
    assert str(caught.value).startswith(f"{path}, line 1")
    assert message in str(caught.value)


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"system": "A", "system": "B", "instruction": "Hi", "output": "Yo"}')
    with pytest.raises(InputError, match="line 1: the key 'system' is there twice: keep one"):
        read_chats(path)


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
