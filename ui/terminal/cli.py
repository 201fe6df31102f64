"""The command `chat` (scripts/chat.py): a conversation in the terminal, or one answer with --prompt TEXT."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from common.chat_templates import read_template
from common.errors import InputError
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

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
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
        Path | None, typer.Option(metavar="FILE", help="The same with a file's text; '-' is stdin.")
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
        settings = EngineConfig(
            context=context,
            slots=1,
            threads=threads,
            kv_type=kv_type,
            speculation=speculation,
            chat_template=read_template(chat_template).source if chat_template is not None else "",
        )
        code = run(model, settings, given, system, question)
    except (EngineError, InputError) as error:
        say_error(str(error))
        code = 2
    raise typer.Exit(code)


def prompt_of(text: str | None, file: Path | None) -> str | None:
    """What is to be answered once; None for a conversation. Raises SettingsError."""
    if text is not None and file is not None:
        raise SettingsError("--prompt and --prompt-file cannot go together: give one of them")
    return text if file is None else read_prompt(file, sys.stdin.read)


def run(
    model: Path | None, settings: EngineConfig, given: Mapping[str, Any], system: str, prompt: str | None
) -> int:
    """Open the model, talk (or answer `prompt`), close it; returns the exit code.

    `given` is what was chosen of SamplingParams; the model's own recommendations come next.
    """
    from engine.serving.backend import ModelLoader

    named = default_entry(model)
    if named.reason is not None:
        say(named.loading, sys.stderr)
    backend = ModelLoader(settings)(Path(named.source), named.adapter)
    try:
        chat = TerminalChat(backend, sampling_over(backend.info.recommended, given), system)
        if prompt is not None:
            return run_once(chat, prompt)
        run_loop(chat)
        return 0
    finally:
        backend.close()


def main_chat(arguments: Sequence[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run the command on `arguments` (default: sys.argv). Exits with code 2 if an option is wrong."""
    run_cli(cli, arguments, prog_name)
