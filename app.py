"""The entry of the Space and of the laptop: settings -> chat backend -> web app -> serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from engine.settings import EngineSettings
from ui.options import DEFAULTS, MIB, ContextSize, KvCacheType, Model, Speculation, Threads, run_cli

ON_A_SPACE = "SPACE_ID" in os.environ  # Hugging Face sets it; its proxy reaches 0.0.0.0 alone

# Set before gradio is imported: nothing is sent anywhere, and a closed tab is noticed soon.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    *,
    model: Model = None,
    host: Annotated[
        str, typer.Option(envvar="GGUF_CHAT_HOST", help="0.0.0.0 lets other machines in.")
    ] = "0.0.0.0" if ON_A_SPACE else "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="GGUF_CHAT_PORT", min=0, max=65535, help="0 takes any free one.")
    ] = 7860,
    context: ContextSize = DEFAULTS.context,
    slots: Annotated[
        int, typer.Option(envvar="GGUF_CHAT_SLOTS", help="Answers that are written at the same time.")
    ] = DEFAULTS.slots,
    queue: Annotated[
        int, typer.Option(envvar="GGUF_CHAT_QUEUE", help="How many may wait for a slot; others are told so.")
    ] = DEFAULTS.queue,
    threads: Threads = DEFAULTS.threads,
    kv_type: KvCacheType = DEFAULTS.kv_type,
    cache_ram: Annotated[
        int,
        typer.Option(
            envvar="GGUF_CHAT_CACHE_RAM",
            min=0,
            help="MiB for conversations that lost their slot, so that they need not be read again; 0 is off.",
        ),
    ] = DEFAULTS.cache_ram // MIB,
    speculation: Speculation = DEFAULTS.speculation,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="GGUF_CHAT_MAX_PROMPT_TOKENS",
            help="A longer conversation loses its oldest turns. Default: what the context leaves.",
        ),
    ] = DEFAULTS.max_prompt_tokens,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="GGUF_CHAT_MAX_NEW_TOKENS",
            help="Where any answer is cut, whatever its reader asks for. Default: no limit.",
        ),
    ] = DEFAULTS.max_new_tokens,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="GGUF_CHAT_MAX_SECONDS",
            help="How long one answer may take, without its time in the queue. Default: no limit.",
        ),
    ] = DEFAULTS.max_seconds,
) -> None:
    """Chat with a GGUF model in the browser, on this machine's CPU."""
    from engine.errors import EngineError  # --help answers at once
    from ui.address import ServeError

    try:
        settings = EngineSettings(
            context=context,
            slots=slots,
            queue=queue,
            threads=threads,
            kv_type=kv_type,
            cache_ram=cache_ram * MIB,
            speculation=speculation,
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            max_seconds=max_seconds,
        )
        run(model, host, port, settings)
    except (EngineError, ServeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def run(model: Path | None, host: str, port: int, settings: EngineSettings) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises an EngineError or a ServeError when it cannot start."""
    from ui.address import address_of, bind, is_local
    from ui.catalog import make_catalog
    from ui.gguf_choice import choose_gguf
    from ui.models import models_of

    path = choose_gguf(model)
    bound = bind(host, port)
    typer.echo(f"Loading {path.name} ...")
    from engine.opening import Opener  # slow, and of no use before all else is right

    models = models_of(make_catalog(path, ()), Opener(settings))
    try:
        models.pool.load()
        from ui.server import serve, web_app

        app = web_app(models, concurrency=2 * (settings.slots + settings.queue), local=is_local(bound))
        serve(app, bound, ready=lambda: typer.echo(f"Ready: {address_of(bound)}   (Ctrl-C ends it)"))
    finally:
        models.pool.close()
        bound.close()


if __name__ == "__main__":
    run_cli(cli)
