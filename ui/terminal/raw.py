"""Raw completion in a terminal: a text that the model and the user continue, without a chat template.

It works as llama.cpp's `llama-completion -f FILE -i -r TEXT`: a reverse prompt in the model's text gives the
turn to the user, and what the user types continues the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import USUAL_ANSWER
from engine.errors import EngineError, PromptTooLong
from ggufio import GgufError, read_header
from ui.generation.streaming import Progress
from ui.render.status import explain
from ui.terminal.chat import TerminalChat

PLAIN_TEXT = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""The template of a model that has none, such as a base; --raw renders no chats."""


def has_no_template(model: Path) -> bool:
    """Return whether a GGUF says nothing of how chats are written; False for a file that cannot be read."""
    try:
        return "tokenizer.chat_template" not in read_header(model).metadata
    except GgufError:  # loading it will say what is wrong
        return False


@dataclass
class RawText:
    """The text: `head` is kept when it outgrows the context, `rest` then loses its oldest lines."""

    chat: TerminalChat
    head: str
    reverse_prompts: Sequence[str] = ()
    rest: str = ""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.head + self.rest

    @property
    def waits_for_user(self) -> bool:
        """Whether the text ends with a reverse prompt; spaces after it do not count."""
        return self.text.rstrip(" ").endswith(tuple(self.reverse_prompts))

    def generate(self) -> Progress:
        """Let the model continue the text and print it, up to a reverse prompt. Raises EngineError."""
        stops = (*self.chat.sampling.stop, *self.reverse_prompts)
        tokens = self.chat.sampling.max_tokens or USUAL_ANSWER  # a text has no end of its own
        sampling = replace(self.chat.sampling, stop=stops, max_tokens=tokens)
        while True:
            try:
                stream = self.chat.backend.stream(self.text, sampling)
                break
            except PromptTooLong:
                if not self._drop_lines():
                    raise
        progress = self.chat.stream(stream)
        self.rest += progress.text
        return progress

    def hand_over(self, progress: Progress) -> None:
        """End the model's turn as the text wants it: with the reverse prompt that it has reached.

        When the model ended its answer by itself, the first one is added, on a line of its own.
        """
        added = progress.stop if progress.stop in self.reverse_prompts else ""
        if not added and progress.reason == "stop" and self.reverse_prompts:
            added = self.reverse_prompts[0]
            if not self.text.endswith("\n"):
                added = f"\n{added}"
        self.rest += added
        self.chat.write(added)

    @property
    def gap(self) -> str:
        """The space between the text and what the user types."""
        return "" if self.text.endswith((" ", "\n")) or not self.text else " "

    def add(self, typed: str) -> None:
        """Add what the user typed, as a line; nothing adds nothing."""
        if typed:
            self.rest += f"{self.gap}{typed}\n"

    def _drop_lines(self) -> bool:
        """Drop the older half of the lines after the head; return False when there is nothing to drop."""
        lines = self.rest.splitlines(keepends=True)
        if len(lines) < 2:
            return False
        self.rest = "".join(lines[len(lines) // 2 :])
        self.chat.print_note("The text outgrew its context: its oldest lines are left out.")
        return True


def complete(chat: TerminalChat, prompt: str) -> int:
    """Continue one text: what the model adds to stdout, its statistics to stderr. Return the exit code."""
    progress = RawText(chat, prompt).generate()
    chat.write("\n")
    chat.report(progress)
    return 1 if progress.error is not None else 0


def continue_in_turns(text: RawText, read: Callable[[str], str]) -> None:
    """Print the text and continue it in turns until the user leaves.

    `read` returns what the user types after the text's last line, which it shows again. An empty line gives
    the turn to the model; EOFError and KeyboardInterrupt leave.
    """
    text.chat.write(text.text, style="yellow")
    if not text.waits_for_user:
        _model_turn(text)
    while True:
        try:
            text.add(read(text.text.rpartition("\n")[2] + text.gap))
        except (EOFError, KeyboardInterrupt):
            text.chat.write("\n")
            return
        _model_turn(text)


def _model_turn(text: RawText) -> None:
    """Let the model write; an error of the engine is printed, and the user goes on."""
    try:
        progress = text.generate()
    except EngineError as error:
        text.chat.print_error(explain(error))
        return
    text.hand_over(progress)
    if progress.error is not None:
        text.chat.print_error(explain(progress.error))
    text.chat.warn()
