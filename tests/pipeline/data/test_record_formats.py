"""Records in the common forms, and keys that would be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, system, user, write

_Q, _A = user("Hi"), bob("Yo")
_CHAT = {"messages": [_Q, _A]}
_SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}


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
