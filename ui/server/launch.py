"""Start the web application: settings -> model pool -> app -> serve."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.paths import cache_note, use_cache_for_libraries
from common.terminal import printable_logs, say
from engine.errors import EngineError
from ui.cli import ServeError, address_of, bind, fail, is_local, read_settings
from ui.server.upload_folder import upload_folder
from ui.settings import AppSettings, history_file, storage_note

if TYPE_CHECKING:  # imported in `run`, so that --help is fast
    from engine.serving.protocols import ChatBackend
    from ui.auth.access import Access
    from ui.models.weights_hash import FileChange

MODELS = Path(__file__).resolve().parents[2] / "models"  # the models on offer unless --models names others

# Set before gradio is imported: no telemetry is sent.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Gradio loads a matplotlib backend in its first event; detecting one would block it for 0.5 s.
os.environ.setdefault("MPLBACKEND", "agg")


def main(arguments: Sequence[str] | None = None, prog_name: str | None = None) -> None:
    """Serve with the settings of the arguments (default: sys.argv) and the environment.

    Exits with code 2 if it cannot start.
    """
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, prog_name)
    from ui.conversations.store import StoreError

    printable_logs()
    use_cache_for_libraries()
    try:
        with _own_upload_folder():
            run(settings)
    except (EngineError, ServeError, StoreError) as error:
        fail(str(error))


@contextmanager
def _own_upload_folder() -> Iterator[None]:
    """Use `upload_folder`. Raises ServeError if there is no place for it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(upload_folder())
        except OSError as error:
            raise ServeError(f"no temporary file can be made ({error}): set TMPDIR to a folder") from error
        yield


def run(settings: AppSettings) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises EngineError, ServeError or StoreError if it cannot start."""
    from engine.process.supervisor import ProcessLoader
    from ui.conversations.store import Store
    from ui.models.catalog import default_entry, make_catalog
    from ui.models.registry import models_of

    engine = settings.engine()
    template = settings.template_source
    default = replace(default_entry(settings.model), chat_template=template)
    bundled = (str(MODELS),) if MODELS.is_dir() else ()  # a Space may have none
    # The models of the command line get the template, not the bundled ones beside them.
    catalog = make_catalog(default, settings.models or bundled, template if settings.models else "")
    bound = bind(settings.host, settings.port)
    history = history_file(settings.history)
    store = Store(history)
    if note := cache_note():
        say(note)
    say(f"{storage_note(settings.history)}\n{default.loading}")
    loader = ProcessLoader(engine)
    try:
        loader.start(Path(default.source), template)  # in its own process, while the page is built here
        gc.disable()  # nothing built here is garbage, and looking for some takes a third of the time
        from ui.server.app import create_app, serve

        described = loader.describe(Path(default.source), template)
        info = replace(described, adapter=str(default.adapter or ""))
        models = models_of(catalog, loader, settings.max_loaded, described=info, on_change=_warn)
        try:
            loading = models.pool.preload()
            app = create_app(
                models,
                concurrency=2 * (engine.slots + engine.queue),
                local=(local := is_local(bound)),
                access=access_of(settings),
                hosts=settings.known_as,
                origins=settings.allow_origin,
                store=store,
                detached_seconds=settings.detached(own_machine=local and not settings.known_as),
            )
            _report_to_zero_gpu()
            gc.freeze()
            gc.enable()
            ready = partial(_announce, loading, f"{address_of(bound)}{urlsplit(settings.root_path).path}")
            serve(
                app,
                bound,
                ready,
                loading,
                trusted_proxies=settings.trusted_proxy,
                root_path=settings.root_path,
            )
        finally:
            models.pool.close()
    finally:
        loader.close()
        store.close()
        bound.close()


def _report_to_zero_gpu() -> None:
    """Report the page's function for the GPU, on ZeroGPU. Raises ServeError when that fails."""
    from httpx import HTTPError

    from ui.pages.quality import zero_gpu

    if not zero_gpu.is_on():
        return
    try:
        zero_gpu.report()
    except (HTTPError, RuntimeError) as error:
        raise ServeError(f"ZeroGPU takes no report of a function ({error}): restart the Space") from error


def _announce(loading: Future[ChatBackend], address: str) -> None:
    """Print that the page can be opened, and when the model is loaded; requests wait for it meanwhile."""

    def loaded(model: Future[ChatBackend]) -> None:
        if model.exception() is None:
            print(f"Ready: {address}   (Ctrl-C ends it)", flush=True)

    if not loading.done():
        print(f"The page is there, the model still loads: {address}", flush=True)
    loading.add_done_callback(loaded)


def _warn(change: FileChange) -> None:
    say(f"warning: {change.text()}", sys.stderr)


def access_of(settings: AppSettings) -> Access:
    """Return the logins, the API key and the limits of the settings."""
    from ui.auth.access import Access

    return Access(
        settings.logins,
        settings.api_key.get_secret_value(),
        requests_per_minute=settings.requests_per_minute,
        answers_at_once=settings.answers_at_once,
    )
