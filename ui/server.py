"""One process serves it all: FastAPI with the Gradio page mounted at `/`, run by uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from gradio.routes import App as GradioApp
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.metrics import CONTENT_TYPE, exposition, registry
from engine.pool import ModelPool
from ui.access import Access
from ui.guard import Guard, Sessions
from ui.models import Models
from ui.openai_api import add_openai_api
from ui.origin import OwnPages
from ui.page import build
from ui.settings import on_a_space
from ui.store import Store
from ui.theme import CSS, theme
from ui.transfer import LARGEST
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


def web_app(
    models: Models,
    concurrency: int,
    *,
    local: bool = False,
    access: Access | None = None,
    hosts: Sequence[str] = (),
    store: Store | None = None,
) -> FastAPI:
    """The whole web application over some models.

    `local` when this machine alone can reach it; `hosts` are names it is known by besides (see ui/origin.py).
    A `store` of None keeps conversations until the process ends.
    """
    app = FastAPI(title="GGUF Chat", docs_url=None, redoc_url=None, openapi_url=None)
    access = access or Access()

    @app.get("/health")
    def health(response: Response) -> dict[str, str]:
        down = models.pool.down()
        response.status_code = 503 if down else 200
        return {"status": "down" if down else "ok", "model": models.catalog.label(models.pool.default)}

    _add_metrics(app, models.pool)
    add_openai_api(app, models.pool)
    sessions = _mount_page(app, build(models, concurrency, own_machine=local, store=store), access)
    app.add_middleware(Guard, access=access, sessions=sessions)
    app.add_middleware(Visitors, local=local)
    app.add_middleware(OwnPages, local=local, hosts=hosts)
    app.add_middleware(ContentPolicy)  # around all others, as what they refuse is shown by browsers too
    return app


def _mount_page(app: FastAPI, page: gr.Blocks, access: Access) -> Sessions:
    """The Gradio page at `/`, behind Gradio's login form where there are logins; returns who is logged in."""
    app.add_middleware(CORSMiddleware, allow_origins=())  # else Gradio lets other sites' pages read ours
    # Gradio warns that pages are not rendered on the server, which is not asked of it
    warnings.filterwarnings("ignore", "SSR mode is not supported", UserWarning)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css_paths=CSS,
        footer_links=[],
        i18n=I18N,
        run_history=False,  # prompts stay out of the browser's storage
        ssr_mode=False,
        max_file_size=LARGEST,  # a history that is imported
        show_error=True,
        auth=access.is_login if access.closes_page else None,
    )
    mounted = next(route.app for route in app.routes if isinstance(route, Mount))
    assert isinstance(mounted, GradioApp)

    def logged_in(cookies: Mapping[str, str]) -> str | None:
        names = (f"access-token-{mounted.cookie_id}", f"access-token-unsecure-{mounted.cookie_id}")
        token = next((cookies[name] for name in names if name in cookies), None)
        return mounted.tokens.get(token) if access.closes_page else None

    return logged_in


def _add_metrics(app: FastAPI, pool: ModelPool) -> None:
    """Numbers for Prometheus: sums alone, and nothing that anyone wrote."""
    metrics = registry(pool.stats)

    @app.get("/metrics")
    def scrape() -> Response:
        return Response(exposition(metrics), media_type=CONTENT_TYPE)


class ContentPolicy:
    """Adds the headers to every response, as plain ASGI: it must not buffer the streams.

    But for a Space, which is a frame in a page of the Hub, no other site may show us in a frame: it could
    lead a visitor's clicks.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._policy = CONTENT_POLICY if on_a_space() else f"{CONTENT_POLICY}; frame-ancestors 'self'"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; see the class."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, with_policy)


def serve(app: FastAPI, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, then return; `ready` is called once the page can be opened."""
    logging.getLogger("uvicorn.error").addFilter(_not_about_cut_streams)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        forwarded_allow_ips="*" if on_a_space() else None,  # its proxy says who asks; uvicorn's default else
    )
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
