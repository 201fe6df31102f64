"""One process serves it all: FastAPI with the Gradio page mounted at `/`, run by uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from gradio.routes import App as GradioApp
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serving.model_pool import ModelPool
from engine.serving.prometheus import CONTENT_TYPE, exposition, registry
from engine.serving.protocols import ChatBackend
from ui.auth.access import Access
from ui.auth.identity import Visitors
from ui.auth.middleware import AuthMiddleware, OriginMiddleware, Sessions
from ui.conversations.json_transfer import LARGEST, LARGEST_OF_OTHERS
from ui.conversations.store import Store
from ui.i18n.gradio import I18N
from ui.models.registry import Models
from ui.openai.routes import add_openai_api
from ui.pages.assets import CSS, theme
from ui.server.page import build
from ui.settings import on_a_space

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


# Where a Space's proxies are, as it sees them.
_INNER = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "::1")


def create_app(
    models: Models,
    concurrency: int,
    *,
    local: bool = False,
    access: Access | None = None,
    hosts: Sequence[str] = (),
    store: Store | None = None,
) -> FastAPI:
    """The whole web application over some models.

    `local` when this machine alone can reach it; `hosts` are further names of it (see ui/auth/middleware.py):
    then a proxy, which need not say so, brings people from elsewhere, and nobody is taken for who sits here.
    A `store` of None keeps conversations until the process ends.
    """
    app = FastAPI(title="GGUF Chat", docs_url=None, redoc_url=None, openapi_url=None)
    access, own_machine = access or Access(), local and not hosts

    @app.get("/health")
    def health(response: Response) -> dict[str, str]:
        """200 while a model can answer: the page is there before, and when the model has failed for good."""
        pool = models.pool
        status = "down" if pool.down() else "ok" if pool.loaded() else "loading"
        response.status_code = 200 if status == "ok" else 503
        return {"status": status, "model": models.catalog.label(pool.default)}

    _add_metrics(app, models.pool)
    add_openai_api(app, models)
    page = build(models, concurrency, own_machine=own_machine, store=store)
    sessions = _mount_page(app, page, access, LARGEST if own_machine else LARGEST_OF_OTHERS)
    # Gradio packs its scripts, but not the page itself, which is the largest thing that a phone has to fetch
    app.add_middleware(GZipMiddleware, minimum_size=20_000, compresslevel=5)
    app.add_middleware(AuthMiddleware, access=access, sessions=sessions)
    app.add_middleware(Visitors, local=own_machine)
    app.add_middleware(OriginMiddleware, local=local, hosts=hosts)
    app.add_middleware(ContentPolicy)  # around all others, as what they refuse is shown by browsers too
    return app


def _mount_page(app: FastAPI, page: gr.Blocks, access: Access, largest_file: int) -> Sessions:
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
        max_file_size=largest_file,  # a history that is imported
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


def serve(
    app: FastAPI,
    bound: socket.socket,
    opened: Callable[[], None],
    model: Future[ChatBackend] | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then return; `opened` is called once the page can be opened.

    With a `model` that still loads: should it not load, serving ends, and raises why.
    """
    logging.getLogger("uvicorn.error").addFilter(_not_about_cut_streams)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        forwarded_allow_ips=trusted_proxies(),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends on a signal and raises it again at the end, which would kill us before the clean-up
        signal.signal(number, lambda *_: None)
    server = _Server(config, opened, model)
    server.run(sockets=[bound])
    if model is not None and model.done():
        model.result()


def trusted_proxies() -> list[str] | None:
    """Whose X-Forwarded-For and X-Forwarded-Proto count; None is uvicorn's default, this machine.

    Of the addresses uvicorn takes the last one that is none of these: a proxy writes it, at the end or as the
    only one. What stands before it may be anything, as whoever asks can send the header too.
    """
    return list(_INNER) if on_a_space() else None


def _not_about_cut_streams(record: logging.LogRecord) -> bool:
    """Open pages keep a stream each; that these are cut when the server ends is no news."""
    cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "timeout graceful shutdown" not in record.getMessage()


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, opened: Callable[[], None], model: Future[ChatBackend] | None
    ) -> None:
        super().__init__(config)
        self._opened, self._model = opened, model

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._opened()
        if self._model is not None:
            self._model.add_done_callback(self._end_unless_loaded)

    def _end_unless_loaded(self, model: Future[ChatBackend]) -> None:
        if model.exception() is not None:
            self.should_exit = True
