"""The command `chat` (scripts/chat.py): a conversation in the terminal, or one answer with --prompt TEXT."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from common.chat_templates import current_option, read_template
from common.errors import InputError
from common.paths import cache_note, use_cache_for_libraries
from common.terminal import say, say_error
from engine.config import EngineConfig, sampling_over
from engine.errors import EngineError, SettingsError
from ui.models.catalog import default_entry
from ui.terminal.chat import DEFAULTS as ENGINE
from ui.terminal.chat import (
    ChatTemplateOption,
    ContextSize,
    KvCacheType,
    Model,
    Speculation,
    TerminalChat,
    Threads,
    read_prompt,
    run_cli,
    run_loop,
    run_once,
    with_sampling_options,
)
from ui.terminal.lines import editor_after_text
from ui.terminal.raw import PLAIN_TEXT, RawText, complete, continue_in_turns, has_no_template

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(context_settings={"token_normalize_func": current_option})
@with_sampling_options
def main(
    *,
    model: Model = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="Answer this and leave; the answer alone on stdout."
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file", "-f", metavar="FILE", help="The same with a file's text; '-' is stdin."
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Go on in turns after the prompt.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Continue the prompt's text as it is, without the model's chat template."),
    ] = False,
    reverse_prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--reverse-prompt",
            "-r",
            metavar="TEXT",
            help="With --raw: text that gives the turn to you; may be repeated.",
        ),
    ] = None,
    color: Annotated[
        bool | None,
        typer.Option("--color/--no-color", help="Colours; by default in a terminal.", show_default=False),
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="The system prompt.")] = "",
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Text that ends an answer; may be repeated.", rich_help_panel="Answers"
        ),
    ] = None,
    chat_template: ChatTemplateOption = None,
    context: ContextSize = ENGINE.context,
    threads: Threads = ENGINE.threads,
    kv_type: KvCacheType = ENGINE.kv_type,
    speculation: Speculation = ENGINE.speculation,
    **sampling: Any,
) -> None:
    """Chat with a GGUF model in the terminal, on this machine's CPU."""
    try:
        given = {name: value for name, value in sampling.items() if value is not None}
        given["stop"] = tuple(stop or ())
        sampling_over({}, given)  # report an error before loading a model
        question = prompt_of(prompt, prompt_file)
        talk = Talk(system, question, interactive, raw, tuple(reverse_prompt or ()), color)
        talk.check()
        settings = EngineConfig(
            context=context,
            slots=1,
            threads=threads,
            kv_type=kv_type,
            speculation=speculation,
            chat_template=read_template(chat_template).source if chat_template is not None else "",
        )
        code = run(model, settings, given, talk)
    except (EngineError, InputError) as error:
        say_error(str(error))
        code = 2
    raise typer.Exit(code)


def prompt_of(text: str | None, file: Path | None) -> str | None:
    """What is to be answered once; None for a conversation. Raises SettingsError."""
    if text is not None and file is not None:
        raise SettingsError("--prompt and --prompt-file cannot go together: give one of them")
    if text is not None and not text.strip():
        raise SettingsError("--prompt is empty: give it some text, or leave it out to talk in turns")
    return text if file is None else read_prompt(file, sys.stdin.read)


@dataclass(frozen=True)
class Talk:
    """What to say and how; without a `prompt` it is a conversation."""

    system: str = ""
    prompt: str | None = None
    interactive: bool = False
    raw: bool = False
    reverse_prompts: tuple[str, ...] = ()
    color: bool | None = None

    def check(self) -> None:
        """Raise SettingsError for options that do not go together."""
        if not self.raw and self.reverse_prompts:
            raise SettingsError(
                f"--reverse-prompt {self.reverse_prompts[0]!r} needs --raw: a chat's turns end by themselves"
            )
        if self.raw and self.system:
            raise SettingsError("--system is for a chat, and --raw has none: write it into the prompt's text")
        if self.raw and not (self.prompt or "").removesuffix("\n"):
            raise SettingsError("--raw needs a text to continue: give --prompt or --prompt-file")
        if "" in self.reverse_prompts:
            raise SettingsError("--reverse-prompt needs a text, such as 'User:'")

    def console(self, stderr: bool = False) -> Console:
        """Return a console with colours, without, or as the terminal has them."""
        force = self.color or None
        return Console(stderr=stderr, force_terminal=force, no_color=True if self.color is False else None)

    def run(self, chat: TerminalChat) -> int:
        """Hold the conversation, or answer or continue the prompt; return the exit code."""
        if self.prompt is None:
            run_loop(chat)
            return 0
        if self.raw:
            text = self.prompt.removesuffix("\n")  # of the file's last line, as in llama.cpp
            if not self.interactive:
                return complete(chat, text)
            colored = chat.out.is_terminal and not chat.out.no_color
            continue_in_turns(RawText(chat, text, self.reverse_prompts), editor_after_text(colored))
            return 0
        code = run_once(chat, self.prompt)
        if self.interactive and code == 0:
            run_loop(chat)
        return code


def run(model: Path | None, settings: EngineConfig, given: Mapping[str, Any], talk: Talk) -> int:
    """Open the model, talk, close it; return the exit code.

    `given` is what was chosen of SamplingParams; the model's own recommendations come next.
    """
    from engine.serving.backend import ModelLoader

    if note := cache_note():
        say(note, sys.stderr)
    named = default_entry(model)
    if named.reason is not None:
        say(named.loading, sys.stderr)
    if talk.raw and not settings.chat_template and has_no_template(Path(named.source)):
        settings = replace(settings, chat_template=PLAIN_TEXT)
    backend = ModelLoader(settings)(Path(named.source), named.adapter)
    try:
        sampling = sampling_over(backend.info.recommended, given)
        out, err = talk.console(), talk.console(stderr=True)
        return talk.run(TerminalChat(backend, sampling, talk.system, out=out, err=err))
    finally:
        backend.close()


def main_chat(arguments: Sequence[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run the command on `arguments` (default: sys.argv). Exits with code 2 if an option is wrong."""
    use_cache_for_libraries()
    run_cli(cli, arguments, prog_name)
