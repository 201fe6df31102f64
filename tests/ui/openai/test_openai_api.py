"""/v1 over a fake backend: requests to the engine, responses to clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Sequence
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
from ui.models.catalog import Catalog
from ui.models.files import CatalogEntry
from ui.models.registry import one_model
from ui.openai.routes import MAX_BODY, _EventStream, add_openai_api
from ui.openai.schemas import ChatRequest

HELLO = [{"role": "user", "content": "Hello"}]
URL = "/v1/chat/completions"


def service(backend: FakeBackend, access: Access | None = None, others: Sequence[str] = ()) -> FastAPI:
    """Return /v1 over a backend, with the keys of `others` on offer beside it."""
    app, models = FastAPI(), one_model(backend)
    if others:
        catalog = Catalog(CatalogEntry(key, key, f"{key}.gguf") for key in (models.pool.default, *others))
        models = replace(models, catalog=catalog)
    add_openai_api(app, models)
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
    post(backend, **given, max_tokens=9, max_completion_tokens=8, seed=-2, stop="END", response_format=form)
    wanted = SamplingParams(**given, max_tokens=8, seed=2**32 - 2, stop=("END",), json_schema=schema)  # type: ignore[arg-type]
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
        ({"tools": [{"type": "function"}]}, "tools.0.function is missing"),
        ({"logprobs": True}, "logprobs is not served here"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "the result of the call ''"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature=9"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"top_k": -2}, "top_k=-2"),
        ({"stop": ""}, "stop"),
        ({"response_format": {"type": "json_schema"}}, "json_schema.schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "json_schema.schema"),
        ({"response_format": {"type": "json_object", "schemata": {}}}, "response_format.schemata"),
        ({"response_format": {"type": "text", "schema": {}}}, "do not go together"),
        ({"response_format": "json"}, "response_format"),
        ({"json_schema": {"type": "null"}, "grammar": 'root ::= "a"'}, "json_schema and grammar"),
        ({"grammar": 3}, "grammar"),
        ({"guided_regex": "a+"}, "guided_regex is not served here"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
        ({"regex": "a+"}, "regex is not served here"),
        ({"response_schema": {"type": "null"}}, "response_schema is not served here"),
        ({"ebnf": "a"}, "ebnf is not served here"),
        ({"logit_bias": {"5": -100}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"mirostat": 2}, "mirostat"),
        ({"typical": 0.5}, "typical"),
        ({"dry_multiplier": 0.8}, "dry_multiplier"),
        ({"xtc_probability": 1.5}, "xtc_probability"),
        ({"repetition_penalty": 1.2}, "use repeat_penalty"),
        ({"max_new_tokens": 5}, "use max_tokens"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"system": "Be brief."}, "a message with the role system"),
        ({"options": {"temperature": 0}}, "options"),
        ({"temprature": 0}, "is it temperature?"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "tool_calls"),
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
    several = TestClient(service(FakeBackend(), others=["second"]))
    reply = several.post(URL, json={"messages": HELLO, "model": "gpt-7"})
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "model_not_found"
    api = TestClient(service(FakeBackend()))
    assert [model["id"] for model in api.get("/v1/models").json()["data"]] == ["fake"]
    assert api.get("/v1/models/fake").json()["object"] == "model"
    assert api.get("/v1/models/other").status_code == 404
    assert api.post("/v1/embeddings").json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["gpt-4o", "", "fake", None])
def test_any_name_means_the_only_model_and_the_answer_says_which(name: str | None, stream: bool) -> None:
    reply = post(FakeBackend("one"), model=name, stream=stream)
    assert (reply.status_code, reply.headers["X-Model"]) == (200, "fake")
    answer = chunks(reply.text)[0] if stream else reply.json()
    assert answer["model"] == "fake" and "X-Ignored-Fields" not in reply.headers


SCHEMA = {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}
YES_NO = 'root ::= "yes" | "no"'


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA, "name": "x", "strict": True}},
        {"response_format": {"type": "json_object", "schema": SCHEMA, "json_schema": None}},
        {"response_format": {"type": "json", "value": SCHEMA}},
        {"json_schema": SCHEMA},
        {"json_schema": {"name": "x", "schema": SCHEMA}},
        {"guided_json": SCHEMA, "guided_decoding_backend": "x"},
        {"guided_json": json.dumps(SCHEMA), "guided_regex": None, "response_format": {"type": "text"}},
        {"structured_outputs": {"json": SCHEMA, "regex": None}},
        {"format": SCHEMA},
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    ],
)
def test_a_schema_is_taken_wherever_clients_put_it(body: dict[str, Any]) -> None:
    backend = FakeBackend()
    assert post(backend, **body).status_code == 200
    asked = backend.asked[0][1]
    assert json.loads(str(asked.json_schema)) == SCHEMA and not asked.grammar


@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({"grammar": YES_NO}, YES_NO),
        ({"guided_grammar": YES_NO}, YES_NO),
        ({"structured_outputs": {"grammar": YES_NO}}, YES_NO),
        ({"response_format": {"type": "grammar", "grammar": YES_NO}}, YES_NO),
        ({"guided_choice": ["yes", 'n"o\n', "a\\b"]}, r'root ::= "yes" | "n\"o\x0A" | "a\\b"'),
        ({"structured_outputs": {"choice": ["a"]}}, 'root ::= "a"'),
        ({"grammar": "", "guided_choice": [], "json_schema": None, "format": ""}, ""),
        ({"response_format": {"type": "text"}, "text": {}, "structured_outputs": {}}, ""),
    ],
)
def test_a_grammar_or_choice_is_taken_too(body: dict[str, Any], grammar: str) -> None:
    backend = FakeBackend()
    assert post(backend, **body).status_code == 200
    assert (backend.asked[0][1].grammar, backend.asked[0][1].json_schema) == (grammar, None)


@pytest.mark.parametrize("form", [{"response_format": {"type": "json_object"}}, {"format": "json"}])
def test_any_object_is_a_form(form: dict[str, Any]) -> None:
    backend = FakeBackend()
    post(backend, **form)
    assert backend.asked[0][1].json_schema == '{"type": "object"}'


def test_null_is_absent_everywhere() -> None:
    backend = FakeBackend("one")
    message = {"role": "user", "content": "Hello", "name": None, "tool_calls": None}
    nothing = dict.fromkeys((*ChatRequest.model_fields, "tools", "logprobs", "grammar", "made_up"))
    reply = post(backend, **{**nothing, "messages": [message]})
    assert reply.status_code == 200 and "X-Ignored-Fields" not in reply.headers
    plain = post(backend, stream=True, stream_options={"include_usage": None})
    assert chunks(plain.text)[-1] == "[DONE]" and not any("usage" in part for part in chunks(plain.text)[:-1])
    wrapped = {"name": None, "strict": None, "description": None, "schema": {"const": None}}
    form = {"type": "json_schema", "json_schema": wrapped, "schema": None}
    assert post(backend, response_format=form).status_code == 200
    assert [asked[1].json_schema for asked in backend.asked] == [None, None, '{"const": null}']
    assert backend.asked[0][1] == replace(SamplingParams(), max_tokens=2048)


def test_minus_one_means_what_it_means_to_local_servers() -> None:
    backend = FakeBackend()
    for body in ({"max_tokens": -1}, {"max_completion_tokens": -1}, {"n_predict": -2}, {"n_predict": 7}):
        assert post(backend, **body, top_k=-1, seed=-1).status_code == 200
    asked = [sampling for _, sampling in backend.asked]
    assert [sampling.max_tokens for sampling in asked] == [2048, 2048, 2048, 7]
    assert {(sampling.top_k, sampling.seed) for sampling in asked} == {(0, None)}


HARMLESS: dict[str, Any] = {
    **{
        "user": "me",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": True,
    },
    **{
        "tools": [],
        "tool_choice": "auto",
        "logprobs": False,
        "top_logprobs": 0,
        "logit_bias": {},
        "best_of": 1,
    },
    **{
        "modalities": ["text"],
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
    },
    **{"dry_multiplier": 0.0, "dry_base": 1.75, "min_tokens": 0, "ignore_eos": False, "cache_prompt": True},
    **{"samplers": [], "chat_template_kwargs": {}, "add_generation_prompt": True, "grammar_lazy": False},
}


def test_what_asks_for_nothing_is_ignored_and_what_is_unknown_is_told() -> None:
    reply = post(FakeBackend(), **HARMLESS)
    assert reply.status_code == 200 and "X-Ignored-Fields" not in reply.headers
    told = post(FakeBackend(), **HARMLESS, made_up=1, häh=[2], empty="")
    assert (told.status_code, told.headers["X-Ignored-Fields"]) == (200, "made_up,h%C3%A4h")


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
