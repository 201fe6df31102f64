"""A reverse proxy that serves a server below a prefix and strips it, as nginx and Traefik can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class PrefixProxy:
    """The proxy's `url`, which ends with the prefix, and the paths `outside` it that were asked for."""

    url: str
    outside: list[str] = field(default_factory=list)


@contextmanager
def prefix_proxy(target: str, prefix: str, headers: Sequence[str] = ()) -> Iterator[PrefixProxy]:
    """Run the proxy in front of the server at the URL `target`; `headers` are added to each request."""
    proxy, port = PrefixProxy(""), urlsplit(target).port
    started, stop = threading.Event(), threading.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, version = first.split(" ")
            if path != prefix and not path.startswith((f"{prefix}/", f"{prefix}?")):
                proxy.outside.append(path)
                writer.write(_NOT_FOUND)
            else:
                kept = [line for line in lines if line and not line.lower().startswith("connection:")]
                path = f"/{path.removeprefix(prefix).lstrip('/')}"
                request = [f"{method} {path} {version}", *kept, *headers, "Connection: close", "", ""]
                below, to_server = await asyncio.open_connection("127.0.0.1", port)
                to_server.write("\r\n".join(request).encode("latin-1"))
                await asyncio.gather(_copy(reader, to_server), _copy(below, writer))
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}"
        started.set()
        await asyncio.to_thread(stop.wait)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    started.wait(10)
    yield proxy
    stop.set()
    thread.join(10)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
