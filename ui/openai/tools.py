"""Tools of /v1/chat/completions: functions that the model may call, its calls, and their results.

https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from common.text import nesting
from engine.prompt.call_parser import ArgumentsDelta, CallBegun, CallParser, Piece
from engine.types import Event, Finished, Message, TextDelta, ToolCall, ToolFormat, ToolRequest
from ui.openai.chat_response import ChatResponse

TOOL_FIELDS = frozenset(("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"))
_FUNCTION_KEYS = {"name", "description", "parameters", "strict"}
_CHOICES = ("none", "auto", "required", "any")  # the last one is Mistral's name for required
_MAX_LEVELS = 100  # of arguments; the engine's protocol carries 200
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Tools:
    """The functions that a request offers, none if the model may not call any."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True
    only: str = ""

    def request(self, messages: list[Message]) -> list[Message] | ToolRequest:
        """Return the conversation for the engine."""
        if not self.functions:
            return messages
        return ToolRequest(messages, self.functions, self.choice, self.parallel, self.only)

    def response(self, key: str, tools: ToolFormat) -> ChatResponse:
        """Return the response from the model of `key`, which writes calls in this format."""
        if not self.functions:
            return ChatResponse(key)
        return ToolResponse(key, parser=CallParser(tools, self.functions), short_ids=tools.short_ids)


def read_tools(fields: Mapping[str, Any]) -> Tools:
    """Return the tools that a request's fields (none of them null) ask for.

    Raises ValueError, which names the field.
    """
    for name in ("functions", "function_call"):
        if fields.get(name) not in (None, [], "", "none", "auto"):
            raise ValueError(
                f"{name} is the older form of tools, and not served here: use tools and tool_choice"
            )
    tools, choice = fields.get("tools") or [], fields.get("tool_choice") or "auto"
    if not isinstance(tools, list):
        raise ValueError("tools: send a list of functions")
    functions = [_function(f"tools.{number}", tool) for number, tool in enumerate(tools)]
    only = _named(choice) if isinstance(choice, dict) else ""
    if not only and choice not in _CHOICES:
        raise ValueError(
            f"tool_choice: {choice!r} is not served here: use none, auto, required or a function"
        )
    if choice not in ("auto", "none") and not functions:
        raise ValueError("tool_choice asks for a call, and there are no tools: send some")
    parallel = fields.get("parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        raise ValueError("parallel_tool_calls: send true or false")
    if choice == "none":
        return Tools()
    return Tools(functions, "auto" if choice == "auto" else "required", parallel, only)


def _function(place: str, tool: object) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise ValueError(f"{place}: send an object with the type function")
    if (kind := tool.get("type")) not in (None, "function"):
        raise ValueError(f"{place}.type: {kind!r} is not served here: use function")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise ValueError(f"{place}.function is missing: send the function's name and parameters there")
    given = {name: value for name, value in function.items() if value is not None}
    others = {name for name, value in tool.items() if value is not None} - {"type", "function"}
    if others := others | (given.keys() - _FUNCTION_KEYS):
        raise ValueError(f"{place}: {min(others)} is not served here: leave it out")
    return {name: value for name, value in given.items() if name != "strict"}


def _named(choice: Mapping[str, Any]) -> str:
    """Return the name of the function that must be called."""
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if choice.get("type", "function") != "function" or not isinstance(name, str) or not name:
        raise ValueError('tool_choice: send {"type": "function", "function": {"name": NAME}}, or a text')
    return name


def read_calls(calls: Sequence[Any]) -> list[ToolCall]:
    """Return the calls of an assistant's message. Raises ValueError, which names what is wrong."""
    return [_call(f"tool_calls.{number}", number, call) for number, call in enumerate(calls)]


def _call(place: str, number: int, call: object) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise ValueError(f"{place}: only calls of functions are served here: send their function")
    name, given = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{place}.function.name is missing")
    try:
        arguments = json.loads(given or "{}") if isinstance(given, str | None) else given
        too_deep = nesting(arguments) > _MAX_LEVELS
    except ValueError:
        arguments, too_deep = None, False
    except RecursionError:
        arguments, too_deep = None, True
    if too_deep:
        raise ValueError(
            f"{place}.function.arguments are nested too deeply: {_MAX_LEVELS} levels are the most"
        )
    if not isinstance(arguments, dict):
        raise ValueError(f"{place}.function.arguments: send a JSON object, as text")
    return {"id": str(call.get("id") or f"call_{number}"), "name": name, "arguments": arguments}


def name_results(messages: list[Message]) -> list[Message]:
    """Add to each result the name of its call, and its id where a client sends none."""
    calls: list[ToolCall] = []
    answered = 0
    for message in messages:
        if message.get("tool_calls"):
            calls, answered = message["tool_calls"], 0
        elif message["role"] == "tool":
            if not message["tool_call_id"] and answered < len(calls):
                message["tool_call_id"] = calls[answered]["id"]
            answered += 1
            name = next((c["name"] for c in calls if c["id"] == message["tool_call_id"]), "")
            message["name"] = message["name"] or name
    return messages


@dataclass
class ToolResponse(ChatResponse):
    """The response to a request with tools."""

    parser: CallParser = field(kw_only=True)
    short_ids: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)

    def update(self, event: Event) -> str:
        """Apply an event; return its text."""
        return "".join(delta.get("content", "") for delta in self._deltas(event))

    def chunks(self, event: Event) -> list[dict[str, Any]]:
        """Apply an event; return its chunks."""
        return [self._chunk(delta) for delta in self._deltas(event)]

    def _deltas(self, event: Event) -> list[dict[str, Any]]:
        if isinstance(event, TextDelta):
            return [self._delta(piece) for piece in self.parser.push(event.delta)]
        super().update(event)
        return [self._delta(piece) for piece in self.parser.finish()] if isinstance(event, Finished) else []

    def message(self) -> dict[str, Any]:
        """Return the assistant's message, once the answer has ended."""
        message = super().message()
        if self.calls:
            message |= {"content": self.text or None, "tool_calls": self.calls}
        return message

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, str):
            self.text += piece
            return {"content": piece}
        if isinstance(piece, CallBegun):
            call = {
                "id": self._new_id(),
                "type": "function",
                "function": {"name": piece.name, "arguments": ""},
            }
            self.calls.append({**call, "function": {"name": piece.name, "arguments": ""}})
            return {"tool_calls": [{"index": piece.index, **call}]}
        assert isinstance(piece, ArgumentsDelta)
        self.calls[piece.index]["function"]["arguments"] += piece.delta
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.delta}}]}

    def _new_id(self) -> str:
        length = 9 if self.short_ids else 24
        text = "".join(secrets.choice(_ALPHABET) for _ in range(length))
        return text if self.short_ids else f"call_{text}"

    @property
    def reason(self) -> str:
        """The finish reason, once the answer has ended."""
        reason = super().reason
        return "tool_calls" if self.calls and reason == "stop" else reason
