"""/metrics of the web application."""

from __future__ import annotations

from starlette.testclient import TestClient

from engine.core.stats import EngineStats
from tests.ui.fake_backend import FakeBackend
from ui.models.registry import one_model
from ui.server.app import create_app


class CountingBackend(FakeBackend):
    def stats(self) -> EngineStats:
        return EngineStats(running=3)


def test_metrics_are_served_for_a_backend_that_counts() -> None:
    answer = TestClient(create_app(one_model(CountingBackend()), 4)).get("/metrics")
    assert answer.status_code == 200 and "gguf_chat_running 3.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")
