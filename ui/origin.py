"""Which web pages may speak to this server: its own.

Any page on the web can make a visitor's browser send requests to a laptop's 127.0.0.1, or to a server on
which the visitor is logged in. The browser says in `Origin` whose page it was. A page whose name was pointed
at 127.0.0.1 (DNS rebinding) passes for the server's own, but for the name in `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnPages:
    """ASGI middleware that refuses other sites' pages and, on a `local` server, names that are not ours.

    `hosts` are more names that the server is known by, behind a proxy for instance.
    """

    def __init__(self, app: ASGIApp, local: bool, hosts: Iterable[str] = ()) -> None:
        self._app, self._local = app, local
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 403."""
        wrong = self._wrong(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if wrong is None:
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse(wrong, 403)(scope, receive, send)

    def _wrong(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and not self._is_ours(host):
            return f"this server is not {host!r}: if it should be, start it with --hosts {_name(host)}"
        if origin is not None and not self._is_own_page(origin, headers):
            return f"a page of {origin!r} may not use this server: if that is its own, name it with --hosts"
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        return name == "localhost" or name in self._hosts or _is_loopback(name)

    def _is_own_page(self, origin: str, headers: Headers) -> bool:
        place = urlsplit(origin).netloc.lower()
        # A page can set X-Forwarded-Host only after asking (a preflight), which is refused for its origin.
        own = (headers.get("host", ""), headers.get("x-forwarded-host", ""))
        return bool(place) and (place in map(str.lower, own) or _name(place) in self._hosts)


def _name(host: str) -> str:
    """The name or address in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket too many
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
