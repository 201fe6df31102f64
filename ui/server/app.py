"""The web application: FastAPI with /v1, /health, /metrics and the Gradio page at `/`; run by uvicorn."""

from __future__ import annotations

import math
import os
import signal
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from gradio.routes import App as GradioApp
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.system import raise_file_limit
from engine.serving.model_pool import ModelPool
from engine.serving.prometheus import CONTENT_TYPE, exposition, registry
from engine.serving.protocols import ChatBackend
from ui.auth.access import Access
from ui.auth.identity import VisitorMiddleware
from ui.auth.middleware import AuthMiddleware, OriginMiddleware, Sessions
from ui.auth.tabs import SessionOfEvent, TabMiddleware
from ui.conversations.json_transfer import MAX_BYTES, MAX_BYTES_REMOTE
from ui.conversations.store import Store
from ui.gradio_patches import shape_pages
from ui.i18n.words import gradio_i18n, translator
from ui.models.registry import Models
from ui.openai.routes import add_openai_api
from ui.pages.assets import theme
from ui.server.compression import compressed
from ui.server.connections import BACKLOG, Connection, Connections
from ui.server.logs import bound_logs
from ui.server.page import build_page
from ui.server.root_path import RootPathMiddleware
from ui.server.uploads import UploadMiddleware
from ui.settings import checked_origins, on_a_space
from ui.static import STATIC, scripts
from ui.static.look import FACE, head

# Model output must not make a visitor's browser request anything from other servers. Gradio's own page needs
# inline scripts; model output never becomes one, as its Markdown keeps no HTML and is sanitized.
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


def create_app(
    models: Models,
    concurrency: int,
    *,
    local: bool = False,
    access: Access | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    store: Store | None = None,
    detached_seconds: float = math.inf,
) -> FastAPI:
    """Return the web application.

    `local` means that only this machine can reach it. `hosts` are more names of the server (see
    ui/auth/middleware.py); with them requests may come through a proxy from other machines, even without a
    header of it, so no request counts as the machine's own user. Pages of `origins` may use /v1. A `store` of
    None keeps conversations until the process ends. `concurrency` and `detached_seconds` as in
    `build_page`. Raises ValueError for what is no origin.
    """
    app = FastAPI(title="GGUF Chat", docs_url=None, redoc_url=None, openapi_url=None)
    access, own_machine = access or Access(), local and not hosts

    @app.get("/health")
    async def health(response: Response) -> dict[str, str]:
        """Return 200 while the default model can answer, 503 while it loads and after it failed."""
        pool = models.pool
        status = "down" if pool.failed() else "ok" if pool.loaded() else "loading"
        response.status_code = 200 if status == "ok" else 503
        return {"status": status, "model": models.catalog.label(pool.default)}

    @app.get(f"/{FACE}")
    async def face() -> FileResponse:
        return FileResponse(STATIC / FACE, media_type="font/woff2")

    @app.get(f"/{scripts.PREFIX}{{name:path}}")
    def script(request: Request, name: str) -> Response:
        """Return a script, style or face by its name, which holds its version."""
        bundled, content = scripts.bundle()
        if name == bundled:
            return compressed(Response(content, media_type="text/javascript"), request.headers, small=True)
        if (path := scripts.served().get(name)) is None:
            return Response(status_code=404)
        return FileResponse(path, media_type=scripts.media_type(path))

    _add_metrics(app, models.pool)
    add_openai_api(app, models)
    page = build_page(
        models, concurrency, own_machine=own_machine, store=store, detached_seconds=detached_seconds
    )
    max_file_size = MAX_BYTES if own_machine else MAX_BYTES_REMOTE
    sessions = _mount_page(app, page, access, max_file_size)
    app.add_middleware(UploadMiddleware, max_file_size=max_file_size, forget=page.upload_file_set.discard)
    # Gradio compresses its own scripts, and compression.py the page and ours, for browsers with brotli.
    app.add_middleware(GZipMiddleware, minimum_size=20_000, compresslevel=5)
    app.add_middleware(TabMiddleware, session_of=_session_of(page))
    app.add_middleware(AuthMiddleware, access=access, sessions=sessions)
    app.add_middleware(VisitorMiddleware, local=own_machine)
    app.add_middleware(OriginMiddleware, local=local, hosts=hosts, origins=checked_origins(origins))
    app.add_middleware(ContentPolicyMiddleware)  # outermost, as browsers show the others' refusals too
    return app


def _mount_page(app: FastAPI, page: gr.Blocks, access: Access, max_file_size: int) -> Sessions:
    """Mount the page at `/`, with Gradio's login if there are logins; return the lookup of logged-in users.

    `max_file_size` of an upload is in bytes.
    """
    shape_pages(head() + scripts.markup(), lambda request: translator(request).language, compressed)
    app.add_middleware(CORSMiddleware, allow_origins=())  # else Gradio lets other sites' pages read ours
    # Gradio warns that pages are not rendered on the server, though ssr_mode is off.
    warnings.filterwarnings("ignore", "SSR mode is not supported", UserWarning)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        root_path="",  # each request has its own, see ui/server/root_path.py
        theme=theme(),
        footer_links=[],
        i18n=gradio_i18n(),
        run_history=False,  # prompts stay out of the browser's storage
        ssr_mode=False,
        max_file_size=max_file_size,  # of an imported history
        show_error=True,
        auth=access.is_login if access.page_needs_login else None,
    )
    mounted = next(route.app for route in app.routes if isinstance(route, Mount))
    assert isinstance(mounted, GradioApp)

    def logged_in_user(cookies: Mapping[str, str]) -> str | None:
        names = (f"access-token-{mounted.cookie_id}", f"access-token-unsecure-{mounted.cookie_id}")
        token = next((cookies[name] for name in names if name in cookies), None)
        return mounted.tokens.get(token) if access.page_needs_login else None

    return logged_in_user


def _session_of(page: gr.Blocks) -> SessionOfEvent:
    """Return the lookup of an event's session in Gradio's queue, where it stays until its end was sent."""

    def session_of(event_id: str) -> str | None:
        queue = page._queue
        if (event := queue.event_ids_to_events.get(event_id)) is not None:
            return str(event.session_hash)
        sessions = queue.pending_event_ids_session.items()
        return next((str(session) for session, ids in sessions if event_id in ids), None)

    return session_of


def _add_metrics(app: FastAPI, pool: ModelPool) -> None:
    """Add /metrics for Prometheus: only totals, nothing that users wrote."""
    metrics = registry(pool.stats)

    @app.get("/metrics")
    def scrape() -> Response:
        return Response(exposition(metrics), media_type=CONTENT_TYPE)


_NAMED_BY_VERSION = ("/assets/", "/theme.css", f"/{scripts.PREFIX}", f"/{FACE}")  # Gradio's files and ours
_FOR_A_YEAR = "public, max-age=31536000, immutable"


class ContentPolicyMiddleware:
    """ASGI middleware that adds security headers to every response, without buffering streams.

    It also lets browsers keep scripts, styles and the face, so that only a first visit loads them.

    No other site may show the page in a frame, to prevent clickjacking; except a Space's, which is a frame
    in a page of the Hub.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._policy = CONTENT_POLICY if on_a_space() else f"{CONTENT_POLICY}; frame-ancestors 'self'"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its response."""

        is_kept = str(scope.get("path", "")).startswith(_NAMED_BY_VERSION)

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if is_kept and message["status"] == 200:
                    headers["Cache-Control"] = _FOR_A_YEAR
            await send(message)

        await self._app(scope, receive, with_policy)


def serve(
    app: FastAPI,
    bound: socket.socket,
    on_ready: Callable[[], None],
    model: Future[ChatBackend] | None = None,
    *,
    trusted_proxies: Sequence[str] = (),
    root_path: str = "",
) -> None:
    """Serve until Ctrl-C or SIGTERM; call `on_ready` once the page can be opened.

    If loading `model` fails, stop serving and raise its error. X-Forwarded-* headers count only from
    `trusted_proxies`, addresses and networks. uvicorn takes the last address in X-Forwarded-For that is not
    one of these: the nearest proxy appended it. Earlier ones may be forged, as a client can send the header.
    `root_path` as in `RootPathMiddleware`.
    """
    bound_logs()
    connections = Connections(raise_file_limit(), trusted_proxies)
    trusted = list(trusted_proxies) or os.environ.get("FORWARDED_ALLOW_IPS", "")
    config = uvicorn.Config(
        RootPathMiddleware(app, root_path, trusted),  # has uvicorn's own proxy_headers inside
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        http=partial(Connection, connections),  # type: ignore[arg-type]  # it is called like a class
        ws="none",
        backlog=BACKLOG,
        limit_concurrency=connections.total + BACKLOG,
        proxy_headers=False,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops on a signal and raises it again at its end, which would kill us before the clean-up.
        signal.signal(number, lambda *_: None)
    server = _Server(config, on_ready, model)
    server.run(sockets=[bound])
    if model is not None and model.done():
        model.result()


class _Server(uvicorn.Server):
    """uvicorn, with a call when it has started, and an end when the model does not load."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], model: Future[ChatBackend] | None
    ) -> None:
        super().__init__(config)
        self._on_ready, self._model = on_ready, model

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()
        if self._model is not None:
            self._model.add_done_callback(self._exit_unless_loaded)

    def _exit_unless_loaded(self, model: Future[ChatBackend]) -> None:
        if model.exception() is not None:
            self.should_exit = True
