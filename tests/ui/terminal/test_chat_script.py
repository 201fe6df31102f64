"""scripts/chat.py: one-shot runs in a process with the real model; the loop with a fake backend."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from engine.config import EngineConfig, SamplingParams
from engine.errors import EngineStopped, QueueFull
from engine.serving.backend import LlamaBackend
from engine.types import Event, TextDelta
from tests.ui.app_process import ROOT
from tests.ui.fake_backend import INFO, FakeBackend, FakeStream
from ui.terminal import cli as chat
from ui.terminal.chat import ContextSize, TerminalChat, run_loop, run_once

pytestmark = pytest.mark.slow


def chat_script(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/chat.py", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def terminal(backend: FakeBackend) -> TerminalChat:
    out, err = Console(file=io.StringIO(), width=100), Console(file=io.StringIO(), width=100)
    return TerminalChat(backend, SamplingParams(), out=out, err=err)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines(*typed: str | type[BaseException]) -> Callable[[], str]:
    queue: Iterator[str | type[BaseException]] = iter(typed)

    def read() -> str:
        item = next(queue, EOFError)
        if isinstance(item, str):
            return item
        raise item

    return read


def test_a_one_shot_run_prints_the_answer_alone(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("What is the capital of France?\n", encoding="utf-8")
    options = ("--max-tokens", "12", "--temperature", "0", "--context", "512", "--kv-type", "q8_0")
    result = chat_script("--prompt-file", str(path), *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "tokens/s" not in result.stdout
    assert "12 tokens" in result.stderr
    assert chat_script("--prompt-file", "-", *options, stdin=path.read_text()).stdout == result.stdout


def test_a_prompt_on_the_command_line_pipes_its_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the answer is printed, even when FORCE_COLOR is set without a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    backend = FakeBackend("an [bold]answer[/bold] of 42 words")
    monkeypatch.setattr(LlamaBackend, "open", lambda *_: backend)
    done = CliRunner().invoke(chat.cli, ["-p", "Who are you?"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "an [bold]answer[/bold] of 42 words\n"
    assert [message["content"] for message in backend.asked[0][0]] == ["Who are you?"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.gguf"], "nowhere.gguf"),
        (["--temperature", "9"], "temperature=9.0"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt"),
        (["-p", "hi", "--prompt-file", "-"], "--prompt and --prompt-file"),
        (["a.gguf", "Who are you?"], "Who are you?): put a question behind --prompt"),
        (["--kv-type", "q5_0"], "q8_0"),
        (["--template", "lama3"], "llama2, "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], named: str) -> None:
    result = chat_script(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_a_models_own_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend(info=replace(INFO, recommended={"temperature": 0.6, "top_k": 20}))
    monkeypatch.setattr(LlamaBackend, "open", lambda *_: backend)
    assert chat.run(None, EngineConfig(), {"top_k": 7, "seed": 1}, chat.Talk(prompt="hello")) == 0
    assert backend.asked[0][1] == SamplingParams(temperature=0.6, top_k=7, seed=1)


def test_the_context_goes_by_the_same_names_as_the_pages() -> None:
    cli = typer.Typer()

    @cli.command()
    def main(context: ContextSize = 1) -> None:
        print(context)

    for arguments, variables in (([], {"GGUF_CHAT_CTX": "512"}), (["--ctx", "512"], {})):
        assert CliRunner().invoke(cli, arguments, env=variables).stdout == "512\n"


def test_the_terminal_never_loads_gradio() -> None:
    code = "import sys, ui.terminal; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_conversation_goes_on() -> None:
    backend = FakeBackend("an answer")
    chat = terminal(backend)
    run_loop(chat, lines("hello", KeyboardInterrupt, "", "and?"))
    assert printed(chat.out) == "an answer\nan answer\n"
    assert [m["content"] for m in backend.asked[1][0]] == ["hello", "an answer", "and?"]


def test_commands_change_what_the_engine_is_asked() -> None:
    backend = FakeBackend("an answer")
    chat = terminal(backend)
    typed = [
        "/system Be brief.",
        "/set temperature 0.2",
        "/set",
        "/help",
        "one",
        "/reset",
        "/system off",
        "two",
    ]
    run_loop(chat, lines(*typed, "/exit", "never asked"))
    (first, sampling), (second, _) = backend.asked
    assert [m["content"] for m in first] == ["Be brief.", "one"]
    assert sampling.temperature == 0.2
    assert [m["content"] for m in second] == ["two"]
    assert "/reset" in printed(chat.err)
    assert "temperature" in printed(chat.err)


@pytest.mark.parametrize("typed", ["/dance", "/set temperature 9", "/set nonsense 1"])
def test_a_wrong_command_is_named_and_the_chat_goes_on(typed: str) -> None:
    backend = FakeBackend()
    chat = terminal(backend)
    run_loop(chat, lines(typed, "hello"))
    assert typed.split()[-2 if "9" in typed or "1" in typed else -1].lstrip("/") in printed(chat.err)
    assert len(backend.asked) == 1


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend("one two three four")
    chat = terminal(backend)
    write = chat.write

    def interrupted(text: str) -> None:
        write(text)
        if text == " two":
            raise KeyboardInterrupt

    monkeypatch.setattr(chat, "write", interrupted)
    run_loop(chat, lines("hello", "again", "/exit"))
    assert backend.streams[0].cancelled
    assert [m["content"] for m in backend.asked[1][0]] == ["hello", "one two", "again"]
    assert "Stopped" in printed(chat.err)


def test_ctrl_c_while_the_chat_waits_for_the_next_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt is then raised inside the stream's iterator, and ends it."""
    said_so_far = FakeStream.__iter__

    def interrupted(stream: FakeStream) -> Iterator[Event]:
        for event in said_so_far(stream):
            yield event
            if event == TextDelta(" two"):
                raise KeyboardInterrupt

    monkeypatch.setattr(FakeStream, "__iter__", interrupted)
    backend = FakeBackend("one two three four")
    chat = terminal(backend)
    run_loop(chat, lines("hello", "/exit"))
    assert backend.streams[0].cancelled and chat.history[-1]["content"] == "one two"


def test_errors_are_said_and_the_chat_goes_on() -> None:
    backend = FakeBackend("half", error=EngineStopped("the engine died"))
    chat = terminal(backend)
    backend.refuse = QueueFull("full")
    run_loop(chat, lines("first"))
    backend.refuse = None
    run_loop(chat, lines("second"))
    assert "Too many people" in printed(chat.err)
    assert "the engine died" in printed(chat.err)
    assert printed(chat.out) == "half\n"


def test_a_model_cannot_drive_the_terminal_and_a_pipe_gets_what_it_said() -> None:
    answer = "\x1b]52;c;eA==\x07a\tb \x9b2Jc\r\n"
    for is_terminal, expected in ((True, "]52;c;eA==a\tb 2Jc\n\n"), (False, answer + "\n")):
        chat = terminal(FakeBackend(answer, error=EngineStopped("\x1b]0;title\x07")))
        chat.out, chat.err = (Console(file=io.StringIO(), force_terminal=is_terminal) for _ in range(2))
        run_once(chat, "hello")
        assert printed(chat.out) == expected
        assert ("\x1b]0" in printed(chat.err)) is not is_terminal


def test_a_changed_file_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "bob.gguf"
    file.write_bytes(b"GGUF")
    (tmp_path / "manifest.json").write_text('{"outputs": [{"file": "bob.gguf", "sha256": "00"}]}')
    chat = terminal(FakeBackend(info=replace(INFO, path=str(file))))
    assert run_once(chat, "Hi") == 0
    run_loop(chat, lines("Again"))
    said = " ".join(printed(chat.err).split())
    assert said.count("warning: bob.gguf is not the file that manifest.json describes") == 1


def test_one_shot_exit_codes() -> None:
    assert run_once(terminal(FakeBackend()), "hello") == 0
    assert run_once(terminal(FakeBackend(error=EngineStopped("died"))), "hello") == 1
    assert run_once(terminal(FakeBackend()), " \n") == 2
