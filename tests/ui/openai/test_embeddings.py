"""/v1/embeddings over a fake backend."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from engine.errors import PromptTooLong, QueueFull
from tests.ui.fake_backend import FakeBackend
from tests.ui.openai.test_openai_api import service


def post(backend: FakeBackend, **body: Any) -> Any:
    return TestClient(service(backend)).post("/v1/embeddings", json=body)


def test_texts_get_their_vectors_in_order() -> None:
    backend = FakeBackend()
    reply = post(backend, model="text-embedding-3-small", input=["one", "two words"], user=None, dimensions=2)
    assert reply.status_code == 200 and reply.headers["x-model"] == "fake"
    body = reply.json()
    assert [(one["index"], one["object"], one["embedding"]) for one in body["data"]] == [
        (0, "embedding", [0.6, 0.8]),
        (1, "embedding", [0.6, 0.8]),
    ]
    assert (body["object"], body["usage"]) == ("list", {"prompt_tokens": 3, "total_tokens": 3})
    assert backend.embedded == ["one", "two words"]


def test_base64_is_little_endian_float32() -> None:
    data = post(FakeBackend(), input="one", encoding_format="base64").json()["data"]
    assert np.frombuffer(base64.b64decode(data[0]["embedding"]), "<f4") == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "input: Field required"),
        ({"input": ""}, "input: send a text"),
        ({"input": ["x", " "]}, "input: send a text"),
        ({"input": [1, 2]}, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2]]}, "check_embedding_ctx_length=False"),
        ({"input": ["x"] * 257}, "input"),
        ({"input": "x", "dimensions": 3}, "dimensions: 3 is not served here"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_cannot_be_served_is_named(body: dict[str, Any], named: str) -> None:
    reply = post(FakeBackend(), **body)
    assert reply.status_code == 400
    assert named in reply.json()["error"]["message"]


def test_an_engines_refusal_has_its_status() -> None:
    for error, status in ((PromptTooLong("too long"), 400), (QueueFull("full"), 429)):
        backend = FakeBackend()
        backend.refuse = error
        assert post(backend, input="x").status_code == status
