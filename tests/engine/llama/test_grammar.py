from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.config import SamplingParams
from engine.core.types import BatchRow
from engine.errors import RequestError, SettingsError
from engine.llama.model import Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import load_cpu_backend
from engine.serving.backend import LlamaBackend
from tests.engine.helpers import ask, user

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_grammar_binds_the_answer(backend: LlamaBackend, temperature: float) -> None:
    sampling = SamplingParams(
        temperature=temperature, max_tokens=30, grammar='root ::= ("yes" | "no") " " [0-9]{3}'
    )
    text, finished = ask(backend, user("Is the sea blue?"), sampling)
    assert re.fullmatch(r"(yes|no) \d{3}", text) and finished.reason == "stop"


def test_a_grammar_that_is_at_its_end_ends_the_answer_even_if_ends_are_ignored(backend: LlamaBackend) -> None:
    sampling = SamplingParams(temperature=0.7, max_tokens=30, grammar='root ::= "yes"', ignore_end=True)
    text, finished = ask(backend, user("Is the sea blue?"), sampling)
    assert (text, finished.reason) == ("yes", "stop")


def test_tokens_are_drawn_as_if_the_grammar_came_first(smollm2: Path, cache: Path) -> None:
    """The grammar rejects tokens after a draw; the probabilities must equal those of masking before it."""
    model = Model(smollm2, extra_buffers=load_cpu_backend(smollm2).extra_buffers)
    runner = Runner(model, slots=1, context=64, batch=64, threads=2)
    prompt = model.vocab.tokenize("A short answer to a question:", special=False)
    runner.decode([BatchRow(0, 0, prompt, 1)])
    words, temperature, draws = (" Yes", " No", " The", " Perhaps"), 3.0, 300
    allowed = [
        token
        for token in range(model.vocab.size)
        if (piece := model.vocab.piece(token)) and any(word.encode().startswith(piece) for word in words)
    ]
    weights = np.exp(runner.logits(0, 1)[0][allowed].astype(float) / temperature)
    chances = dict(zip(allowed, weights / weights.sum(), strict=True))
    drawn: Counter[int] = Counter()
    for seed in range(draws):
        grammar = "root ::= " + " | ".join(f'"{word}"' for word in words)
        runner.start(0, SamplingParams(temperature, 9, 1.0, 1.0, 0, 0.0, seed, grammar=grammar))
        drawn[runner.sample(0)] += 1
    runner.close()
    model.close()
    assert set(drawn) <= set(chances) and max(chances.values()) < 0.8
    assert sum(abs(drawn[token] / draws - chance) for token, chance in chances.items()) / 2 < 0.1


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_a_json_schema_binds_the_answer(backend: LlamaBackend, schema: str | dict[str, object]) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=100, json_schema=schema)
    text, finished = ask(backend, user("Describe a sailor as JSON."), sampling)
    assert finished.reason == "stop"
    answer = json.loads(text)
    assert set(answer) == {"name", "age"} and isinstance(answer["age"], int)


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        (SamplingParams(grammar="root ::= ("), "not valid GBNF"),
        (SamplingParams(grammar='other ::= "a"'), "not valid GBNF"),
        (SamplingParams(grammar="root ::= root"), "not valid GBNF"),
        (SamplingParams(grammar='root ::= "' + "a" * 70000 + '"'), "70011 characters"),
        (SamplingParams(grammar='root ::= "a\0"'), "NUL"),
        (SamplingParams(grammar="root ::= " + "(" * 30000), "30000 opening"),  # and no crash
        (SamplingParams(json_schema="{"), "JSON schema"),
        (SamplingParams(json_schema="[1]"), "JSON schema"),
        (SamplingParams(json_schema={"$ref": "https://example.com/x.json"}), "JSON schema"),
        (SamplingParams(json_schema={"$ref": "#/nowhere"}), "JSON schema"),
        (SamplingParams(json_schema={"type": "string", "pattern": r"^(a)\1$"}), "pattern: backreferences"),
        (SamplingParams(json_schema={"type": "strin"}), "Invalid type: strin"),
        (SamplingParams(json_schema={"const": "a" * 70000}), "70013 characters"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(
    backend: LlamaBackend, sampling: SamplingParams, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match=word):
        backend.stream(user("Hi"), sampling)
    assert capfd.readouterr().err == ""  # untrusted input is not logged


def test_a_constant_is_text_whatever_it_spells(backend: LlamaBackend) -> None:
    constant = 'a" | ("b" \\ # '
    sampling = SamplingParams(temperature=0, max_tokens=30, json_schema={"const": constant})
    assert json.loads(ask(backend, user("Hi"), sampling)[0]) == constant


def test_settings_with_a_schema_are_hashable_and_both_are_too_much() -> None:
    assert hash(SamplingParams(json_schema=SCHEMA)) == hash(SamplingParams(json_schema=json.dumps(SCHEMA)))
    with pytest.raises(SettingsError, match="not both"):
        SamplingParams(grammar='root ::= "a"', json_schema="{}")
