"""Bounds on connections: how long a request may take to arrive, and how many connections there may be.

A client that opens connections and sends its requests byte by byte, or never, costs a file descriptor each.
So a request has a deadline, and at the limits the connection that waits longest for its request makes room
for a new one. Those whose request has arrived are never closed: at the limits new ones are refused instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ui.auth.access import network_of

ARRIVAL_SECONDS = 20.0  # for a request to arrive, plus the time that its bytes take at the slowest rate
BYTES_PER_SECOND = 8192
BACKLOG = 128  # connections that asyncio accepts at a time, before any can be refused
RESERVED_FILES = 128 + BACKLOG  # file descriptors for everything else, such as libraries, pipes, uploads
MOST = 4096  # connections; each takes about 20 KiB
PER_ADDRESS = 256
_UNAVAILABLE = "503 Service Unavailable", "too many connections: try again in a moment"
_TOO_SLOW = "408 Request Timeout", "the request did not arrive in time"


class Connections:
    """The open connections of a server, by address. Used only from the event loop."""

    def __init__(self, files: int, proxies: Sequence[str] = (), seconds: float = ARRIVAL_SECONDS) -> None:
        """`files` is the limit of file descriptors; addresses in the networks `proxies` have no limit."""
        self.total = max(8, min(MOST, files - RESERVED_FILES))
        self.seconds = seconds
        self._proxies = [ip_network(proxy) for proxy in proxies]
        self._open: Counter[str] = Counter()
        self._waiting: set[Connection] = set()

    def limit_of(self, host: str) -> int:
        """Return how many connections an address may have; this machine's own may be half of all."""
        try:
            address = ip_address(host)
        except ValueError:  # not of a network
            return self.total
        if any(address in proxy for proxy in self._proxies):
            return self.total
        return self.total // 2 if address.is_loopback else min(PER_ADDRESS, self.total // 4)

    def open(self, connection: Connection) -> bool:
        """Register a connection, if there is room or a waiting one makes some."""
        address = connection.address
        if self._open[address] >= self.limit_of(connection.host) and not self._close_one(address):
            return False
        if self._open.total() >= self.total and not self._close_one():
            return False
        self._open[address] += 1
        return True

    def close(self, connection: Connection) -> None:
        """Forget a registered connection."""
        self._waiting.discard(connection)
        self._open[connection.address] -= 1
        if not self._open[connection.address]:
            del self._open[connection.address]

    def wait(self, connection: Connection, waiting: bool) -> None:
        """Register whether a connection waits for a request."""
        (self._waiting.add if waiting else self._waiting.discard)(connection)

    def _close_one(self, address: str | None = None) -> bool:
        """Close the waiting connection, of the address if given, whose deadline is next."""
        waiting = (one for one in self._waiting if address in (None, one.address))
        first = min(waiting, key=lambda one: one.deadline, default=None)
        if first is not None:
            first.refuse(*_TOO_SLOW)
        return first is not None


class Connection(H11Protocol):
    """uvicorn's HTTP protocol with a deadline for each request, and a place among the `Connections`."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all, self._registered = connections, False
        self._since, self._received = 0.0, 0
        self._timer: asyncio.TimerHandle | None = None
        self.host = self.address = ""

    @property
    def deadline(self) -> float:
        """The time of the event loop until which the request must have arrived."""
        return self._since + self._all.seconds + self._received / BYTES_PER_SECOND

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it when there are too many."""
        super().connection_made(transport)
        self.host = self.client[0] if self.client else ""
        self.address = network_of(self.host)
        self._registered = self._all.open(self)
        if self._registered:
            self._follow()
        else:
            self.refuse(*_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the `Connections`."""
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        self._received += len(data)
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request of the connection."""
        super().on_response_complete()
        self._follow()

    def refuse(self, status: str, message: str) -> None:
        """Close the connection, with a response if none has begun."""
        self._leave()
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(message)}"
            self.transport.write(f"{head}\r\nConnection: close\r\n\r\n{message}".encode())
        self.transport.close()

    def _follow(self) -> None:
        """Start the deadline when a request is awaited, and end it when the request has arrived."""
        waiting = self._registered and self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if waiting and self._timer is None:
            self._since, self._received = self.loop.time(), 0
            self._timer = self.loop.call_at(self.deadline, self._expire)
        elif not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._all.wait(self, waiting)

    def _expire(self) -> None:
        """Refuse a request that is late; one whose bytes came fast enough, or wait in us, has more time."""
        if self.flow.read_paused:
            self._since = self.loop.time()
        if self.deadline > self.loop.time():
            self._timer = self.loop.call_at(self.deadline, self._expire)
        else:
            self.refuse(*_TOO_SLOW)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._registered:
            self._registered = False
            self._all.close(self)
