"""Raw completion in turns, and messages of several lines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from engine.config import SamplingParams
from engine.errors import EngineError, PromptTooLong, SettingsError
from engine.types import Event, Finished, FinishReason, PromptInput, RequestStats, TextDelta
from tests.ui.fake_backend import FakeBackend, FakeStream
from ui.terminal.chat import TerminalChat, run_loop
from ui.terminal.cli import Talk, prompt_of
from ui.terminal.lines import read_message
from ui.terminal.raw import RawText, complete, continue_in_turns

Turn = tuple[str, FinishReason, str]
STATS = RequestStats(1, 0, 1, 0.0, 0.0, 0.0)


class Writer(FakeBackend):
    """Continues a text by the turns given, each with its reason to end and its stop string."""

    def __init__(self, *turns: Turn, room: int = 1000) -> None:
        super().__init__()
        self._turns, self._room = iter(turns), room

    def stream(self, prompt: PromptInput, sampling: SamplingParams) -> FakeStream:
        assert isinstance(prompt, str)
        if len(prompt) > self._room:
            raise PromptTooLong("the prompt is too long")
        self.continued.append((prompt, sampling))
        text, reason, stop = next(self._turns)
        events: list[Event | EngineError] = [TextDelta(text), Finished(reason, STATS, stop)]
        return FakeStream(events, 0)


def raw(backend: FakeBackend, head: str, *reverse: str) -> RawText:
    out, err = Console(file=io.StringIO(), width=200), Console(file=io.StringIO(), width=200)
    return RawText(TerminalChat(backend, SamplingParams(stop=("END",)), out=out, err=err), head, reverse)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def typing(*lines: str | type[BaseException]) -> tuple[Callable[[str], str], list[str]]:
    """Return a reader of lines, and the beginnings that it was given to show."""
    queue, shown = iter(lines), list[str]()

    def read(last: str) -> str:
        shown.append(last)
        item = next(queue, EOFError)
        if isinstance(item, str):
            return item
        raise item

    return read, shown


def test_the_user_begins_where_the_text_ends_with_a_reverse_prompt() -> None:
    backend = Writer((" Hi.\n", "stop", "User:"), ("\nBob: Bye.", "stop", ""), ("more", "length", ""))
    text = raw(backend, "A talk.\nUser:", "User:")
    read, shown = typing("Hello", "Bye", "", KeyboardInterrupt)
    continue_in_turns(text, read)
    prompts = [prompt for prompt, _ in backend.continued]
    assert prompts[0] == "A talk.\nUser: Hello\n"
    assert prompts[1] == "A talk.\nUser: Hello\n Hi.\nUser: Bye\n"
    # The model ended by itself, so the reverse prompt is added on a line of its own.
    assert prompts[2] == prompts[1] + "\nBob: Bye.\nUser:"
    assert (
        text.text == prompts[2] + "more"
    )  # at its limit of tokens, the turn is the user's as the text stands
    assert shown == ["User: ", "User: ", "User: ", "User:more "]
    assert backend.continued[0][1].stop == ("END", "User:")
    assert said(text.chat.out).startswith("A talk.\nUser: Hi.\nUser:")


def test_the_model_begins_where_it_does_not() -> None:
    backend = Writer(("upon a time.", "stop", ""))
    text = raw(backend, "Once")
    read, shown = typing()
    continue_in_turns(text, read)
    assert [prompt for prompt, _ in backend.continued] == ["Once"] and shown == ["Onceupon a time. "]


def test_what_outgrows_the_context_loses_its_oldest_lines_and_keeps_the_prompt() -> None:
    backend = Writer(*[(f"line {n}\n", "stop", "U:") for n in range(8)], room=50)
    text = raw(backend, "The head.\nU:", "U:")
    continue_in_turns(text, typing(*[f"ask {n}" for n in range(8)])[0])
    assert len(backend.continued) == 8
    for number, (prompt, _) in enumerate(backend.continued):
        assert prompt.startswith("The head.\n") and prompt.endswith(f"ask {number}\n") and len(prompt) <= 50
    assert "oldest lines are left out" in said(text.chat.err)
    with pytest.raises(PromptTooLong):
        raw(Writer(room=3), "too long").generate()


def test_one_completion_is_printed_alone() -> None:
    backend = Writer((" a sea.", "length", ""))
    chat = raw(backend, "").chat
    assert complete(chat, "The sky is") == 0
    assert said(chat.out) == " a sea.\n"


@pytest.mark.parametrize(
    ("talk", "named"),
    [
        (Talk(reverse_prompts=("User:",)), "--reverse-prompt 'User:' needs --raw"),
        (Talk(raw=True), "--raw needs a text"),
        (Talk(raw=True, prompt="\n"), "--raw needs a text"),
        (Talk(raw=True, prompt="x", system="y"), "--system"),
        (Talk(raw=True, prompt="x", reverse_prompts=("",)), "--reverse-prompt needs a text"),
    ],
)
def test_options_that_do_not_go_together_are_named(talk: Talk, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        talk.check()


def test_an_empty_prompt_is_named_before_a_model_is_loaded() -> None:
    with pytest.raises(SettingsError, match="--prompt is empty"):
        prompt_of(" ", None)
    assert prompt_of(None, None) is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "def f():", "    pass", '"""'], "def f():\n    pass"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (["a back\\slash"], "a back\\slash"),
    ],
)
def test_a_message_has_several_lines(typed: list[str], message: str) -> None:
    lines, more = iter(typed), list[bool]()

    def read_line(begun: bool) -> str:
        more.append(begun)
        return next(lines)

    assert read_message(read_line) == message
    assert more == [False, *[True] * (len(typed) - 1)]


def chat_with(backend: FakeBackend, *typed: str) -> TerminalChat:
    lines: Iterator[str] = iter(typed)
    chat = raw(backend, "").chat
    run_loop(chat, lambda: next(lines))
    return chat


def test_a_question_is_asked_again_or_forgotten() -> None:
    backend = FakeBackend("an answer")
    chat = chat_with(backend, "one", "two", "/retry", "/undo", "/undo", "/undo", "three", "/exit")
    asked = [[m["content"] for m in messages] for messages, _ in backend.asked]
    assert asked[1] == asked[2] == ["one", "an answer", "two"]
    assert asked[3] == ["three"]
    assert "no question was asked yet" in said(chat.err)
    backend = FakeBackend("an answer")
    backend_history = chat_with(backend, "one", "/exit")
    backend.refuse = EngineError("no")
    backend_history.command("/retry")
    assert [m["content"] for m in backend_history.history] == ["one", "an answer"]  # nothing is lost


def test_a_conversation_is_saved_to_train_with_or_to_read(tmp_path: Path) -> None:
    data, page = tmp_path / "chat.jsonl", tmp_path / "chat.md"
    saves = [f"/save {data}", f"/save {page}", f"/save {data}", f"/save {tmp_path}/no/where", "/save"]
    chat = chat_with(FakeBackend("an answer"), "/system Be brief.", "one", *saves, "/exit")
    (line,) = data.read_text(encoding="utf-8").splitlines()
    roles = [(message["role"], message["content"]) for message in json.loads(line)["messages"]]
    assert roles == [("system", "Be brief."), ("user", "one"), ("assistant", "an answer")]
    assert page.read_text(encoding="utf-8").count("**user**\n\none\n") == 1
    for text in ("Saved 3 messages", "exists: name a new file", "cannot be written", "/save needs a file"):
        assert text in said(chat.err)
