"""The entry of the Space and of the laptop: settings -> chat backend -> web app -> serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ON_A_SPACE = "SPACE_ID" in os.environ  # Hugging Face sets it; its proxy reaches 0.0.0.0 alone

# Set before gradio is imported: nothing is sent anywhere, and a closed tab is noticed soon.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    *,
    model: Annotated[
        Path | None,
        typer.Argument(
            envvar="GGUF_CHAT_MODEL",
            help="A .gguf file, its folder, or owner/name/file.gguf on the Hub. Default: the embedded model.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="GGUF_CHAT_HOST", help="0.0.0.0 lets other machines in.")
    ] = "0.0.0.0" if ON_A_SPACE else "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="GGUF_CHAT_PORT", min=0, max=65535, help="0 takes any free one.")
    ] = 7860,
    context: Annotated[
        int, typer.Option(envvar="GGUF_CHAT_CONTEXT", help="Tokens that one conversation may hold.")
    ] = 4096,
    slots: Annotated[
        int, typer.Option(envvar="GGUF_CHAT_SLOTS", help="Answers that are written at the same time.")
    ] = 4,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="GGUF_CHAT_THREADS", help="CPU threads. Default: the cores that are really yours."
        ),
    ] = None,
) -> None:
    """Chat with a GGUF model in the browser, on this machine's CPU."""
    from engine.errors import EngineError  # --help answers at once
    from ui.address import ServeError

    try:
        run(model=model, host=host, port=port, context=context, slots=slots, threads=threads)
    except (EngineError, ServeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def run(*, model: Path | None, host: str, port: int, context: int, slots: int, threads: int | None) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises an EngineError or a ServeError when it cannot start."""
    from engine.settings import EngineSettings
    from ui.address import address_of, bind
    from ui.gguf_choice import choose_gguf

    settings = EngineSettings(context=context, slots=slots, threads=threads)
    path = choose_gguf(model)
    bound = bind(host, port)
    typer.echo(f"Loading {path.name} ...")
    from engine.local import LocalBackend  # slow, and of no use before all else is right

    backend = LocalBackend.open(path, settings)
    try:
        from ui.server import serve, web_app

        app = web_app(backend, concurrency=2 * (settings.slots + settings.queue))
        serve(app, bound, ready=lambda: typer.echo(f"Ready: {address_of(bound)}   (Ctrl-C ends it)"))
    finally:
        backend.close()
        bound.close()


if __name__ == "__main__":
    cli()
