"""Starts the web application: settings -> model pool -> web app -> serve."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ui.cli import fail, read_settings

if TYPE_CHECKING:  # --help answers at once
    from engine.serving.protocols import ChatBackend
    from ui.auth.access import Access
    from ui.settings import AppSettings

MODELS = (
    Path(__file__).resolve().parents[2] / "models"
)  # whose files the page offers, unless others are named

# Set before gradio is imported: nothing is sent anywhere, and a closed tab is noticed soon.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Gradio asks matplotlib for this in its first event; to find one out would stop the server for half a second.
os.environ.setdefault("MPLBACKEND", "agg")


def main(arguments: Sequence[str] | None = None, prog_name: str | None = None) -> None:
    """Serve with the settings of the arguments (default: sys.argv) and the environment.

    Exits with code 2 when it cannot.
    """
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, prog_name)
    from engine.errors import EngineError
    from ui.cli import ServeError
    from ui.conversations.store import StoreError

    try:
        run(settings)
    except (EngineError, ServeError, StoreError) as error:
        fail(str(error))


def run(settings: AppSettings) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises EngineError, ServeError or StoreError when it cannot start."""
    from ui.cli import address_of, bind, is_local
    from ui.conversations.store import Store
    from ui.models.catalog import make_catalog, started_with
    from ui.models.registry import models_of
    from ui.settings import history_file, storage_note

    engine = settings.engine()
    first = started_with(settings.model)
    here = (str(MODELS),) if MODELS.is_dir() else ()  # a Space may have none
    catalog = make_catalog(first, settings.models or here)
    bound = bind(settings.host, settings.port)
    kept = history_file(settings.history)
    store = Store(kept)
    print(f"{storage_note(kept)}\nLoading {first.label} ...", flush=True)
    from engine.serving.backend import ModelLoader

    opener = ModelLoader(engine)
    info = replace(opener.describe(Path(first.source)), adapter=str(first.adapter or ""))
    models = models_of(catalog, opener, settings.max_loaded, first=info)
    try:
        loading = models.pool.preload()  # meanwhile, the page is made
        gc.disable()  # what is imported and built stays: looking for garbage in it is a third of the time
        from ui.server.app import create_app, serve

        app = create_app(
            models,
            concurrency=2 * (engine.slots + engine.queue),
            local=is_local(bound),
            access=_access(settings),
            hosts=settings.known_as,
            store=store,
        )
        gc.freeze()
        gc.enable()
        serve(app, bound, lambda: _say_so(loading, address_of(bound)), model=loading)
    finally:
        models.pool.close()
        store.close()
        bound.close()


def _say_so(loading: Future[ChatBackend], address: str) -> None:
    """Say that the page is there, and that the model is; whoever asks it something before waits."""

    def loaded(model: Future[ChatBackend]) -> None:
        if model.exception() is None:
            print(f"Ready: {address}   (Ctrl-C ends it)", flush=True)

    if not loading.done():
        print(f"The page is there, the model still loads: {address}", flush=True)
    loading.add_done_callback(loaded)


def _access(settings: AppSettings) -> Access:
    from ui.auth.access import Access

    return Access(
        settings.logins,
        settings.api_key.get_secret_value(),
        requests_per_minute=settings.requests_per_minute,
        answers_at_once=settings.answers_at_once,
    )
