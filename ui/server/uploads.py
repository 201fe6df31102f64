"""Bound what visitors upload: requests at a time, bytes of a request, and files kept on the disk.

The only upload of the page is an exported history, which is read at once. Gradio limits a file's size, but
neither the number of files nor how many it keeps for the hour until it deletes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.auth.identity import owner_of

VISITOR_FILES, TOTAL_FILES = 4, 64
"""The files that are kept; the oldest ones beyond are removed."""
VISITOR_SIZES, TOTAL_SIZES = 2, 8
"""Their bytes, as multiples of the largest allowed file."""
VISITOR_UPLOADS, TOTAL_UPLOADS = 2, 8
"""The uploads at a time."""
_FORM = 64 << 10  # bytes of a request besides its file
_MAX_ANSWER = 1 << 20  # bytes


@dataclass(frozen=True)
class _File:
    owner: str
    path: Path
    size: int


class _TooLarge(Exception):
    """The request is longer than it may be."""


class UploadMiddleware:
    """ASGI middleware around Gradio's upload route. Needs `VisitorMiddleware` around it."""

    def __init__(
        self, app: ASGIApp, max_file_size: int, forget: Callable[[str], None] = lambda path: None
    ) -> None:
        """`forget` is called with the path of each file that was removed."""
        self._app, self._max, self._forget = app, max_file_size, forget
        self._files: list[_File] = []  # the oldest first
        self._uploading = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, an upload only within the limits."""
        if scope["type"] != "http" or not (scope["method"] == "POST" and scope["path"].endswith("/upload")):
            await self._app(scope, receive, send)
            return
        owner = owner_of(HTTPConnection(scope))
        if self._uploading[owner] >= VISITOR_UPLOADS or self._uploading.total() >= TOTAL_UPLOADS:
            await _refuse(scope, receive, send, 429, "too many uploads at a time: try again in a moment")
            return
        self._uploading[owner] += 1
        try:
            await self._upload(owner, scope, receive, send)
        finally:
            self._uploading[owner] -= 1
            self._uploading += Counter()  # drops zeros

    async def _upload(self, owner: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio store the files of a request, and record them."""
        limit, read = self._max + _FORM, 0
        answer = bytearray()

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _TooLarge
            return message

        async def recorded(message: Message) -> None:
            if read > limit:
                return  # Starlette's answer to our exception
            if len(answer) < _MAX_ANSWER:
                answer.extend(message.get("body", b""))
            await send(message)

        try:
            if int(Headers(scope=scope).get("content-length") or 0) > limit:
                raise _TooLarge
            await self._app(scope, limited, recorded)
        except _TooLarge:
            text = f"the upload is too large: {self._max / 1e6:.0f} MB are the most"
            await _refuse(scope, receive, send, 413, text)
        self._keep(owner, bytes(answer))

    def _keep(self, owner: str, answer: bytes) -> None:
        """Record the files in Gradio's answer, and remove the oldest beyond the limits."""
        try:
            names = json.loads(answer)
        except ValueError:  # it was refused
            return
        for name in names if isinstance(names, list) else []:
            path = Path(str(name))
            self._files = [file for file in self._files if file.path != path]  # the same content again
            with suppress(OSError):
                self._files.append(_File(owner, path, path.stat().st_size))
        own = [file for file in self._files if file.owner == owner]
        for file in _beyond(own, VISITOR_FILES, VISITOR_SIZES * self._max):
            self._remove(file)
        for file in _beyond(self._files, TOTAL_FILES, TOTAL_SIZES * self._max):
            self._remove(file)

    def _remove(self, file: _File) -> None:
        self._files.remove(file)
        with suppress(OSError):
            file.path.unlink(missing_ok=True)
            file.path.parent.rmdir()  # named by the content's hash; fails when it has another file
        self._forget(str(file.path))


def _beyond(files: list[_File], count: int, size: int) -> list[_File]:
    """Return the oldest files that exceed a count or a size in bytes together."""
    kept = 0
    for place, file in enumerate(reversed(files)):
        kept += file.size
        if place >= count or kept > size:
            return files[: len(files) - place]
    return []


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    await PlainTextResponse(text, status_code=status)(scope, receive, send)
