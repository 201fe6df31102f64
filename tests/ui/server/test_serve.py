"""Serving before the model is loaded, and after it failed."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from engine.errors import ModelError
from engine.serving.model_pool import ModelPool
from engine.serving.protocols import ChatBackend
from tests.ui.fake_backend import INFO, FakeBackend
from ui.cli import bind
from ui.models.catalog import Catalog
from ui.models.files import CatalogEntry
from ui.models.registry import Models, one_model
from ui.server.app import create_app, serve
from ui.static import scripts


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers that `serve` replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_model_that_does_not_load_ends_the_server() -> None:
    model: Future[ChatBackend] = Future()
    with pytest.raises(ModelError, match="no room"):
        serve(FastAPI(), bind("127.0.0.1", 0), lambda: model.set_exception(ModelError("no room")), model)


class Failing(FakeBackend):
    failed = given_up = False


@pytest.mark.parametrize("accepted", ["br, gzip", "gzip", "deflate"])
def test_the_page_and_its_script_are_compressed_as_the_browser_reads_them(accepted: str) -> None:
    client = TestClient(create_app(one_model(FakeBackend()), 4))
    wanted = {"br, gzip": "br", "gzip": "gzip", "deflate": None}[accepted]
    bundled, content = scripts.bundle()
    for path, text in (("/", "</html>"), (f"/{scripts.PREFIX}{bundled}", content.decode())):
        answer = client.get(path, headers={"Accept-Encoding": accepted})
        assert answer.headers.get("Content-Encoding") == wanted
        assert "Accept-Encoding" in answer.headers["Vary"] and text in answer.text


def test_a_page_has_its_own_texts_in_its_language() -> None:
    client = TestClient(create_app(one_model(FakeBackend()), 4))
    page = client.get("/quality", headers={"Accept-Language": "de-DE,de;q=0.9"}).text
    found = re.search(r'"i18n_translations":(.*?}}),', page)
    assert found is not None
    texts = json.loads(found[1])
    assert set(texts) == {"en", "de"} and texts["de"]["quality.tab"] == "Zertifikat"
    assert {key.split(".")[0] for key in texts["en"]} == {key.split(".")[0] for key in texts["de"]}
    assert "status" not in {key.split(".")[0] for key in texts["en"]}  # written by the server alone


def test_the_page_is_there_before_its_model() -> None:
    gate: Future[Failing] = Future()
    catalog = Catalog([CatalogEntry("fake", "Fake", "fake.gguf")])
    models = Models(catalog, ModelPool(lambda *_: gate.result(10), catalog.keys(), catalog.default), INFO)
    client = TestClient(create_app(models, 4))
    loading = models.pool.preload()
    page = client.get("/")
    assert page.status_code == 200 and page.headers["Content-Encoding"] == "br"
    health = client.get("/health")
    assert (health.status_code, health.json()) == (503, {"status": "loading", "model": "Fake"})
    backend = Failing()
    gate.set_result(backend)
    loading.result(10)
    assert client.get("/health").json()["status"] == "ok"
    wanted = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    answer = client.post("/v1/chat/completions", json=wanted)
    assert "[DONE]" in answer.text and "Content-Encoding" not in answer.headers  # compression would delay it
    backend.failed = True
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "down")
    models.pool.close()
