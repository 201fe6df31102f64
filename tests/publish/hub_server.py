"""A stand-in for the Hugging Face Hub on two ports, its own and its storage's, for the real client."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.publish.hub_routes import Hub
from tests.publish.hub_state import HubState, Refusal, Request, Storage


def storage_app(state: HubState) -> Starlette:
    """Return the application of the storage's host: parts come in, objects go out, by ranges too."""

    async def put(request: HttpRequest) -> Response:
        sha256, number = request.path_params["sha256"], request.path_params["number"]
        body = await request.body()
        state.received["parts"] += len(body)
        state.storage.part_path(sha256, number).write_bytes(body)
        if "whole" in request.query_params and not state.storage.complete(sha256, 1):
            return Response(status_code=400)
        return Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    async def get(request: HttpRequest) -> Response:
        sha256, size = request.path_params["sha256"], int(request.query_params["size"])
        return FileResponse(await asyncio.to_thread(state.storage.fetch, sha256, size))

    return Starlette(
        routes=[
            Route("/part/{sha256}/{number:int}", put, methods=["PUT"]),
            Route("/object/{sha256}", get),
        ]
    )


class Faulty:
    """Records each request, and answers those that a fault was set for; see Fault."""

    def __init__(self, app: ASGIApp, state: HubState, host: str) -> None:
        self._app, self._state, self._host = app, state, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = HttpRequest(scope).headers
        token, part = headers.get("authorization"), headers.get("range")
        self._state.requests.append(Request(self._host, scope["method"], scope["path"], token, part))
        fault = self._state.fault_of(f"{scope['method']} {scope['path']}")
        if fault is None:
            return await self._app(scope, receive, send)
        if fault.cut is not None:
            return await self._app(scope, receive, _cut(send, fault.cut, fault.hold))
        if fault.hold is not None:
            await asyncio.to_thread(fault.hold.wait, 60)
            return await self._app(scope, receive, send)
        if fault.late:
            await self._app(scope, receive, _swallow)
        refusal = Refusal(fault.status, fault.message).response
        refusal.headers.update(fault.headers)
        return await refusal(scope, receive, send)


async def _swallow(_message: Message) -> None:
    pass


def _cut(send: Send, limit: int, hold: threading.Event | None) -> Callable[[Message], Awaitable[None]]:
    """Return a `send` that breaks the connection after so many bytes of the body, and after `hold`."""
    sent = 0

    async def cut(message: Message) -> None:
        nonlocal sent
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            await send({**message, "body": body[: limit - sent], "more_body": True})
            sent += len(body)
            if sent >= limit:
                if hold is not None:
                    await asyncio.to_thread(hold.wait, 60)
                raise ConnectionResetError("cut on purpose")
            return
        await send(message)

    return cut


@dataclass(frozen=True)
class RunningHub:
    """A started stand-in: `url` is its HF_ENDPOINT, `state` what it knows."""

    url: str
    storage_url: str
    state: HubState

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Return the variables with which a child process uses it."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", **({"HF_TOKEN": token} if token else {})}


@contextmanager
def running_hub(folder: Path) -> Iterator[RunningHub]:
    """Serve an empty Hub, with its files in `folder`, until the block ends."""
    state = HubState(Storage(folder))
    sockets = [_bound(), _bound()]
    url, storage_url = (f"http://127.0.0.1:{bound.getsockname()[1]}" for bound in sockets)
    apps = [
        Faulty(Hub(state, url, storage_url).app(), state, "hub"),
        Faulty(storage_app(state), state, "storage"),
    ]
    servers = [uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")) for app in apps]
    threads = [
        threading.Thread(target=server.run, args=([bound],), daemon=True)
        for server, bound in zip(servers, sockets, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield RunningHub(url, storage_url, state)
    finally:
        for server in servers:
            server.should_exit = server.force_exit = True
        for fault in state.faults:
            if fault.hold is not None:
                fault.hold.set()
        for thread in threads:
            thread.join(timeout=10)


def _bound() -> socket.socket:
    # With its protocol named, asyncio sets TCP_NODELAY; else each answer would wait 40 ms for an ACK.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    bound.listen()
    return bound
