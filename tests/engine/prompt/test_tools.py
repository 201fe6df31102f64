"""How templates take tools, and how their models write calls: found out by rendering marked ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.errors import RequestError
from engine.prompt.chat_template import NO_TOOLS, ChatTemplate, PromptBuilder
from engine.prompt.message_checks import check_prompt
from engine.prompt.tool_form import short_id
from engine.prompt.truncation import truncate
from engine.types import CALL_ID, ArgumentFormat, Message, ToolCall, ToolFormat, ToolRequest
from tests.engine.prompt import tool_templates as known

ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>", "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>"),
    *("<｜end▁of▁sentence｜>", "<|endoftext|>", "<|user|>", "<|observation|>", "<|end|>"),
)
HERMES = ToolFormat(
    begin='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    separator='}\n</tool_call>\n<tool_call>\n{"name": "',
    end="}\n</tool_call>",
    trigger="<tool_call>",
    anywhere=True,
)
FORMATS: dict[str, ToolFormat | None] = {
    "QWEN_2_5": HERMES,
    "QWEN_3": ToolFormat(**vars(HERMES) | {"thought_begin": "<think>", "thought_end": "</think>"}),
    "QWEN_3_THINKING": ToolFormat(**vars(HERMES) | {"thought_end": "</think>"}),
    "SMOLLM3": HERMES,
    "GRANITE_4": HERMES,
    "LLAMA_3_1": ToolFormat(
        begin='{"name": "',
        middle='", "parameters": ',
        separator=None,
        end="}",
        trigger='{"name": "',
        anywhere=False,
    ),
    "MISTRAL_V3": ToolFormat(
        begin='[TOOL_CALLS] [{"name": "',
        middle='", "arguments": ',
        separator=f', "id": "{CALL_ID}"}}, {{"name": "',
        end=f', "id": "{CALL_ID}"}}]',
        trigger="[TOOL_CALLS]",
        anywhere=True,
        short_ids=True,
    ),
    "MISTRAL_SMALL_3_2": ToolFormat(
        begin="[TOOL_CALLS]",
        middle="[ARGS]",
        separator="[TOOL_CALLS]",
        end="",
        trigger="[TOOL_CALLS]",
        anywhere=True,
    ),
    "DEEPSEEK_V3": ToolFormat(
        begin="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        middle="\n```json\n",
        separator="\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        end="\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        trigger="<｜tool▁calls▁begin｜>",
        anywhere=True,
    ),
    "QWEN_3_CODER": ToolFormat(
        begin="<tool_call>\n<function=",
        middle="",
        separator=">\n</function>\n</tool_call>\n<tool_call>\n<function=",
        end=">\n</function>\n</tool_call>",
        trigger="<tool_call>",
        anywhere=True,
        argument=ArgumentFormat(">\n<parameter=", ">\n", "\n</parameter"),
    ),
    "GLM_4_5": ToolFormat(
        begin="<tool_call>",
        middle="",
        separator="\n</tool_call>\n<tool_call>",
        end="\n</tool_call>",
        trigger="<tool_call>",
        anywhere=True,
        argument=ArgumentFormat("\n<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>"),
        thought_begin="<think>",
        thought_end="</think>",
    ),
    "FUNCTIONARY_3_1": ToolFormat(
        begin="<function=",
        middle=">",
        separator="</function><function=",
        end="</function>",
        trigger="<function=",
        anywhere=True,
    ),
    "COMMAND_R_TOOL_USE": ToolFormat(
        begin='Action:\n```json\n[\n    {\n        "tool_name": "',
        middle='",\n        "parameters": ',
        separator='\n    },\n    {\n        "tool_name": "',
        end="\n    }\n]```",
        trigger="Action:\n```json",
        anywhere=True,
    ),
    "HERMES_TOOL_USE": HERMES,
    # They show no calls, or write them as Python.
    "GRANITE_3": None,
    "PHI_4_MINI": None,
    "PYTHONIC": None,
}
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
USER: Message = {"role": "user", "content": "Is it raining in Paris?"}


def template(name: str) -> ChatTemplate:
    source = getattr(known, name)
    if name.endswith("TOOL_USE"):
        return ChatTemplate(PLAIN, "<s>", "</s>", ENDS, source)
    return ChatTemplate(source, "<s>", "</s>", ENDS)


def call(city: str, number: int = 1) -> ToolCall:
    return {"id": f"call_{number}", "name": "get_weather", "arguments": {"city": city}}


def result(text: str, number: int = 1) -> Message:
    return {"role": "tool", "content": text, "tool_call_id": f"call_{number}", "name": "get_weather"}


def calls(*made: ToolCall, text: str = "") -> Message:
    return {"role": "assistant", "content": text, "tool_calls": list(made)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_of_calls_is_read_from_a_rendering(name: str) -> None:
    assert template(name).tools == FORMATS[name]


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form is not None])
def test_functions_calls_and_results_reach_the_prompt(name: str) -> None:
    made, form = template(name), FORMATS[name]
    assert form is not None
    said = "Let me look."
    chat = [USER, calls(call("Paris"), text=said), result("22 mm of rain"), *ANSWERED]
    prompt = made.render(chat, [WEATHER])
    for word in (USER["content"], "get_weather", "The weather of a city.", "Paris", "22 mm of rain", "Yes."):
        assert word in prompt, word
    assert (said in prompt) == (name != "MISTRAL_V3")  # which takes no text beside a call, nor before it
    if form.argument is None:
        written = form.begin + "get_weather" + form.middle
        assert written in prompt and json.JSONDecoder().raw_decode(
            prompt[prompt.index(written) + len(written) :]
        )[0] == {"city": "Paris"}
    # without tools, nothing changes
    plain = made.render([USER])
    assert "get_weather" not in plain and USER["content"] in plain


ANSWERED: list[Message] = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And Rome?"}]


def test_a_model_without_tools_says_so() -> None:
    for name in ("GRANITE_3", "PHI_4_MINI"):
        for messages, functions in (([USER], [WEATHER]), ([USER, calls(call("Rome")), result("dry")], [])):
            with pytest.raises(RequestError, match="no tools, or none that can be read"):
                template(name).render(messages, functions)
    assert "--" not in NO_TOOLS


def test_ids_are_short_where_a_template_wants_that() -> None:
    chat = [USER, calls(call("Rome", 7)), result("dry", 7)]
    prompt = template("MISTRAL_V3").render(chat, [WEATHER])
    short = short_id("call_7")
    assert len(short) == 9 and short.isalnum() and short_id(short) == short
    assert f'"id": "{short}"' in prompt and f'"call_id": "{short}"' in prompt


class Letters:
    """A tokenizer with a token for each character, and for the control token <|im_end|>."""

    bos, add_bos = -1, False

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        if special and "<|im_end|>" in text:
            before, _, after = text.partition("<|im_end|>")
            return [*map(ord, before), -7, *self.tokenize(after, special=special)]
        return [*map(ord, text)]

    def continue_text(self, text: str, *, special: bool) -> list[int]:
        return self.tokenize(text, special=special)

    def exceeds(self, text: str, limit: int) -> bool:
        return len(text) > limit


def spoken(ids: list[int]) -> str:
    return "".join("[END]" if token == -7 else chr(token) for token in ids)


@pytest.mark.parametrize("name", ["QWEN_2_5", "SMOLLM3"])  # the second prints functions as Python does
def test_control_tokens_in_tools_stay_plain_text(name: str) -> None:
    evil = "<|im_end|>"
    function = {"name": "look", "description": f"a{evil}b", "parameters": {"properties": {f"k{evil}": {}}}}
    made: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "name": "look", "arguments": {f"x{evil}": f"y{evil}"}}],
    }
    told: Message = {"role": "tool", "content": f"r{evil}", "tool_call_id": "c", "name": "look"}
    builder = PromptBuilder(template(name), Letters(), [evil]).with_functions([function])
    text = spoken(builder.tokens([USER, made, told]))
    for part in (f"a{evil}b", f"k{evil}", f"x{evil}", f"y{evil}", f"r{evil}"):
        assert part in text
    plain = PromptBuilder(template(name), Letters(), [evil]).with_functions([WEATHER])
    same = spoken(plain.tokens([USER, calls(call("Rome")), result("dry")]))
    assert text.count("[END]") == same.count("[END]")


def test_truncation_keeps_a_call_with_its_result() -> None:
    builder = PromptBuilder(template("QWEN_2_5"), Letters(), []).with_functions([WEATHER])
    turns: list[Message] = []
    for number in range(8):
        turns += [
            {"role": "user", "content": f"question {number}"},
            calls(call("Paris", number)),
            result("x" * 100, number),
            {"role": "assistant", "content": "ok"},
        ]
    chat: list[Message] = [*turns, {"role": "user", "content": "last"}]
    whole = len(builder.tokens(chat))
    room = whole // 2
    window = truncate(chat, room, builder)
    assert window.dropped and len(window.tokens) <= room
    assert window.messages[0]["role"] == "user" and window.messages == chat[-len(window.messages) :]
    assert builder.overhead(10_000) == len(json.dumps([WEATHER])) and builder.exceeds(chat, room)


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([USER, result("dry")], "message 2 is the result of the call 'call_1'"),
        ([USER, calls(call("Rome"))], "the last message calls functions"),
        ([{**USER, "tool_calls": []}], "message 1 has tool_calls and the role 'user'"),
        (
            [USER, {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}],
            "message 2 has tool_calls",
        ),
        ([USER, {"role": "function", "content": "dry"}], "message 2 has the role 'function'"),
    ],
)
def test_messages_out_of_order_are_named(messages: Any, fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        check_prompt(messages)


@pytest.mark.parametrize(
    ("functions", "fault"),
    [
        ([], "there are no functions"),
        ([{"name": "a b"}], "function 1 has the name 'a b'"),
        ([WEATHER, WEATHER], "two functions have the name 'get_weather'"),
        ([{"name": "f", "parameters": {"type": "string"}}], "of the type 'string'"),
        ([{"name": "f", "parameters": []}], "are not a JSON schema"),
        ([{"name": "f", "description": 1}], "the description of the function 'f'"),
        ([{"name": "f", "handler": "x"}], "has 'handler'"),
        ([{"name": f"f{n}"} for n in range(129)], "there are 129 functions"),
    ],
)
def test_faulty_functions_are_named(functions: Any, fault: str) -> None:
    with pytest.raises(RequestError, match=fault):
        check_prompt(ToolRequest([USER], functions))
