"""Access rules of a server: logins, an API key, and limits per user.

An answer runs inside `with admit(request):`, which raises RateLimitExceeded.
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
API_KEY_USER = "api-key"  # the user name of requests with the API key
_VISITORS_PER_ADDRESS = 4  # visitors' limits that one address may use up: a household, an office
_LOGIN_ATTEMPTS_PER_MINUTE = 10  # by address; a success does not count


class Access:
    """The rules of one server. Without logins and a key it is open to all; a limit of 0 means no limit."""

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
        self._rate_by_address = RequestRate(requests_per_minute * _VISITORS_PER_ADDRESS)
        self._answers = ConcurrencyLimit(answers_at_once)
        self._answers_by_address = ConcurrencyLimit(answers_at_once * _VISITORS_PER_ADDRESS)
        self.login_attempts = RequestRate(_LOGIN_ATTEMPTS_PER_MINUTE)

    @property
    def page_needs_login(self) -> bool:
        """True when the page is shown only after a login."""
        return bool(self._logins)

    @property
    def api_needs_auth(self) -> bool:
        """True when /v1 and /metrics need a login or the API key."""
        return bool(self._logins or self._api_key)

    def is_login(self, name: str, password: str) -> bool:
        """Return whether the password is that user's; takes the same time for any wrong one."""
        expected = self._logins.get(name)
        return _same(password, expected or "") and expected is not None

    def authenticate(self, authorization: str) -> str | None:
        """Return the user of an Authorization header (Basic login or Bearer API key), None if it is wrong."""
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer":
            valid = bool(self._api_key) and _same(credentials.strip(), self._api_key)
            return API_KEY_USER if valid else None
        if scheme.lower() == "basic":
            name, _, password = _decode_base64(credentials).partition(":")
            return name if self.is_login(name, password) else None
        return None

    def admit(self, owner: str, address: str) -> AbstractContextManager[None]:
        """Count a request, and an answer for the duration of the `with` block. Raises RateLimitExceeded."""
        self._rate.take(owner)
        if owner.startswith(VISITOR):  # a client can make up any number of cookies
            self._rate_by_address.take(address)
        return self._answering(owner, address)

    @contextmanager
    def _answering(self, owner: str, address: str) -> Iterator[None]:
        with self._answers.acquire(owner):
            if not owner.startswith(VISITOR):
                yield
                return
            with self._answers_by_address.acquire(address):
                yield


def admit(request: gr.Request | HTTPConnection) -> AbstractContextManager[None]:
    """Count a request for an answer against its user's limits: `with admit(request): ...` around the answer.

    Raises RateLimitExceeded. Needs `ui.auth.middleware.AuthMiddleware` around the app.
    """
    access: Access = request.state.access
    return access.admit(counted_owner(request), address_of(request))


def counted_owner(request: gr.Request | HTTPConnection) -> str:
    """Return the owner; all clients of one address that keep no cookie count as one visitor."""
    owner = owner_of(request)
    if owner.startswith(VISITOR) and not request.state.is_known:
        return f"{VISITOR}{address_of(request)}"
    return owner


def address_of(request: gr.Request | HTTPConnection) -> str:
    """Return a request's IP address; for IPv6 its /64 network, as one client can use any address in it."""
    return network_of(request.client.host if request.client else LOCAL)


def network_of(host: str) -> str:
    """Return a client's address; for IPv6 its /64 network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name, from a proxy or a test client
        return str(host)
    if address.version == 6 and not address.ipv4_mapped:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _same(given: str, expected: str) -> bool:
    """Compare secrets by their hashes: the time depends neither on their letters nor on their lengths."""
    return hmac.compare_digest(_hash(given), _hash(expected))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _decode_base64(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
