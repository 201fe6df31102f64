"""The protocol: each message survives its line, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import fields

import pytest

from engine import errors
from engine.config import EngineConfig, SamplingParams
from engine.core.stats import EngineStats
from engine.errors import EngineError, EngineStopped, QueueFull
from engine.process import messages as m
from engine.types import (
    AnswerToScore,
    ArgumentFormat,
    Finished,
    Message,
    MessagesDropped,
    ModelInfo,
    PrefillProgress,
    Queued,
    RequestStats,
    TextDelta,
    ToolFormat,
    ToolRequest,
)

TOOLS = ToolFormat("<a>\0", "", None, "", "<a>", True, ArgumentFormat("<", "=", ">"), thought_end="</t>")
INFO = ModelInfo("n", "/p", "llama", "Q4_K_M", 10, 20, 512, "zen4", 2, {"temperature": 0.5}, "/a", TOOLS)
STATS = RequestStats(1, 0, 3, 0.5, 0.25, 0.125)
MESSAGES = [
    m.Open("/model.gguf", EngineConfig(threads=2, kv_type="q8_0")),
    m.Attach(3, "/adapter.gguf"),
    m.Detach(3),
    m.Ask(
        7,
        0,
        [{"role": "user", "content": 'é ÿ \u2028\n"\\ 😀'}],
        SamplingParams(temperature=0, stop=("a", "\n"), seed=5, json_schema={"type": "object"}),
    ),
    m.Cancel(7),
    m.Ping(),
    m.Described(INFO),
    m.Progress(0, 0.25),
    m.Opened(0, INFO),
    m.Refused(2, m.Failure("ModelError", "line")),
    m.Accepted(7),
    m.Events(
        7,
        [
            MessagesDropped(2, 30),
            Queued(1),
            PrefillProgress(1, 2, 0),
            TextDelta("ÿ\n"),
            Finished("stop", STATS),
        ],
    ),
    m.Failed(7, m.Failure("QueueFull", "line")),
    m.Pong({0: EngineStats(requests=3, slots=2)}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_line(message: m.Command | m.Reply) -> None:
    line = m.encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    kinds = m.COMMANDS if type(message).__name__ in m.COMMANDS else m.REPLIES
    assert m.decode(line, kinds) == message  # type: ignore[arg-type]


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(message).__name__ for message in MESSAGES} == m.COMMANDS.keys() | m.REPLIES.keys()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"Exec":{}}\n',
        b'{"Accepted":{}}\n',
        b'{"Accepted":{"request":"x"}}\n',
        b'{"Accepted":{"request":1},"Pong":{}}\n',
        b'{"Events":{"request":1,"events":[{"delta":1}]}}\n',
        b'{"Ask":{"request":1}}\n',  # a command is no reply
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(m.ProtocolError, match="is no message"):
        m.decode(line, m.REPLIES)


def test_an_error_keeps_its_class_and_an_unknown_one_stops_the_answer() -> None:
    assert type(m.Failure.of(QueueFull("full")).error()) is QueueFull
    for name in ("SystemExit", "TooSlow", "annotations", ""):
        assert type(m.Failure(name, "line").error()) is EngineStopped
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EngineError)
    }
    for kind in kinds:
        assert type(m.Failure.of(kind("line")).error()) is kind


def test_settings_cross_with_all_their_fields() -> None:
    values = {field.name: getattr(EngineConfig(), field.name) for field in fields(EngineConfig)}
    sent = m.decode(m.encode(m.Open("p", EngineConfig(**values))), m.COMMANDS)
    assert isinstance(sent, m.Open) and sent.settings == EngineConfig()


def test_an_answer_to_score_arrives_as_it_was_sent() -> None:
    said: list[Message] = [
        {"role": "user", "content": "a\ud800b"},
        {"role": "assistant", "content": "c\udfff"},
    ]
    prompt = m.sendable(AnswerToScore(said, 3))
    back = m.decode(m.encode(m.Ask(1, 0, prompt, SamplingParams())), m.COMMANDS)
    assert isinstance(back, m.Ask) and back.prompt == prompt
    assert prompt == AnswerToScore([said[0] | {"content": "a?b"}, said[1] | {"content": "c?"}], 3)


def test_a_prompt_with_tools_arrives_as_it_was_sent() -> None:
    asked = ToolRequest(
        [
            {"role": "user", "content": "a\ud800b"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "name": "f", "arguments": {"x\udfff": [1, None]}}],
            },
            {"role": "tool", "content": "1", "tool_call_id": "c", "name": "f"},
        ],
        [{"name": "f", "parameters": {"properties": {"x": {"type": ["string", "null"]}}}}],
        "required",
        False,
        "f",
    )
    prompt = m.sendable(asked)
    back = m.decode(m.encode(m.Ask(1, 0, prompt, SamplingParams())), m.COMMANDS)
    assert isinstance(back, m.Ask) and back.prompt == prompt and isinstance(prompt, ToolRequest)
    assert prompt.messages[0]["content"] == "a?b" and prompt.functions == asked.functions
    assert prompt.messages[1]["tool_calls"] == [{"id": "c", "name": "f", "arguments": {"x?": [1, None]}}]
