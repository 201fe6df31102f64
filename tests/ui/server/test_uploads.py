"""Uploads are bounded for each visitor and in total, with Gradio's own route."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from tests.ui.fake_backend import FakeBackend
from ui.auth.identity import COOKIE
from ui.conversations.json_transfer import MAX_BYTES_REMOTE
from ui.models.registry import one_model
from ui.server.app import create_app
from ui.server.uploads import TOTAL_FILES, TOTAL_UPLOADS, VISITOR_FILES, VISITOR_UPLOADS, UploadMiddleware

ROUTE = "/gradio_api/upload"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with TestClient(create_app(one_model(FakeBackend()), 4)) as client:
        yield client


def upload(site: TestClient, visitor: int, *contents: bytes) -> list[Path]:
    """Upload files as a visitor; return their paths on the server."""
    cookie = {"Cookie": f"{COOKIE}={visitor:022}"}
    files = [("files", (f"{place}.json", content)) for place, content in enumerate(contents)]
    return [Path(name) for name in site.post(ROUTE, files=files, headers=cookie).raise_for_status().json()]


def kept(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "uploads").rglob("*"))


def test_the_oldest_files_of_a_visitor_go(site: TestClient, tmp_path: Path) -> None:
    (other,) = upload(site, 2, b"other")
    paths = [path for n in range(10) for path in upload(site, 1, b"%d" % n)]
    assert [path.exists() for path in paths] == [False] * (10 - VISITOR_FILES) + [True] * VISITOR_FILES
    assert other.exists() and not paths[0].parent.exists()
    many = upload(site, 1, *(b"many %d" % n for n in range(50)))
    assert [path.exists() for path in many] == [False] * (50 - VISITOR_FILES) + [True] * VISITOR_FILES
    assert kept(tmp_path) == VISITOR_FILES + 1


def test_large_files_of_a_visitor_go_earlier(site: TestClient) -> None:
    paths = [path for n in b"abc" for path in upload(site, 1, bytes([n]) * (MAX_BYTES_REMOTE - 1))]
    assert [path.exists() for path in paths] == [False, True, True]


def test_all_visitors_together_are_bounded(site: TestClient, tmp_path: Path) -> None:
    for visitor in range(TOTAL_FILES + 5):
        upload(site, visitor, b"%d" % visitor)
    assert kept(tmp_path) == TOTAL_FILES


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_is_bounded_whatever_it_says_of_its_length(
    site: TestClient, tmp_path: Path, chunked: bool
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d"\r\n\r\n%s\r\n'
    parts = [form % (n, b"a" * 1_000_000) for n in range(12)]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = iter(parts) if chunked else b"".join(parts)
    answer = site.post(ROUTE, content=body, headers=headers)
    assert answer.status_code == 413 and "8 MB are the most" in answer.text
    assert kept(tmp_path) == 0


def test_few_uploads_run_at_a_time() -> None:
    gate, waiting = asyncio.Event(), list[str]()

    async def stores(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.append(scope["state"]["visitor"])
        await gate.wait()
        await send({"type": "http.response.start", "status": 200})

    async def ask(limited: UploadMiddleware, visitor: str) -> int:
        statuses: list[int] = []

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))

        async def receive() -> Message:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "POST", "path": ROUTE, "headers": []}
        await limited(scope | {"state": {"visitor": visitor}}, receive, send)
        return statuses[0]

    async def run() -> None:
        limited = UploadMiddleware(stores, 1)
        visitors = [*["a"] * (VISITOR_UPLOADS + 1), *map(str, range(TOTAL_UPLOADS))]
        asked = [asyncio.create_task(ask(limited, visitor)) for visitor in visitors]
        while sum(task.done() for task in asked) + len(waiting) < len(asked):
            await asyncio.sleep(0)
        assert len(waiting) == TOTAL_UPLOADS and waiting.count("a") == VISITOR_UPLOADS
        gate.set()
        statuses = [await task for task in asked]
        assert statuses.count(429) == len(visitors) - TOTAL_UPLOADS
        assert await ask(limited, "a") == 200

    asyncio.run(asyncio.wait_for(run(), 10))
