"""Who may use this server, and how much: logins, an API key, and limits for each user.

The page asks one thing: `with access.admit(request):` around an answer. It raises RateLimitExceeded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import gradio as gr
from starlette.requests import HTTPConnection

from ui.auth.identity import owner_of
from ui.auth.limits import ConcurrencyLimit, RequestRate
from ui.conversations.model import LOCAL, VISITOR

OwnerOf = Callable[[gr.Request], str]
Admit = Callable[[gr.Request], AbstractContextManager[None]]
KEY_HOLDER = "api-key"  # the name of whoever shows the API key
_PER_ADDRESS = 4  # as many visitors as one address may stand for: a household, an office
_WRONG_PER_MINUTE = 10  # attempts to log in, by address


class Access:
    """The rules of one server. Without logins and a key everyone is let in; a limit of 0 is none."""

    def __init__(
        self,
        logins: Mapping[str, str] | None = None,
        api_key: str = "",
        *,
        requests_per_minute: int = 0,
        answers_at_once: int = 0,
    ) -> None:
        self._logins, self._api_key = dict(logins or {}), api_key
        self._rate = RequestRate(requests_per_minute)
        self._rate_by_address = RequestRate(requests_per_minute * _PER_ADDRESS)
        self._answers = ConcurrencyLimit(answers_at_once)
        self._answers_by_address = ConcurrencyLimit(answers_at_once * _PER_ADDRESS)
        self.attempts = RequestRate(_WRONG_PER_MINUTE)

    @property
    def closes_page(self) -> bool:
        """Whether one must log in to see the page."""
        return bool(self._logins)

    @property
    def closes_api(self) -> bool:
        """Whether /v1 and /metrics want a login or the key."""
        return bool(self._logins or self._api_key)

    def is_login(self, name: str, password: str) -> bool:
        """Whether the password is that user's; takes the same time for any wrong one."""
        known = self._logins.get(name)
        return _same(password, known or "") and known is not None

    def user_by(self, authorization: str) -> str | None:
        """Who an Authorization header is from: a login by Basic, or the API key by Bearer."""
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer":
            right = bool(self._api_key) and _same(credentials.strip(), self._api_key)
            return KEY_HOLDER if right else None
        if scheme.lower() == "basic":
            name, _, password = _decoded(credentials).partition(":")
            return name if self.is_login(name, password) else None
        return None

    def admit(self, owner: str, address: str) -> AbstractContextManager[None]:
        """Count a request, and an answer for the time of the `with` block. Raises RateLimitExceeded."""
        self._rate.take(owner)
        if owner.startswith(VISITOR):  # anyone can have many cookies
            self._rate_by_address.take(address)
        return self._answering(owner, address)

    @contextmanager
    def _answering(self, owner: str, address: str) -> Iterator[None]:
        with self._answers.one_more(owner):
            if not owner.startswith(VISITOR):
                yield
                return
            with self._answers_by_address.one_more(address):
                yield


def admit(request: gr.Request | HTTPConnection) -> AbstractContextManager[None]:
    """Let a user's request for an answer in: `with admit(request): ...` lasts as long as the answer.

    Raises RateLimitExceeded. Needs `ui.auth.middleware.AuthMiddleware` around the app.
    """
    access: Access = request.state.access
    owner, address = owner_of(request), address_of(request)
    if owner.startswith(VISITOR) and not request.state.is_known:
        # All who keep no cookie are one visitor, by their address.
        owner = f"{VISITOR}{address}"
    return access.admit(owner, address)


def address_of(request: gr.Request | HTTPConnection) -> str:
    """Where a request comes from. Of IPv6 the network, within which anyone has addresses without end."""
    host = request.client.host if request.client else LOCAL
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name that a proxy or a test's client gives
        return str(host)
    if address.version == 6 and not address.ipv4_mapped:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _same(given: str, known: str) -> bool:
    """Compare secrets by their hashes, which gives away neither letters nor lengths."""
    return hmac.compare_digest(_hash(given), _hash(known))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _decoded(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
