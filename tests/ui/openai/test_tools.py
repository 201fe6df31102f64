"""Tools of /v1 over a fake backend: what requests become, and how calls are sent."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from engine.types import ToolRequest
from tests.engine.prompt.test_tools import FORMATS
from tests.ui.fake_backend import INFO, FakeBackend
from tests.ui.openai.test_openai_api import HELLO, URL, chunks, post, service

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": {**WEATHER, "strict": True}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris or Rome"}}\n</tool_call>'


def backend(answer: str, form: str = "QWEN_2_5") -> FakeBackend:
    return FakeBackend(answer, info=replace(INFO, tools=FORMATS[form]))


def asked(**body: Any) -> Any:
    fake = backend("Hello there")
    reply = post(fake, **body)
    assert reply.status_code == 200, reply.text
    return fake.prompts[-1]


def test_a_call_in_an_answer() -> None:
    reply = post(backend(CALL), tools=TOOLS).json()
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None and choice["message"]["role"] == "assistant"
    assert call["type"] == "function" and call["id"].startswith("call_") and len(call["id"]) == 29
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris or Rome"}'}


def test_a_stream_of_a_text_and_two_calls_equals_the_whole() -> None:
    answer = f"I look. {CALL}\n{CALL.replace('Paris', 'Lyon')}"
    whole = post(backend(answer), tools=TOOLS).json()["choices"][0]
    parts = chunks(post(backend(answer), tools=TOOLS, stream=True).text)
    assert parts.pop() == "[DONE]"
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["message"]["content"] == "I look."
    calls: dict[int, dict[str, Any]] = {}
    for (made,) in (delta["tool_calls"] for delta in deltas if "tool_calls" in delta):
        if "id" in made:
            assert made["type"] == "function" and made["index"] == len(calls)
            calls[made["index"]] = {"id": made["id"], **made["function"]}
        else:
            assert made.keys() == {"index", "function"}
            calls[made["index"]]["arguments"] += made["function"]["arguments"]
    assert [c["arguments"] for c in calls.values()] == [
        '{"city": "Paris or Rome"}',
        '{"city": "Lyon or Rome"}',
    ]
    assert [c["function"]["arguments"] for c in whole["message"]["tool_calls"]] == [
        c["arguments"] for c in calls.values()
    ]
    assert len({c["id"] for c in calls.values()}) == 2
    assert parts[-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "tool_calls"


def test_an_answer_without_a_call_is_as_ever() -> None:
    (choice,) = post(backend("It rains. <tool"), tools=TOOLS).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "It rains. <tool", "refusal": None}
    assert choice["finish_reason"] == "stop"
    (choice,) = post(backend(CALL), tools=TOOLS, tool_choice="none").json()["choices"]
    assert choice["message"]["content"] == CALL and choice["finish_reason"] == "stop"


def test_a_call_that_is_cut_has_the_reason_length() -> None:
    (choice,) = post(backend(CALL), tools=TOOLS, max_tokens=4).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":'


def test_ids_are_short_where_the_template_wants_that() -> None:
    answer = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Rome"}, "id": "abcdefghi"}]'
    (call,) = post(backend(answer, "MISTRAL_V3"), tools=TOOLS).json()["choices"][0]["message"]["tool_calls"]
    assert len(call["id"]) == 9 and call["id"].isalnum()


def test_what_a_request_asks_for() -> None:
    prompt = asked(tools=TOOLS)
    assert prompt == ToolRequest(HELLO, [WEATHER], "auto", True, "")
    assert asked(tools=TOOLS, tool_choice="required", parallel_tool_calls=False) == replace(
        prompt, choice="required", parallel=False
    )
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert asked(tools=TOOLS, tool_choice=named) == replace(prompt, choice="required", only="get_weather")
    for nothing in (
        {"tools": []},
        {"tools": None, "tool_choice": None},
        {"tools": TOOLS, "tool_choice": "none"},
        {"functions": [], "function_call": "auto"},
        {"parallel_tool_calls": True},
    ):
        assert asked(**nothing) == HELLO


def test_null_is_absent_in_a_tool() -> None:
    nulls = {"cache_control": None}
    tool = {"type": "function", "function": {**WEATHER, **nulls, "strict": None}, **nulls}
    assert asked(tools=[tool]).functions == [WEATHER]
    assert asked(tools=[{**tool, "type": None}]).functions == [WEATHER]


def test_arguments_may_have_many_levels() -> None:
    text = '{"a":' * 100 + "1" + "}" * 100
    result = {"role": "tool", "content": "1", "tool_call_id": "call_0"}
    (made,) = asked(messages=[*calling(name="f", arguments=text)["messages"], result])[-2]["tool_calls"]
    assert json.dumps(made["arguments"], separators=(",", ":")) == text


def test_langchains_requests() -> None:
    """ChatOpenAI.bind_tools: `tool_choice="any"` becomes required, a name becomes a function."""
    schema = {
        "type": "function",
        "function": {
            "name": "Multiply",
            "description": "Multiply two integers.",
            "parameters": {
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
                "type": "object",
            },
        },
    }
    history = [
        {"content": "What is 3 * 12?", "role": "user"},
        {
            "content": None,
            "role": "assistant",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "call_1",
                    "function": {"name": "Multiply", "arguments": '{"a": 3, "b": 12}'},
                }
            ],
        },
        {"content": "36", "role": "tool", "tool_call_id": "call_1"},
    ]
    prompt = asked(
        messages=history, tools=[schema], tool_choice="required", stream=False, temperature=0.0, n=1
    )
    assert prompt.messages == [
        {"role": "user", "content": "What is 3 * 12?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "name": "Multiply", "arguments": {"a": 3, "b": 12}}],
        },
        {"role": "tool", "content": "36", "tool_call_id": "call_1", "name": "Multiply"},
    ]
    assert prompt.functions == [schema["function"]] and prompt.choice == "required"
    assert asked(messages=history) == prompt.messages


def test_results_without_an_id_belong_to_the_calls_in_order() -> None:
    made = [{"function": {"name": f"f{n}", "arguments": {"n": n}}} for n in range(2)]
    results = [{"role": "tool", "content": [{"type": "text", "text": str(n)}]} for n in range(2)]
    messages = asked(messages=[*HELLO, {"role": "assistant", "tool_calls": made}, *results])
    assert [(m["tool_call_id"], m["name"], m["content"]) for m in messages[2:]] == [
        ("call_0", "f0", "0"),
        ("call_1", "f1", "1"),
    ]


def calling(**function: Any) -> dict[str, Any]:
    return {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"function": function}]}]}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type: 'web_search' is not served here"),
        ({"tools": [*TOOLS, {"type": "custom", "custom": {"name": "x"}}]}, "tools.1.type: 'custom'"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools.0.function is missing"),
        ({"tools": [{"function": {"name": "f", "returns": {}}}]}, "tools.0: returns is not served here"),
        ({"tools": {"name": "f"}}, "tools: send a list"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice: 'maybe'"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice: send"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": TOOLS, "parallel_tool_calls": "yes"}, "parallel_tool_calls: send true or false"),
        ({"functions": [WEATHER]}, "functions is the older form of tools.*use tools and tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call is the older form of tools"),
        ({"messages": [*HELLO, {"role": "function", "name": "f", "content": "1"}]}, "the role function"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
            "function_call.*send tool_calls",
        ),
        (calling(name="f", arguments="{"), "tool_calls.0.function.arguments: send a JSON object"),
        (calling(name="f", arguments="[1]"), "tool_calls.0.function.arguments: send a JSON object"),
        *(
            (calling(name="f", arguments=text), "tool_calls.0.function.arguments are nested too deeply: 100")
            for text in ("[" * 100_000, '{"a":' * 101 + "1" + "}" * 101, '{"a":' * 400 + "1" + "}" * 400)
        ),
        (calling(arguments="{}"), "tool_calls.0.function.name is missing"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"type": "custom"}]}]}, "only calls of"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": "x"}]}, "tool_calls"),
    ],
)
def test_what_is_not_served_is_named(body: dict[str, Any], fault: str) -> None:
    reply = TestClient(service(backend("x"))).post(URL, json={"messages": HELLO, **body})
    assert reply.status_code == 400
    assert re.search(fault, reply.json()["error"]["message"]), reply.text


def test_a_model_without_tools_is_asked_and_refuses() -> None:
    reply = post(FakeBackend("x"), tools=TOOLS)
    assert reply.status_code == 400 and "has no tools" in reply.json()["error"]["message"]
    assert json.loads(reply.text)["error"]["type"] == "invalid_request_error"
