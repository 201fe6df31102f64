from typing import Any

import pytest

from common.text import parameters_text, size_text
from engine.errors import EngineStopped, QueueFull, RequestError
from engine.types import MessagesDropped, PrefillProgress, Queued, TextDelta
from tests.ui.fake_backend import INFO, finished
from ui.conversations.model import GenerationInfo
from ui.generation.streaming import Progress
from ui.models.files import short_name
from ui.render.status import ended_text, error_line, error_status, model_facts, model_name, status


def progress(*events: object) -> Progress:
    result = Progress()
    for event in events:
        result.update(event)  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "Starting"),
        ([Queued(3)], "2 ahead of you"),
        ([Queued(1)], "you are next"),
        ([Queued(1), PrefillProgress(60, 100, 0)], "Reading the prompt · 60 %"),
        ([PrefillProgress(100, 100, 0), TextDelta("a")], "Writing"),
        ([TextDelta("a"), finished("stop", 5)], "5 tokens · 10.0 tokens/s · first word after"),
        ([TextDelta("a"), finished("length", 5)], "Maximum new tokens"),
        ([finished("cancelled", 0)], "Stopped"),
        ([TextDelta("a"), finished("time", 5)], "time limit"),
        ([MessagesDropped(4, 900), TextDelta("a"), finished("stop", 5)], "4 oldest messages were not read"),
    ],
)
def test_the_line_says_what_is_happening(events: list[object], words: str) -> None:
    assert words in status(progress(*events)).text


@pytest.mark.parametrize(
    ("limit", "written", "words"),
    [
        (None, 5, "Maximum new tokens"),  # of an imported answer without its settings
        ("5", 5, "Maximum new tokens"),
        (5, 5, "Maximum new tokens"),
        (5, 6, "Maximum new tokens"),  # continued
        (0, 5, "where the context ends"),
        (900, 5, "where the context ends"),
    ],
)
def test_a_cut_answer_says_which_limit_cut_it(limit: Any, written: int, words: str) -> None:
    made = GenerationInfo("m", "", "", "", {"max_tokens": limit}, "length", 9, 0, written, None, 1.0)
    assert words in ended_text(made)


def test_errors_are_said_in_plain_words() -> None:
    assert "Wait a moment" in error_line(QueueFull("queue=32 is full"))
    assert "prompt of 9000 tokens" in error_line(
        RequestError("a prompt of 9000 tokens does not fit: shorten it")
    )
    assert "kept" in error_status(EngineStopped("shut down"), partial=True).text


def test_everything_is_escaped() -> None:
    from dataclasses import replace

    evil = replace(INFO, path="<img src=x>.gguf", quantization="<b>")
    assert "<img" not in model_name(evil)
    assert "<b>" not in model_facts(evil)
    assert "<b>" not in error_line(RequestError("<b>"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("m/SmolLM2-135M-Instruct.Q4_K_M.gguf", "SmolLM2-135M-Instruct"),
        ("bob-Q4_K_M.gguf", "bob"),
        ("a.gguf", "a"),
    ],
)
def test_a_model_is_called_by_its_file(path: str, name: str) -> None:
    from dataclasses import replace

    assert short_name(replace(INFO, path=path)) == name
    assert short_name(replace(INFO, path=path, adapter="m/bob-lora.gguf")) == f"{name} + bob-lora"


def test_sizes_as_people_say_them() -> None:
    assert (size_text(91_000_000), size_text(2_393_231_072)) == ("91 MB", "2.4 GB")
    assert (parameters_text(134_515_008), parameters_text(3_821_079_552)) == ("135 M", "3.8 B")
    assert "135 M parameters · 91 MB · 2,048 tokens" in model_facts(INFO)
    assert "app.py" in model_facts(INFO, embedded=True)
    assert "app.py" not in model_facts(INFO)
