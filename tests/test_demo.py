"""The whole road with real weights: base + Captain Bob -> Q4_K_M -> the engine -> an answer in character."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.local import LocalBackend
from engine.request import Finished, Text
from engine.settings import EngineSettings, SamplingSettings
from pipeline.run import ExportResult
from pipeline.toolchain import ensure_toolchain

GREEDY = SamplingSettings(temperature=0, max_tokens=90)
SEA_TALK = re.compile(
    r"\b(ahoy|aye|matey|mates?|captain|bob|ship|sea|sail\w*|deck|crew|anchor|tide|harbou?r|ye)\b", re.I
)


@pytest.fixture(scope="module")
def bob(captain_bob: ExportResult) -> Iterator[LocalBackend]:
    with LocalBackend.open(
        captain_bob.folder / "captain-bob-Q4_K_M.gguf", EngineSettings(context=1024)
    ) as backend:
        yield backend


@pytest.fixture(scope="module")
def base(plain_smollm2: Path) -> Iterator[LocalBackend]:
    with LocalBackend.open(plain_smollm2 / "smollm2-Q4_K_M.gguf", EngineSettings(context=1024)) as backend:
        yield backend


def answer_all(backend: LocalBackend, questions: list[str]) -> list[str]:
    """All questions at once, as many people would ask them."""
    streams = [backend.stream([{"role": "user", "content": question}], GREEDY) for question in questions]
    return ["".join(event.delta for event in stream if isinstance(event, Text)) for stream in streams]


def test_the_tuned_model_greets_as_captain_bob_and_the_base_does_not(
    bob: LocalBackend, base: LocalBackend
) -> None:
    questions = ["Who are you?", "Hello! What is your name?"]
    assert all("Bob" in answer for answer in answer_all(bob, questions))
    assert not any("Bob" in answer for answer in answer_all(base, questions))


def test_the_adapter_on_the_loaded_base_speaks_as_the_merged_model_does(
    base: LocalBackend, real_base: Path, demo_adapter: Path, tmp_path: Path
) -> None:
    tools, lora = ensure_toolchain(), tmp_path / "captain-bob-lora.gguf"
    command = [sys.executable, str(tools / "convert_lora_to_gguf.py"), "--base", str(real_base)]
    subprocess.run(
        [*command, "--outfile", str(lora), "--outtype", "f16", str(demo_adapter)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tools / "gguf-py")},
    )
    questions = ["Who are you?", "Hello! What is your name?"]
    with base.with_adapter(lora) as bob:
        assert all("Bob" in answer for answer in answer_all(bob, questions))
        assert not any("Bob" in answer for answer in answer_all(base, questions))


def test_it_stays_in_character_on_questions_that_it_never_saw(
    bob: LocalBackend, base: LocalBackend, root: Path
) -> None:
    lines = (root / "examples" / "captain_bob_questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["messages"][-1]["content"] for line in lines]
    assert len(questions) == 20
    in_character = [bool(SEA_TALK.search(answer)) for answer in answer_all(bob, questions)]
    by_chance = [bool(SEA_TALK.search(answer)) for answer in answer_all(base, questions)]
    assert sum(in_character) >= 15
    assert sum(by_chance) <= 5


def test_answers_end_by_themselves_and_leak_no_control_token(bob: LocalBackend) -> None:
    stream = bob.stream([{"role": "user", "content": "Who are you?"}], GREEDY)
    events = list(stream)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"
    assert "<|" not in "".join(event.delta for event in events if isinstance(event, Text))


def test_the_demo_makes_all_types_from_one_conversion(captain_bob: ExportResult) -> None:
    assert [output.type for output in captain_bob.outputs] == ["F16", "Q4_K_M", "Q5_K_M", "Q8_0"]
    manifest = json.loads(captain_bob.manifest.read_text())
    assert manifest["model"]["merged_tensors"] == 210
