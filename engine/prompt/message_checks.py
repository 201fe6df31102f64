"""What a prompt must be: a text, or messages of known roles whose results belong to calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from engine.errors import RequestError
from engine.types import Message, PromptInput, Role, TextToEmbed, TextToRead, TextToScore, ToolRequest

_MAX_MESSAGES = 1 << 15  # of a conversation: truncation measures each of them
_MAX_FUNCTIONS = 128  # as in OpenAI's API
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FUNCTION_KEYS = frozenset(("name", "description", "parameters", "strict"))


def check_prompt(prompt: PromptInput) -> None:
    """Raise RequestError unless the prompt is a text with something in it, or messages in order."""
    if isinstance(prompt, TextToRead):
        _check_read(prompt)
    elif isinstance(prompt, ToolRequest):
        check_functions(prompt.functions)
        if prompt.only and all(prompt.only != function["name"] for function in prompt.functions):
            raise RequestError(f"there is no function {prompt.only!r} to be called: send it with the others")
        check_messages(prompt.messages)
    elif not isinstance(prompt, str):
        check_messages(prompt)
    elif not prompt:
        raise RequestError("the prompt is empty: send some text to be continued")


def _check_read(prompt: TextToRead) -> None:
    if isinstance(prompt, TextToEmbed):
        if not prompt.text.strip():
            raise RequestError("a text is empty: send some text to embed")
    elif isinstance(prompt, TextToScore):
        if not prompt.prompt:
            raise RequestError("the prompt is empty: send some text, or its token ids")
    else:
        check_messages(prompt.messages)
        if len(prompt.messages) < 2 or prompt.messages[-1]["role"] != "assistant":
            raise RequestError("there is no answer to score: send a conversation that ends with one")


def check_functions(functions: Sequence[Any]) -> None:
    """Raise RequestError unless each function has a name of its own, and a schema if any."""
    if not functions:
        raise RequestError("there are no functions: send at least one, or a conversation without tools")
    if len(functions) > _MAX_FUNCTIONS:
        raise RequestError(f"there are {len(functions)} functions: {_MAX_FUNCTIONS} are the most")
    names = set()
    for number, function in enumerate(functions, 1):
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(
                f"function {number} has the name {name!r}: use 1 to 64 letters, digits, _, . and -"
            )
        if name in names:
            raise RequestError(f"two functions have the name {name!r}: give each its own")
        names.add(name)
        if others := function.keys() - FUNCTION_KEYS:
            raise RequestError(
                f"the function {name!r} has {min(others)!r}, which is not served: leave it out"
            )
        if not isinstance(function.get("description", ""), str):
            raise RequestError(f"the description of the function {name!r} is not a text")
        _check_parameters(name, function.get("parameters", {}))


def _check_parameters(name: str, parameters: object) -> None:
    if not isinstance(parameters, dict):
        raise RequestError(f"the parameters of the function {name!r} are not a JSON schema: send an object")
    if parameters.get("type", "object") != "object":
        raise RequestError(
            f"the parameters of the function {name!r} are of the type {parameters['type']!r}: use object, "
            "with each argument as a property"
        )


def check_messages(messages: Sequence[Message]) -> None:
    """Raise RequestError unless there are messages, not too many, each with a known role and a text."""
    if not messages:
        raise RequestError("there are no messages: send at least one from the user")
    if len(messages) > _MAX_MESSAGES:
        raise RequestError(
            f"the conversation has {len(messages)} messages: {_MAX_MESSAGES} are the most; start a new chat"
        )
    called: set[str] = set()
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in get_args(Role):
            raise RequestError(f"message {number} has the role {role!r}: use system, user, assistant or tool")
        if not isinstance(content, str):
            raise RequestError(
                f"message {number} has no text: `content` is {type(content).__name__}, not a string"
            )
        if (calls := message.get("tool_calls")) is not None:
            _check_calls(number, message["role"], calls)
            called |= {call["id"] for call in calls}
        if role == "tool" and message.get("tool_call_id") not in called:
            raise RequestError(
                f"message {number} is the result of the call {message.get('tool_call_id')!r}, which no "
                "message before it makes: send the assistant's message with its tool_calls, too"
            )
    if messages[-1].get("tool_calls"):
        raise RequestError("the last message calls functions: send their results, with the role tool")


def _check_calls(number: int, role: Role, calls: object) -> None:
    if role != "assistant":
        raise RequestError(f"message {number} has tool_calls and the role {role!r}: only the assistant calls")
    for call in calls if isinstance(calls, list) else [None]:
        kinds = {"id": str, "name": str, "arguments": dict}
        if not isinstance(call, dict) or not all(isinstance(call.get(k), kinds[k]) for k in kinds):
            raise RequestError(
                f"message {number} has tool_calls that are not a list of objects with id, name and arguments"
            )
