"""/v1/completions over a fake backend: texts to the engine, OpenAI's form to clients."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from engine.errors import PromptTooLong, QueueFull
from engine.types import TextToScore
from tests.ui.fake_backend import FakeBackend
from tests.ui.openai.test_openai_api import chunks, service


def post(backend: FakeBackend, **body: Any) -> Any:
    return TestClient(service(backend)).post("/v1/completions", json=body)


def test_a_text_is_continued_as_it_is() -> None:
    backend = FakeBackend("a sea of words")
    reply = post(
        backend, model="any", prompt="The sky is", temperature=0, stop=None, logprobs=None, echo=None
    )
    assert reply.status_code == 200 and reply.headers["x-model"] == "fake"
    body = reply.json()
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": "a sea of words", "logprobs": None, "finish_reason": "stop"}
    ]
    assert (
        body["usage"]["completion_tokens"]
        == 4
        == body["usage"]["total_tokens"] - body["usage"]["prompt_tokens"]
    )
    (asked, sampling), *others = backend.continued
    assert asked == "The sky is" and not others and not backend.asked
    assert (sampling.temperature, sampling.max_tokens) == (0, 16)  # OpenAI's default


@pytest.mark.parametrize(
    ("limit", "tokens"), [({"max_tokens": 7}, 7), ({"max_tokens": -1}, 2048), ({"n_predict": 3}, 3)]
)
def test_a_limit_is_kept(limit: dict[str, int], tokens: int) -> None:
    backend = FakeBackend()
    post(backend, prompt="x", **limit)
    assert backend.continued[0][1].max_tokens == tokens


def test_several_texts_are_as_many_choices_and_echo_sends_them_back() -> None:
    backend = FakeBackend("and more")
    body = post(backend, prompt=["One ", "Two "], echo=True).json()
    assert [(one["index"], one["text"]) for one in body["choices"]] == [
        (0, "One and more"),
        (1, "Two and more"),
    ]
    assert [text for text, _ in backend.continued] == ["One ", "Two "]
    assert body["usage"]["completion_tokens"] == 4


def test_a_stream_has_the_same_text() -> None:
    reply = post(
        FakeBackend("a sea"), prompt="The ", echo=True, stream=True, stream_options={"include_usage": True}
    )
    *events, last = chunks(reply.text)
    assert last == "[DONE]" and {event["object"] for event in events} == {"text_completion"}
    *texts, usage = events
    assert "".join(event["choices"][0]["text"] for event in texts) == "The a sea"
    assert [event["choices"][0]["finish_reason"] for event in texts][-2:] == [None, "stop"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "prompt: Field required"),
        ({"prompt": ""}, "prompt: send a text that is not empty"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt: token ids are another model's"),
        ({"prompt": [[1, 2], [3]]}, "prompt: token ids are another model's"),
        ({"prompt": ["x", "y"], "stream": True}, "several prompts are not streamed"),
        ({"prompt": "x", "suffix": "y"}, "suffix is not served here"),
        ({"prompt": "x", "logprobs": 0}, "logprobs is not served here"),
        ({"prompt": "x", "best_of": 3}, "best_of is not served here"),
        ({"prompt": "x", "n": 2}, "n: only one answer"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens: 0 is no limit"),
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
        assert post(backend, prompt="x").status_code == status


SCORED = {"logprobs": 1, "echo": True, "max_tokens": 1, "temperature": 0}


def test_the_tokens_of_a_prompt_are_scored() -> None:
    backend = FakeBackend()
    body = post(backend, prompt=["a b", [3, 4]], seed=1234, **SCORED).json()
    assert [prompt for prompt, _ in backend.scored] == [TextToScore("a b", 1), TextToScore([3, 4], 1)]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0] == {
        "index": 0,
        "text": "a b c",
        "finish_reason": "length",
        "logprobs": {
            "tokens": ["a", " b", " c"],
            "token_logprobs": [None, -0.5, -1.0],
            "top_logprobs": [None, {" b": -0.5}, {" c": -1.0}],
            "text_offset": [0, 1, 3],
        },
    }
    assert body["usage"]["prompt_tokens"] == 4 and body["usage"]["completion_tokens"] == 2


def test_the_ids_of_one_prompt_need_no_list_around_them() -> None:
    backend = FakeBackend()
    assert len(post(backend, prompt=[5, 6, 7], **{**SCORED, "logprobs": 0}).json()["choices"]) == 1
    assert backend.scored[0][0] == TextToScore([5, 6, 7], 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": "many"}, "logprobs"),
        ({"echo": False}, "logprobs is not served here but with echo, max_tokens 1 and temperature 0"),
        ({"max_tokens": 16}, "logprobs is not served here but with echo, max_tokens 1"),
        ({"max_tokens": None}, "logprobs is not served here but"),
        ({"temperature": None}, "logprobs is not served here but"),
        ({"stream": True}, "not streamed"),
        ({"prompt": [1, "x"]}, "token ids are another model's"),
        ({"prompt": [[True]]}, "token ids are another model's"),
        ({"prompt": [[]]}, "token ids are another model's"),
        ({"grammar": 'root ::= "a"'}, "logprobs and a form of the answer do not go together"),
    ],
)
def test_what_cannot_be_scored_is_named(change: dict[str, Any], named: str) -> None:
    backend = FakeBackend()
    reply = post(backend, **{"prompt": "x", **SCORED, **change})
    assert reply.status_code == 400
    assert named in reply.json()["error"]["message"]
    assert backend.prompts == []


def test_logprobs_that_ask_for_nothing_are_served_as_before() -> None:
    backend = FakeBackend("more")
    for nothing in (None, False):
        body = post(backend, prompt="x", logprobs=nothing).json()
        assert body["choices"][0]["text"] == "more" and body["choices"][0]["logprobs"] is None
