"""Deadlines of requests and limits of connections, over real sockets."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tests.ui.conftest import until
from ui.cli import bind
from ui.server.connections import BYTES_PER_SECOND, Connection, Connections
from ui.server.logs import PER_PERIOD, PERIOD, RepeatFilter, bound_logs

GET = b"GET /%s HTTP/1.1\r\nHost: here\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"
CLOSE = b"POST / HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body's length; /stream answers without end."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


class Site:
    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self._bound = bind("127.0.0.1", 0)
        self.port = self._bound.getsockname()[1]
        http = partial(Connection, connections)
        config = uvicorn.Config(
            echo, http=http, lifespan="off", log_level="critical", timeout_graceful_shutdown=1
        )  # type: ignore[arg-type]
        self.server = uvicorn.Server(config)
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._bound]}, daemon=True
        )
        self._thread.start()
        until(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.server.should_exit = True
        self._thread.join(10)

    def send(self, data: bytes = b"") -> socket.socket:
        """Return a new connection on which the data was sent."""
        made = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=10))
        made.sendall(data)
        return made

    @property
    def open(self) -> int:
        return len(self.server.server_state.connections)


def rest(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(4096):
            received += part
    return received


def until_sent(connection: socket.socket, text: bytes) -> bool:
    """Wait until the server sends the text; return False if it closes the connection before."""
    received = b""
    while text not in received:
        if not (part := connection.recv(4096)):
            return False
        received += part
    return True


def trickle(connection: socket.socket, pieces: Sequence[bytes], pause: float) -> tuple[float, bytes]:
    """Send piece by piece until the server closes the connection; return the seconds, and what it sent."""
    began, closed, received = time.monotonic(), threading.Event(), list[bytes]()
    reader = threading.Thread(target=lambda: (received.append(rest(connection)), closed.set()), daemon=True)
    reader.start()
    for piece in pieces:
        if closed.wait(pause):
            break
        with suppress(OSError):
            connection.sendall(piece)
    reader.join(10)
    return time.monotonic() - began, received[0]


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\nX-Slow: ", POST % 1000], ids=["nothing", "headers", "body"]
)
def test_a_request_that_never_arrives_is_given_up(begun: bytes) -> None:
    with Site(Connections(1024, seconds=0.3)) as site:
        connection = site.send(begun)
        assert 0.2 < trickle(connection, [b"x"] * 200, 0.05)[0] < 3
        until(lambda: not site.open)
        late = site.send(begun)
        assert rest(late).startswith(b"HTTP/1.1 408 ")


def test_the_next_request_of_a_connection_has_a_deadline_too() -> None:
    with Site(Connections(1024, seconds=0.3)) as site:
        connection = site.send(GET % b"")
        assert until_sent(connection, b"0 bytes")
        assert trickle(connection, [b"GET / HTTP/1.1\r\nX-Slow: ", *[b"x"] * 200], 0.05)[0] < 3


def test_a_large_body_that_keeps_coming_has_its_time() -> None:
    with Site(Connections(1024, seconds=0.3)) as site:
        body = [b"x" * BYTES_PER_SECOND] * 6  # four times the slowest rate, for five times the deadline
        connection = site.send(CLOSE % (6 * BYTES_PER_SECOND))
        _, answer = trickle(connection, body, 0.25)
        assert answer.endswith(b"%d bytes" % (6 * BYTES_PER_SECOND))


def test_an_answer_has_no_deadline() -> None:
    with Site(Connections(1024, seconds=0.1)) as site:
        streams = [site.send(GET % b"stream") for _ in range(3)]
        slow = [site.send() for _ in range(3)]
        assert all(rest(one).startswith(b"HTTP/1.1 408 ") for one in slow)
        assert site.open == len(streams)


def test_who_waits_longest_makes_room_and_who_is_answered_stays() -> None:
    connections = Connections(0)  # the smallest: 8, of which this machine may have 4
    assert (connections.total, connections.limit_of("127.0.0.1")) == (8, 4)
    with Site(connections) as site:
        streams = [site.send(GET % b"stream") for _ in range(3)]
        assert all(until_sent(one, b"begun") for one in streams)
        halves = [site.send(POST % 9) for _ in range(5)]
        assert all(rest(half).startswith(b"HTTP/1.1 408 ") for half in halves[:4])
        halves[4].sendall(b"123456789")
        assert until_sent(halves[4], b"9 bytes")  # the latest one was still there
        last = site.send(GET % b"stream")  # the idle one makes room
        assert until_sent(last, b"begun")
        assert rest(site.send()).startswith(b"HTTP/1.1 503 ")
        assert site.open == 4
        last.close()
        until(lambda: site.open == 3)
        assert until_sent(site.send(GET % b""), b"0 bytes")


def test_proxies_may_have_as_many_connections_as_there_are() -> None:
    connections = Connections(1024, ["10.0.0.0/8"])
    limits = [connections.limit_of(host) for host in ("10.1.2.3", "127.0.0.1", "203.0.113.9", "2001:db8::1")]
    assert limits == [768, 384, 192, 192]
    assert Connections(10**6).limit_of("203.0.113.9") == 256


@contextmanager
def logged(name: str) -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio"])
def test_what_repeats_is_logged_a_few_times(name: str) -> None:
    bound_logs(), bound_logs()
    with logged(name) as lines:
        for number in range(1000):
            logging.getLogger(name).error("out of files in %s\nsocket %d", name, number)
            with suppress(ZeroDivisionError):
                _fail(name, 1)
        for number in range(1000):
            logging.getLogger(name).error(f"made up by a client: {number}")
    assert len([line for line in lines if "out of files" in line]) == PER_PERIOD
    assert len([line for line in lines if "failed" in line]) == PER_PERIOD
    assert len(lines) < 1000


def _fail(name: str, number: int) -> None:
    try:
        number / 0
    except ZeroDivisionError:
        logging.getLogger(name).exception("failed")


def test_the_log_says_how_much_it_left_out() -> None:
    now = [0.0]
    repeats = RepeatFilter(lambda: now[0])

    def record() -> logging.LogRecord:
        return logging.LogRecord("x", logging.ERROR, "x.py", 1, "lost %s", ("it",), None)

    assert [repeats.filter(record()) for _ in range(10)].count(True) == PER_PERIOD
    now[0] = PERIOD
    later = record()
    assert repeats.filter(later) and later.getMessage() == "lost it (7 more like this were left out)"
    assert repeats.filter(again := record()) and again.getMessage() == "lost it"


def test_a_flood_of_kinds_hides_others_for_no_longer_than_itself() -> None:
    now = [0.0]
    repeats = RepeatFilter(lambda: now[0])

    def passes(text: str) -> bool:
        return repeats.filter(logging.LogRecord("x", logging.ERROR, "x.py", 1, text, (), None))

    assert sum(passes(f"made up {number}") for number in range(1000)) < 300
    now[0] = PERIOD
    assert passes("another")
