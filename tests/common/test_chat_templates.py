from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as llama

from common.chat_templates import OWN_NAMES, builtin_names, expand_name, read_template, template_names
from common.errors import InputError
from engine.prompt.jinja_environment import environment

S, U, A = "system", "user", "assistant"
TEXT = {S: " Be brief.\n", U: "\t Who are\n\nyou? ", A: " A program.\n ", "tool": " 4 ", "function": "f"}
CONVERSATIONS = [
    [U],
    [S, U],
    [U, A, U],
    [S, U, A, U, A, U],
    [S, U, A],
    [U, A, U, A],
    [S, S, U],
    [S, U, A, S, U],
    [U, S, A, S],
    [A, U],
    [U, U, A, A, U],
    [S],
    [U, A, "tool", A],
    [U, "function", "assistant_tool_call", U],
]


def _llama_cpp(name: str, messages: list[tuple[str, str]], *, prompt: bool) -> str:
    pairs = [(role.encode(), content.encode()) for role, content in messages]
    chat = (llama.llama_chat_message * len(pairs))(*(llama.llama_chat_message(*pair) for pair in pairs))
    buffer = ctypes.create_string_buffer(1 << 16)
    size = llama.llama_chat_apply_template(name.encode(), chat, len(pairs), prompt, buffer, len(buffer))
    assert 0 <= size < len(buffer)
    return buffer.raw[:size].decode()


def test_the_names_are_llama_cpps() -> None:
    count = llama.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    llama.llama_chat_builtin_templates(names, count)
    assert builtin_names() == tuple(sorted(name.decode() for name in names if name))


@pytest.mark.parametrize("name", builtin_names())
def test_each_template_renders_the_same_bytes_as_llama_cpp(name: str) -> None:
    template = environment().from_string(expand_name(name))
    for roles in CONVERSATIONS:
        # A no-break space is no white space for llama.cpp, and one for Jinja's `trim`.
        for extra in ("", "\u00a0", "\v\f\r", "<|im_end|>{{ 1 }}'\"\\n é 日本"):
            chat = [(role, extra + TEXT.get(role, role) + str(n) + extra) for n, role in enumerate(roles)]
            messages = [{"role": role, "content": content} for role, content in chat]
            for prompt in (True, False):
                mine = template.render(messages=messages, add_generation_prompt=prompt)
                assert mine == _llama_cpp(name, chat, prompt=prompt), roles


ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


def alpaca(*messages: tuple[str, str], prompt: bool) -> str:
    chat = [{"role": role, "content": content} for role, content in messages]
    template = environment().from_string(expand_name("alpaca"))
    return template.render(messages=chat, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")


def test_alpaca_is_the_one_template_that_llama_cpp_does_not_have() -> None:
    assert sorted({*template_names()} - {*builtin_names()}) == list(OWN_NAMES) == ["alpaca"]
    given = read_template("alpaca")
    assert (given.origin, given.is_named) == ("GGUF Chat's own 'alpaca'", True)


def test_alpaca_renders_the_known_prompt_and_ends_answers_with_the_eos() -> None:
    asked = f"{ALPACA}\n\n### Instruction:\nWho are you?\n\n### Response:\n"
    assert alpaca((U, " Who are you?\n"), prompt=True) == asked
    answered = alpaca((U, "Who are you?"), (A, " A program. "), prompt=False)
    assert answered == f"{asked}A program.</s>\n\n"
    again = alpaca((U, "Who are you?"), (A, "A program."), (U, "Really?"), prompt=True)
    assert again == f"{answered}### Instruction:\nReally?\n\n### Response:\n"
    # A system message says what the instruction is about, in place of Alpaca's own sentences.
    briefly = alpaca((S, "Be brief."), (U, "Hi"), prompt=True)
    assert briefly == "Be brief.\n\n### Instruction:\nHi\n\n### Response:\n"
    late = alpaca((U, "Hi"), (S, "Be brief."), prompt=False)
    assert late == f"{ALPACA}\n\n### Instruction:\nHi\n\n### Instruction:\nBe brief.\n\n"


def test_an_existing_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_template("chatml").origin == "llama.cpp's built-in 'chatml'"
    Path("chatml").write_text("mine {{ messages }}")
    given = read_template("chatml")
    assert (given.source, given.origin) == ("mine {{ messages }}", "the file chatml")
    Path("named.jinja").write_text("zephyr\n")
    named = read_template("named.jinja")
    assert (named.source, named.origin) == (expand_name("zephyr"), "the file named.jinja")
    assert named.is_named
    assert not given.is_named


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "chatml, command-r"),
        (b"", "is empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"llama5", "chatml, command-r"),
    ],
)
def test_a_value_that_is_no_template_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        read_template(str(path))
    assert "\n" not in str(refused.value)


def test_a_pipe_and_standard_input_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for option in (str(pipe), "/dev/null"):
        with pytest.raises(InputError, match=f"^--template '{option}' is a pipe or a device: store the"):
            read_template(option)
    with pytest.raises(InputError, match=r"^--template - would be standard input, which is not read"):
        read_template("-")


@pytest.mark.parametrize("length", [1, 5000])
def test_jinja_itself_and_impossible_names_are_refused_in_one_line(length: int) -> None:
    with pytest.raises(InputError, match=r"is Jinja itself: store the template in a file$"):
        read_template("{{ messages }}" * length)
    for option in ("lama" * length, "a\0b" * length):
        with pytest.raises(InputError, match=r"neither an existing file nor one of the known names"):
            read_template(option)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"did you mean .*\bchatml\b.*\? All: alpaca, "):
        read_template("chatlm")


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_template(str(tmp_path))


def test_text_with_jinja_is_no_name() -> None:
    for source in ("{{messages}}", "{%-if%}", "two words", ""):
        assert expand_name(source) == source
    with pytest.raises(InputError, match="'ChatML' is neither"):
        expand_name("ChatML")
