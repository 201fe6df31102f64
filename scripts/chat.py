"""Chat with a GGUF in the terminal: python scripts/chat.py MODEL.gguf; one answer with --prompt-file FILE."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

# `python scripts/chat.py` puts scripts/ on the path; the rooms (engine, ui) are one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import EngineError
from engine.settings import EngineSettings, SamplingSettings
from ui.gguf_choice import choose_gguf
from ui.options import DEFAULTS as ENGINE
from ui.options import ContextSize, KvCacheType, Model, Speculation, Threads, run_cli
from ui.terminal import TerminalChat, read_prompt, run_loop, run_once

DEFAULTS = SamplingSettings()
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    *,
    model: Model = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(help="Answer this file's text ('-': stdin) and leave; the answer alone on stdout."),
    ] = None,
    system: Annotated[str, typer.Option(help="The system prompt.")] = "",
    temperature: Annotated[float, typer.Option(help="0 always says the likeliest.")] = DEFAULTS.temperature,
    max_tokens: Annotated[int, typer.Option(help="Where an answer is cut.")] = DEFAULTS.max_tokens,
    repeat_penalty: Annotated[
        float, typer.Option(help="Above 1, words already said count less.")
    ] = DEFAULTS.repeat_penalty,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest words up to this share.")] = DEFAULTS.top_p,
    top_k: Annotated[
        int, typer.Option(help="Keep this many of the likeliest; 0 keeps all.")
    ] = DEFAULTS.top_k,
    min_p: Annotated[
        float, typer.Option(help="Drop words below this share of the likeliest.")
    ] = DEFAULTS.min_p,
    seed: Annotated[int | None, typer.Option(help="The same number repeats an answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends an answer; may be repeated.")] = None,
    context: ContextSize = ENGINE.context,
    threads: Threads = ENGINE.threads,
    kv_type: KvCacheType = ENGINE.kv_type,
    speculation: Speculation = ENGINE.speculation,
) -> None:
    """Chat with a GGUF model in the terminal, on this machine's CPU."""
    try:
        sampling = SamplingSettings(
            temperature, max_tokens, repeat_penalty, top_p, top_k, min_p, seed, tuple(stop or ())
        )
        prompt = None if prompt_file is None else read_prompt(prompt_file, sys.stdin.read)
        settings = EngineSettings(
            context=context, slots=1, threads=threads, kv_type=kv_type, speculation=speculation
        )
        code = run(model, settings, sampling, system, prompt)
    except EngineError as error:
        typer.echo(f"error: {error}", err=True)
        code = 2
    raise typer.Exit(code)


def run(
    model: Path | None, settings: EngineSettings, sampling: SamplingSettings, system: str, prompt: str | None
) -> int:
    """Open the model, talk (or answer `prompt`), close it; returns the exit code."""
    from engine.local import LocalBackend  # llama.cpp loads after the options are checked

    backend = LocalBackend.open(choose_gguf(model), settings)
    try:
        chat = TerminalChat(backend, sampling, system)
        if prompt is not None:
            return run_once(chat, prompt)
        run_loop(chat)
        return 0
    finally:
        backend.close()


if __name__ == "__main__":
    run_cli(cli)
