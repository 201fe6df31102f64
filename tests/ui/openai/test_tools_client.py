"""OpenAI's own client with tools, against the real app with a template that has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from tests.engine.prompt.tool_templates import QWEN_2_5
from tests.ui.app_process import running

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "Weather.", "parameters": PARAMETERS}}
    for name in ("get_weather", "get_wind")
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder: Path = tmp_path_factory.mktemp("tools")
    (folder / "tools.jinja").write_text(QWEN_2_5)
    options = (
        "--template",
        str(folder / "tools.jinja"),
        "--models",
        str(folder),
        "--context",
        "2048",
        "--deterministic",
    )
    with (
        running("--port", "0", *options) as app,
        openai.OpenAI(base_url=f"{app.address()}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def test_a_required_call_is_made_streamed_and_answered(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "",
        "messages": QUESTION,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 120,
    }
    (choice,) = client.chat.completions.create(**asked).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.function.name in ("get_weather", "get_wind")
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    streamed = ""
    with client.chat.completions.create(**asked, stream=True) as chunks:
        for chunk in chunks:
            for part in chunk.choices[0].delta.tool_calls or []:
                assert part.function is not None
                streamed += part.function.arguments or ""
    assert streamed == call.function.arguments
    named = {"type": "function", "function": {"name": "get_wind"}}
    (forced,) = client.chat.completions.create(**{**asked, "tool_choice": named}).choices
    assert forced.message.tool_calls is not None
    assert [c.function.name for c in forced.message.tool_calls if c.type == "function"] == ["get_wind"]
    told: Any = [
        *QUESTION,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "22 mm of rain"},
    ]
    answer = client.chat.completions.create(
        **{**asked, "messages": told, "tool_choice": "auto", "max_tokens": 30}
    )
    assert answer.usage is not None and answer.usage.prompt_tokens > 300
    plain = client.chat.completions.create(**{**asked, "tools": [], "tool_choice": "none", "max_tokens": 8})
    assert plain.choices[0].message.content and plain.choices[0].message.tool_calls is None


def test_what_does_not_go_is_said(client: openai.OpenAI) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"contains": {}}}}}
    with pytest.raises(openai.BadRequestError, match=r"the function 'f'.*contains"):
        client.chat.completions.create(
            model="", messages=QUESTION, tools=[{"type": "function", "function": function}]
        )
    with pytest.raises(openai.BadRequestError, match="a grammar and tools do not go together"):
        client.chat.completions.create(
            model="", messages=QUESTION, tools=TOOLS, extra_body={"grammar": 'root ::= "x"'}
        )
