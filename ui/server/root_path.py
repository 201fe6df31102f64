"""Serving below a path of a proxy, such as https://example.org/chat: requests lose it, answers gain it.

Everything inside sees the paths of a server at `/`. The root path is in the request's `state.root_path`, for
links in pages. Proxies may pass the path on or strip it, as nginx does for `proxy_pass http://host:port/;`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ui.settings import check_prefix

HEADER = "X-Forwarded-Prefix"
_WHOLE_SITE = re.compile("; *path=/(?=;|$)", re.IGNORECASE)  # in a cookie


class RootPathMiddleware:
    """ASGI middleware, the outermost one: forwarded addresses and schemes, and the path before ours.

    Without a `root_path`, a path or a URL, X-Forwarded-Prefix counts, if it comes from a trusted proxy.
    """

    def __init__(self, app: ASGIApp, root_path: str = "", trusted_proxies: Sequence[str] | str = ()) -> None:
        trusted = trusted_proxies if isinstance(trusted_proxies, str) else list(trusted_proxies)
        self._app = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]  # uvicorn's own types
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as one to `/`; answer 400 to an X-Forwarded-Prefix that is no path."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)  # type: ignore[arg-type]
            return
        try:
            root = self._root_path or self._forwarded(scope)
        except ValueError as error:
            await PlainTextResponse(f"{HEADER}: {error}", 400)(scope, receive, send)
            return
        prefix = urlsplit(root).path
        if prefix and scope["path"] == prefix and scope.get("method") in ("GET", "HEAD"):
            await _to_folder(prefix, scope)(scope, receive, send)  # links are relative to it
            return
        scope.setdefault("state", {})["root_path"] = root
        await self._app(_below(scope, prefix), receive, _answering(send, scope, prefix))  # type: ignore[arg-type]

    def _forwarded(self, scope: Scope) -> str:
        """Return the path in the header, "" without one. Raises ValueError."""
        client = scope.get("client")
        if client is None or client[0] not in self._app.trusted_hosts:
            return ""
        # Each of several proxies adds the part that it strips, the outermost one first.
        parts = ",".join(Headers(scope=scope).getlist(HEADER)).split(",")
        return check_prefix("".join(part.strip().rstrip("/") for part in parts))


def _to_folder(prefix: str, scope: Scope) -> RedirectResponse:
    query = scope["query_string"].decode("latin-1")
    return RedirectResponse(f"{prefix}/{f'?{query}' if query else ''}", 307)


def _below(scope: Scope, prefix: str) -> Scope:
    """Return the scope without the prefix of its path; a proxy may have stripped it already."""
    if not prefix or not scope["path"].startswith(f"{prefix}/"):
        return scope
    raw = scope.get("raw_path") or scope["path"].encode()
    own = (
        raw[len(prefix) :] if raw.startswith(f"{prefix}/".encode()) else scope["path"][len(prefix) :].encode()
    )
    return {**scope, "path": scope["path"][len(prefix) :], "raw_path": own}


def _answering(send: Send, scope: Scope, prefix: str) -> Send:
    """Return a `send` that puts the prefix into redirects within the server and into cookies' paths."""
    if not prefix:
        return send
    own_host = Headers(scope=scope).get("host")

    async def with_prefix(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if (target := headers.get("location")) is not None:
                headers["location"] = _prefixed(target, prefix, own_host)
            cookies = headers.getlist("set-cookie")
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", _WHOLE_SITE.sub(f"; Path={prefix}", cookie))
        await send(message)

    return with_prefix


def _prefixed(target: str, prefix: str, own_host: str | None) -> str:
    """Return a redirect's target below the prefix; other servers' and relative ones unchanged."""
    parts = urlsplit(target)
    if parts.netloc not in ("", own_host) or not parts.path.startswith("/"):
        return target
    if parts.path == prefix or parts.path.startswith(f"{prefix}/"):
        return target
    return parts._replace(path=f"{prefix}{parts.path}").geturl()
