"""The fuzzer: its mutants, what it finds, and a seeded run of it; `scripts/fuzz.py` runs it for any time."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.config_mutations import CONFIGS
from bench.fuzz import KINDS, QUESTIONS, FuzzConfig, Fuzzer, FuzzResult, Mutant, Outcome, mutant
from bench.raw_gguf import read_raw
from bench.tiny_gguf import CHATML, write_adapter, write_model
from bench.tiny_gguf import KINDS as TOKENIZERS
from engine.process import client
from pipeline.errors import InputError

NUMBER = 30  # mutants that are tried here
HANG = "{% set n = 9 %}{% set x = n ** (n ** n) %}"  # one call of C that keeps the interpreter's lock


@pytest.fixture
def fuzzer(tmp_path: Path) -> Iterator[Fuzzer]:
    with Fuzzer(tmp_path, FuzzConfig(mutants=1)) as fuzzer:
        yield fuzzer


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_file_that_is_not_changed_is_written_as_it_was(tmp_path: Path, kind: str) -> None:
    content = write_model(tmp_path / "model.gguf", kind).read_bytes()
    assert read_raw(content).copy().to_bytes() == content


def test_a_seed_and_a_number_are_one_mutant() -> None:
    first = [mutant(1, number) for number in range(300)]
    assert [mutant(1, number) for number in reversed(range(300))] == first[::-1]
    assert len({one.content for one in first}) > 280
    assert sum(mutant(2, number) == one for number, one in enumerate(first)) < 20
    assert set(Counter(one.kind for one in first)) == set(KINDS)
    assert {one.name for one in first} == {"", *CONFIGS}


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="--mutants or --only"):
        FuzzConfig()
    with pytest.raises(InputError, match="--seconds 0 is too few"):
        FuzzConfig(seconds=0)


def test_a_broken_promise_is_named_with_the_command_that_reruns_it() -> None:
    outcome = Outcome("bytes")
    outcome.hung("the question 'hello'")
    result = FuzzResult(3, {7: outcome, 8: Outcome("bytes")}, 1.0, 2 << 30)
    assert result.broken == [
        "mutant 7 (bytes): the question 'hello' got no answer in time: "
        "python scripts/fuzz.py --seed 3 --only 7",
        "the server's process took 2048 MiB",
    ]


@pytest.mark.slow
def test_good_inputs_are_accepted_and_answered(fuzzer: Fuzzer, tmp_path: Path) -> None:
    for path in (write_model(tmp_path / "a.gguf", "gpt2"), write_adapter(tmp_path / "b.gguf")):
        kind = "adapter" if path.name == "b.gguf" else "tokenizer"
        outcome = fuzzer.attempt(Mutant(kind, path.read_bytes()))
        assert (outcome.fate, outcome.answered, outcome.broken) == ("accepted", len(QUESTIONS), [])
    for name, content in CONFIGS.items():
        outcome = fuzzer.attempt(Mutant("config", json.dumps(content).encode(), name))
        assert (outcome.fate, outcome.broken) == ("accepted", [])


@pytest.mark.slow
def test_deaths_hangs_and_errors_are_found(
    fuzzer: Fuzzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HANG_SECONDS", 1.0)
    trap = "{% if 'JSON' in messages[-1]['content'] %}" + HANG + "{% endif %}" + CHATML
    content = write_model(tmp_path / "trap.gguf", template=trap).read_bytes()
    outcome = fuzzer.attempt(Mutant("template", content))
    assert (outcome.fate, outcome.answered, outcome.deaths) == ("accepted", len(QUESTIONS) - 1, 1)
    assert outcome.broken == []  # its process may die; the others go on
    outcome = fuzzer.attempt(Mutant("config", b"", "no such folder/config.json"))
    assert outcome.server_deaths == 1 and "FileNotFoundError" in outcome.broken[0]
    fuzzer._limit = 0.0
    outcome = fuzzer.attempt(Mutant("config", b"{}", "base/config.json"))
    assert (outcome.hangs, outcome.broken) == (1, ["base/config.json got no answer in time"])


@pytest.mark.slow
def test_the_promises_hold_for_some_mutants(root: Path, python: str) -> None:
    command = [python, "scripts/fuzz.py", "--mutants", str(NUMBER), "--seed", "7"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (f"{NUMBER} mutants", "deaths of the server's process: 0", "hangs: 0"):
        assert line in done.stdout
    assert "BROKEN" not in done.stdout + done.stderr
