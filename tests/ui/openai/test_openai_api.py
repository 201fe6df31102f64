"""/v1 over a fake backend: requests to the engine, responses to clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.config import SamplingParams
from engine.errors import EngineError, EngineStopped, QueueFull, RequestError
from tests.ui.conftest import until
from tests.ui.fake_backend import INFO, FakeBackend
from ui.auth.access import Access
from ui.auth.identity import VisitorMiddleware
from ui.auth.middleware import AuthMiddleware
from ui.models.registry import one_model
from ui.openai.routes import MAX_BODY, _EventStream, add_openai_api

HELLO = [{"role": "user", "content": "Hello"}]
URL = "/v1/chat/completions"


def service(backend: FakeBackend, access: Access | None = None) -> FastAPI:
    app = FastAPI()
    add_openai_api(app, one_model(backend))
    app.add_middleware(AuthMiddleware, access=access or Access(), sessions=lambda cookies: None)
    app.add_middleware(VisitorMiddleware)
    return app


def post(backend: FakeBackend, **body: Any) -> Any:
    return TestClient(service(backend)).post(URL, json={"messages": HELLO, **body})


def chunks(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.strip().split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_a_models_own_values_are_the_defaults() -> None:
    backend = FakeBackend(info=replace(INFO, recommended={"temperature": 0.6, "top_k": 20}))
    post(backend, top_k=7, max_tokens=5)
    assert backend.asked[0][1] == SamplingParams(temperature=0.6, top_k=7, max_tokens=5)


def test_without_a_limit_the_context_is_filled_and_a_huge_one_as_far_as_goes() -> None:
    for context, most in ((2048, 2048), (2_000_000, 1_000_000)):
        backend = FakeBackend(info=replace(INFO, context=context))
        assert post(backend).status_code == 200
        assert backend.asked[0][1].max_tokens == most


def test_a_completion_has_openais_form() -> None:
    answer = post(FakeBackend("one two three"), model="fake", max_tokens=2).json()
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "one two", "refusal": None}
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_a_stream_says_who_what_why_and_how_much() -> None:
    reply = post(FakeBackend("one two"), stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *parts, counted, done = chunks(reply.text)
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "one"}, {"content": " two"}, {}]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None, None, None, "stop"]
    assert all(part["usage"] is None for part in parts) and len({part["id"] for part in parts}) == 1
    assert counted["choices"] == [] and counted["usage"]["completion_tokens"] == 2 and done == "[DONE]"


def test_the_settings_reach_the_engine() -> None:
    backend = FakeBackend()
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    given = {"temperature": 0.1, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "repeat_penalty": 1.2}
    given |= {"frequency_penalty": 0.5, "presence_penalty": -0.5}
    post(backend, **given, max_tokens=9, max_completion_tokens=8, seed=-1, stop="END", response_format=form)
    wanted = SamplingParams(**given, max_tokens=8, seed=2**32 - 1, stop=("END",), json_schema=schema)  # type: ignore[arg-type]
    assert backend.asked[0][1] == wanted
    post(backend, response_format={"type": "json_object"}, stop=["a", "b"], user="me", made_up=1, n=1)
    wanted = SamplingParams(max_tokens=2048, stop=("a", "b"), json_schema={"type": "object"})
    assert backend.asked[1][1] == wanted


def test_messages_are_read_whole_and_untouched() -> None:
    backend = FakeBackend()
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "<b>?"}]
    begun = {"role": "assistant", "content": "It is"}
    rules = {"role": "developer", "content": "Be brief."}
    assert post(backend, messages=[rules, {"role": "user", "content": parts}, begun]).status_code == 200
    assert backend.asked[0][0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is\n<b>?"},
        begun,
    ]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"n": 2}, "n: only one answer"),
        ({"tools": [{"type": "function"}]}, "tools is not served here"),
        ({"logprobs": True}, "logprobs is not served here"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature=9"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"response_format": {"type": "json_schema"}}, "json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_what_cannot_be_served_is_named(body: dict[str, Any], named: str) -> None:
    reply = post(FakeBackend(), **body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert named in error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"messages": "hi"}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    assert TestClient(service(FakeBackend())).post(URL, content=body).status_code == 400


def test_a_body_without_end_is_refused() -> None:
    reply = TestClient(service(FakeBackend())).post(URL, content=b" " * (MAX_BODY + 1))
    assert reply.status_code == 413


def test_an_unknown_model_or_route_is_not_found() -> None:
    reply = post(FakeBackend(), model="gpt-7")
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "model_not_found"
    api = TestClient(service(FakeBackend()))
    assert [model["id"] for model in api.get("/v1/models").json()["data"]] == ["fake"]
    assert api.get("/v1/models/fake").json()["object"] == "model"
    assert api.get("/v1/models/other").status_code == 404
    assert api.post("/v1/embeddings").json()["error"]["type"] == "invalid_request_error"


def test_a_file_that_was_typed_in_is_for_who_sits_at_the_machine(tmp_path: Path) -> None:
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    models = one_model(FakeBackend())
    models.admit(str(tmp_path / "secret.gguf"), own_machine=True)
    app = FastAPI()
    add_openai_api(app, models)
    api = TestClient(VisitorMiddleware(app, local=True))
    for headers, seen, status in (({}, ["fake", "secret"], 200), ({"X-Real-IP": "1.2.3.4"}, ["fake"], 404)):
        assert [model["id"] for model in api.get("/v1/models", headers=headers).json()["data"]] == seen
        assert api.get("/v1/models/secret", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFull("full"), 429),
        (RequestError("long"), 400),
        (EngineStopped("down"), 503),
        (EngineError("x"), 500),
    ],
)
def test_an_engines_refusal_has_its_status(error: EngineError, status: int) -> None:
    backend = FakeBackend()
    backend.refuse = error
    reply = post(backend, stream=True)
    assert reply.status_code == status and reply.json()["error"]["message"] == str(error)
    assert ("Retry-After" in reply.headers) == (status == 429)


def test_an_error_in_the_midst_of_a_stream_is_its_last_event() -> None:
    failing = FakeBackend("one two", error=EngineStopped("broken"))
    assert post(failing).status_code == 503
    assert chunks(post(failing, stream=True).text)[-1]["error"]["message"] == "broken"


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_hangs_up_frees_the_engine(stream: bool) -> None:
    backend = FakeBackend("word " * 500, pause=0.02)
    server = uvicorn.Server(uvicorn.Config(service(backend, Access(answers_at_once=1)), log_level="critical"))
    bound = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    body = json.dumps({"messages": HELLO, "stream": stream}).encode()
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number in range(2):  # the second is admitted only when the first has been released
        with socket.create_connection(bound.getsockname()) as caller:
            caller.sendall(head + body)
            until(lambda: len(backend.streams) > number)  # noqa: B023 - called within this iteration
        until(lambda: backend.streams[number].cancelled)  # noqa: B023
        time.sleep(0.05)
    server.should_exit = True
    thread.join(5)


def test_a_caller_who_reads_no_more_does_not_keep_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.openai.routes._STALL_SECONDS", 0.01)
    resources, released = AsyncExitStack(), threading.Event()
    resources.callback(released.set)

    async def events() -> AsyncGenerator[str, None]:
        yield "data: 1"

    async def forever(*_: object) -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.wait_for(_EventStream(events(), resources)({"type": "http"}, forever, forever), 5)

    asyncio.run(main())
    assert released.is_set()
