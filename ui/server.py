"""One process serves it all: FastAPI with the Gradio page mounted at `/`, run by uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.metrics import CONTENT_TYPE, exposition, registry
from engine.pool import ModelPool
from ui.models import Models
from ui.page import build
from ui.theme import CSS, theme
from ui.translation import I18N
from ui.visitor import Visitors

# What a model writes must not make a visitor's browser ask other people's servers for anything. Gradio's own
# page needs inline scripts; what a model writes never becomes one, as it is defused and sanitized before.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)


def web_app(models: Models, concurrency: int, *, local: bool = False) -> FastAPI:
    """The whole web application over some models; `local` when this machine alone can reach it."""
    app = FastAPI(title="GGUF Chat", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "model": models.catalog.label(models.pool.default)}

    _add_metrics(app, models.pool)
    app.add_middleware(ContentPolicy)
    app.add_middleware(Visitors, local=local)
    gr.mount_gradio_app(
        app,
        build(models, concurrency, own_machine=local),
        path="/",
        theme=theme(),
        css_paths=CSS,
        footer_links=[],
        i18n=I18N,
        run_history=False,  # prompts stay out of the browser's storage
        ssr_mode=False,
        show_error=True,
    )
    return app


def _add_metrics(app: FastAPI, pool: ModelPool) -> None:
    """Numbers for Prometheus: sums alone, and nothing that anyone wrote."""
    metrics = registry(pool.stats)

    @app.get("/metrics")
    def scrape() -> Response:
        return Response(exposition(metrics), media_type=CONTENT_TYPE)


class ContentPolicy:
    """Adds the headers to every response, as plain ASGI: it must not buffer the streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; see the class."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, with_policy)


def serve(app: FastAPI, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, then return; `ready` is called once the page can be opened."""
    logging.getLogger("uvicorn.error").addFilter(_not_about_cut_streams)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends on a signal and raises it again at the end, which would kill us before the clean-up
        signal.signal(number, lambda *_: None)
    _Server(config, ready).run(sockets=[bound])


def _not_about_cut_streams(record: logging.LogRecord) -> bool:
    """Open pages keep a stream each; that these are cut when the server ends is no news."""
    cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "timeout graceful shutdown" not in record.getMessage()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()
