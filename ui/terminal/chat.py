"""The chat in a terminal: streaming answers, Ctrl-C to stop one, and commands that begin with `/`.

Never imports gradio, which would slow the start down. Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table

from common.chat_templates import OPTION
from common.files import read_input
from common.paths import expanded
from common.terminal import printable, printable_logs, say_error
from engine.config import SAMPLING_FIELDS, EngineConfig, KvType, SamplingField, SamplingParams
from engine.errors import EngineError, SettingsError
from engine.serving.protocols import ChatBackend, ChatStream
from engine.types import Message
from ui.generation.streaming import Progress
from ui.i18n.words import (
    CONTEXT_HELP,
    ENGLISH,
    KV_TYPE_HELP,
    MODEL_HELP,
    SPECULATION_HELP,
    TEMPLATE_HELP,
    THREADS_HELP,
)
from ui.models.files import short_name
from ui.models.weights_hash import WeightsHashes
from ui.render.messages import conversation
from ui.render.status import explain, facts_text, outcome_text
from ui.sampling import FIELDS, sampling_from
from ui.terminal.lines import line_editor, read_message

HELP = """\
/system TEXT      set the system prompt (alone: show it; "off": none)
/set NAME VALUE   change a setting, such as: /set temperature 0.2   (alone: show them)
/retry            ask the last question again, for another answer
/undo             forget the last question and its answer
/save FILE        write the conversation: FILE.jsonl to train with, any other name as Markdown
/reset            forget the conversation, keep the settings
/help             this
/exit             leave (Ctrl-D too); Ctrl-C stops an answer
A line that ends with \\ goes on in the next; \"\"\" begins and ends a text of several lines.
"""


HASH_SECONDS = 10.0
"""How long a one-shot run waits for the hash of its model's files; the cache keeps it for the next run."""


@dataclass
class TerminalChat:
    """A conversation with a backend, and the settings that its commands change."""

    backend: ChatBackend
    sampling: SamplingParams
    system_prompt: str = ""
    history: list[Message] = field(default_factory=list)
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))
    hashes: WeightsHashes = field(default_factory=WeightsHashes)
    _warned: bool = False

    def ask(self, question: str) -> Progress:
        """Stream an answer to stdout; Ctrl-C stops it and keeps its text in the conversation."""
        asked: list[Message] = [*self.history, {"role": "user", "content": question}]
        progress = self.stream(self.backend.stream(conversation(asked, self.system_prompt), self.sampling))
        self.write("\n")
        if progress.text:
            self.history = [*asked, {"role": "assistant", "content": progress.text}]
        return progress

    def stream(self, stream: ChatStream) -> Progress:
        """Print an answer as it grows; Ctrl-C stops it."""
        progress, events = Progress(max_tokens=self.sampling.max_tokens), iter(stream)
        while not progress.done:
            try:
                before = len(progress.text)
                progress.update(next(events))
                self.write(progress.text[before:])
            except KeyboardInterrupt:
                stream.cancel()
                events = iter(stream)  # the interrupted iterator has ended; the last event is still to come
            except EngineError as error:
                progress.error = error
        return progress

    def write(self, text: str, style: str | None = None) -> None:
        """Write a piece of a text to stdout; `style` is seen only in a terminal."""
        shown = Segment(_shown(text, self.out), Style.parse(style) if style else None)
        self.out.print(Segments([shown]), end="", soft_wrap=True)  # a plain text would lose its tabs
        self.out.file.flush()

    def report(self, progress: Progress) -> None:
        """Print an answer's statistics or error to stderr."""
        if progress.error is not None:
            self.print_error(explain(progress.error))
        else:
            self.print_note(outcome_text(progress))
        self.warn()

    def warn(self) -> None:
        """Print once what is wrong with the model's files."""
        change = self.hashes.change_of(self.backend)
        if change is not None and not self._warned:
            self._warned = True
            self.print_error(f"warning: {change.text()}")

    def print_error(self, text: str) -> None:
        """Print an error to stderr."""
        self.err.print(_shown(text, self.err), style="bold red", highlight=False, markup=False)

    def print_note(self, text: str) -> None:
        """Print a remark to stderr."""
        self.err.print(_shown(text, self.err), style="dim", highlight=False, markup=False)

    def command(self, text: str) -> bool:
        """Run a command line that begins with `/`; return False to leave the chat."""
        name, _, rest = text[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "system": self._system,
            "set": self._set,
            "retry": self._retry,
            "undo": self._undo,
            "save": self._save,
            "reset": self._reset,
            "help": self._help,
        }
        if name in ("exit", "quit"):
            return False
        if name in commands:
            commands[name](rest.strip())
        else:
            self.print_error(f"/{name} is not a command: /help lists them")
        return True

    def _system(self, text: str) -> None:
        if text:
            self.system_prompt = "" if text == "off" else text
        self.print_note(f"System prompt: {self.system_prompt or '(none)'}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            return self._show_settings()
        try:
            self.sampling = changed(self.sampling, name, value.strip())
        except SettingsError as error:
            return self.print_error(f"{error}.")
        return self.print_note(f"{name} = {getattr(self.sampling, name)}")

    def _show_settings(self) -> None:
        table = Table(box=None, show_header=False)
        for name in FIELDS:
            value = getattr(self.sampling, name)
            table.add_row(name, "random" if value is None else f"{value:g}", ENGLISH(f"settings.{name}.info"))
        self.err.print(table)

    def _last_question(self) -> int | None:
        """Return the place of the last question in the history; None and a line if there is none."""
        asked = [place for place, message in enumerate(self.history) if message["role"] == "user"]
        if not asked:
            self.print_error("no question was asked yet")
        return asked[-1] if asked else None

    def _retry(self, _: str) -> None:
        if (place := self._last_question()) is not None:
            before, question = self.history, self.history[place]["content"]
            self.history = self.history[:place]
            answer(self, question)
            if len(self.history) == place:  # no answer came: the earlier one stays
                self.history = before

    def _undo(self, _: str) -> None:
        if (place := self._last_question()) is not None:
            self.history = self.history[:place]
            left = sum(message["role"] == "user" for message in self.history)
            self.print_note(f"The last question and its answer are forgotten; questions before it: {left}.")

    def _save(self, name: str) -> None:
        if not name:
            return self.print_error("/save needs a file, such as: /save chat.md")
        said = conversation(self.history, self.system_prompt)
        path = expanded(name)
        try:
            content = as_text(said, path.suffix).encode("utf-8", "replace")
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return self.print_error(f"{name!r} exists: name a new file")
        except OSError as error:
            return self.print_error(
                f"{name!r} cannot be written ({error.strerror or error}): name another file"
            )
        return self.print_note(f"Saved {len(said)} messages to {name}.")

    def _reset(self, _: str) -> None:
        self.history = []
        self.print_note("The conversation is forgotten.")

    def _help(self, _: str) -> None:
        self.err.print(HELP, highlight=False, markup=False, end="")


def as_text(messages: Sequence[Message], suffix: str) -> str:
    """Return a conversation as a line of a data set for the suffix .jsonl, else as Markdown."""
    if suffix.lower() in (".jsonl", ".json"):
        return json.dumps({"messages": list(messages)}, ensure_ascii=False) + "\n"
    return "\n\n".join(f"**{m['role']}**\n\n{m['content']}" for m in messages) + "\n"


def changed(sampling: SamplingParams, name: str, value: str) -> SamplingParams:
    """Return `sampling` with a parameter parsed from text; an empty seed is random. Raises SettingsError."""
    if name not in FIELDS:
        raise SettingsError(f"{name!r} is no setting: use one of {', '.join(FIELDS)}")
    if not value and name != "seed":
        raise SettingsError(f"{name} needs a value, such as: /set {name} {getattr(sampling, name)}")
    values = asdict(sampling) | {name: value}
    return replace(sampling_from(values), stop=sampling.stop)


def run_once(chat: TerminalChat, prompt: str) -> int:
    """Answer one prompt: the answer to stdout, its statistics to stderr. Return the exit code."""
    if not prompt.strip():
        chat.print_error("the prompt is empty: give --prompt some text, or --prompt-file a file with some")
        return 2
    chat.hashes.of(chat.backend)
    progress = chat.ask(prompt.strip())
    chat.hashes.wait(chat.backend, HASH_SECONDS)
    chat.report(progress)
    return 1 if progress.error is not None else 0


def run_loop(chat: TerminalChat, read: Callable[[], str] | None = None) -> None:
    """Chat until the user leaves. `read` returns a line; EOFError leaves, KeyboardInterrupt asks again."""
    read = read or partial(read_message, line_editor("you › "))
    chat.hashes.of(chat.backend)
    info = chat.backend.info
    chat.print_note(f"{short_name(info)} ({facts_text(info)}). /help lists the commands.")
    while True:
        try:
            line = read().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if line.startswith("/"):
            if not chat.command(line):
                return
        elif line:
            answer(chat, line)


def answer(chat: TerminalChat, question: str) -> None:
    """Answer one question of the loop; an error of the engine is printed, and the chat continues."""
    try:
        chat.report(chat.ask(question))
    except EngineError as error:
        chat.print_error(explain(error))


def read_prompt(path: Path, stdin: Callable[[], str]) -> str:
    """Read a prompt file, or stdin for `-`. Raises SettingsError."""
    if str(path) == "-":
        return stdin()
    try:
        return read_input(path).decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"prompt file {str(path)!r} cannot be read ({error}): give a UTF-8 text file"
        ) from error


def _shown(text: str, console: Console) -> str:
    """Return what a terminal may show of a text; a pipe gets the text unchanged."""
    return printable(text) if console.is_terminal else text


DEFAULTS = EngineConfig()
running = partial(typer.Option, rich_help_panel="Running")
Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        envvar="GGUF_CHAT_MODEL",
        help=MODEL_HELP,
    ),
]
ContextSize = Annotated[
    int,
    running(
        "--context",
        "--ctx",
        metavar="N",
        envvar=["GGUF_CHAT_CONTEXT", "GGUF_CHAT_CTX"],
        help=CONTEXT_HELP,
    ),
]
ChatTemplateOption = Annotated[
    str | None,
    running(
        OPTION,
        metavar="FILE|NAME",
        envvar=["GGUF_CHAT_TEMPLATE", "GGUF_CHAT_CHAT_TEMPLATE"],
        help=TEMPLATE_HELP,
    ),
]
Threads = Annotated[
    int | None,
    running(metavar="N", envvar="GGUF_CHAT_THREADS", help=THREADS_HELP),
]
KvCacheType = Annotated[
    KvType,
    running(
        metavar="TYPE",
        envvar="GGUF_CHAT_KV_TYPE",
        help=KV_TYPE_HELP,
    ),
]
Speculation = Annotated[
    bool,
    running(
        envvar="GGUF_CHAT_SPECULATION",
        help=SPECULATION_HELP,
    ),
]


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the command's `**sampling` by an option for each sampling parameter, in place.

    Its default is None where the model's file may recommend a value.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            parameters += [_sampling_option(row) for row in SAMPLING_FIELDS]
        else:
            parameters.append(parameter)
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
    return command


def _sampling_option(row: SamplingField) -> inspect.Parameter:
    default = None if row.gguf_key else row.default
    shown = f"the model's own, else {row.default:g}" if row.gguf_key else True
    names = [f"--{row.name.replace('_', '-')}", *(["-n"] if row.name == "max_tokens" else [])]
    option = typer.Option(*names, metavar="N", help=row.help, show_default=shown, rich_help_panel="Answers")
    return inspect.Parameter(
        row.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[row.type if default is not None else row.type | None, option],
    )


def run_cli(
    cli: typer.Typer, arguments: Sequence[str] | None = None, prog_name: str | None = None
) -> NoReturn:
    """Run the command and exit; invalid options are one line on stderr and exit code 2."""
    printable_logs()
    try:
        code = cli(arguments, prog_name=prog_name, standalone_mode=False)
    except typer.TyperException as error:  # typer itself would draw a box of six lines
        said = " ".join(error.format_message().split())
        hint = ": put a question behind --prompt" if said.startswith("Got unexpected extra argument") else ""
        say_error(f"{said}{hint}")
        sys.exit(error.exit_code)
    sys.exit(code)
