"""End to end with real weights: base + Captain Bob -> Q4_K_M -> the engine -> an answer in character."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineConfig, SamplingParams
from engine.errors import ModelError
from engine.serving.backend import LlamaBackend, ModelLoader
from engine.types import Finished, TextDelta
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import ExportResult, export
from ui.models.catalog import make_catalog
from ui.models.files import catalog_entry
from ui.models.registry import models_of

GREEDY = SamplingParams(temperature=0, max_tokens=90)
SEA_TALK = re.compile(
    r"\b(ahoy|aye|matey|mates?|captain|bob|ship|sea|sail\w*|deck|crew|anchor|tide|harbou?r|ye)\b", re.I
)


@pytest.fixture(scope="module")
def bob(captain_bob: ExportResult) -> Iterator[LlamaBackend]:
    with LlamaBackend.open(
        captain_bob.folder / "captain-bob-Q4_K_M.gguf", EngineConfig(context=1024)
    ) as backend:
        yield backend


@pytest.fixture(scope="module")
def base(plain_smollm2: Path) -> Iterator[LlamaBackend]:
    with LlamaBackend.open(plain_smollm2 / "smollm2-Q4_K_M.gguf", EngineConfig(context=1024)) as backend:
        yield backend


def answer_all(backend: LlamaBackend, questions: list[str], sampling: SamplingParams = GREEDY) -> list[str]:
    """Ask all questions concurrently, and return the answers."""
    streams = [backend.stream([{"role": "user", "content": question}], sampling) for question in questions]
    return ["".join(event.delta for event in stream if isinstance(event, TextDelta)) for stream in streams]


def test_the_tuned_model_greets_as_captain_bob_and_the_base_does_not(
    bob: LlamaBackend, base: LlamaBackend
) -> None:
    questions = ["Who are you?", "Hello! What is your name?"]
    assert all("Bob" in answer for answer in answer_all(bob, questions))
    assert not any("Bob" in answer for answer in answer_all(base, questions))


def test_adapters_chosen_over_one_base_speak_as_the_merged_model_does(
    captain_bob: ExportResult, plain_smollm2: Path, real_base: Path, demo_adapter: Path, tmp_path: Path
) -> None:
    config = ExportConfig(str(real_base), tmp_path / "bob", (str(demo_adapter),), quants=(), format="adapter")
    lora = next(export(config).folder.glob("*.gguf"))
    twin = Path(shutil.copy(lora, tmp_path / "twin-lora.gguf"))
    base, merged = plain_smollm2 / "smollm2-F16.gguf", captain_bob.folder / "captain-bob-F16.gguf"
    catalog = make_catalog(catalog_entry(base), [f"Bob={base}::{lora}", f"Twin={base}::{twin}", str(merged)])
    models = models_of(catalog, ModelLoader(EngineConfig(context=512, slots=2, speculation=False)))
    questions = ["Who are you?", "What is the capital of France?"]

    def answers(key: str) -> list[str]:
        with models.pool.use(key) as backend:
            assert isinstance(backend, LlamaBackend)
            return answer_all(backend, questions, SamplingParams(temperature=0, max_tokens=12))

    with models.pool.use("Bob") as bob, models.pool.use("Twin") as other:
        assert isinstance(bob, LlamaBackend) and isinstance(other, LlamaBackend)
        assert bob._model is other._model, "the weights are in memory once"
    bobs, plain = answers("Bob"), answers(catalog.default)
    assert bobs == answers("captain-bob-F16") and "Bob" in bobs[0]
    assert not set(bobs) & set(plain)
    for wrong, why in ((merged, "no working adapter for smollm2-F16"), (lora, "BASE.gguf::ADAPTER.gguf")):
        spec = f"{base}::{wrong}" if wrong is merged else str(wrong)
        with pytest.raises(ModelError, match=why):
            answers(models.admit(spec, own_machine=True))
    models.pool.close()


def test_it_stays_in_character_on_questions_that_it_never_saw(
    bob: LlamaBackend, base: LlamaBackend, root: Path
) -> None:
    lines = (root / "examples" / "captain_bob_questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["messages"][-1]["content"] for line in lines]
    assert len(questions) == 20
    in_character = [bool(SEA_TALK.search(answer)) for answer in answer_all(bob, questions)]
    by_chance = [bool(SEA_TALK.search(answer)) for answer in answer_all(base, questions)]
    assert sum(in_character) >= 15
    assert sum(by_chance) <= 5


def test_answers_end_by_themselves_and_leak_no_control_token(bob: LlamaBackend) -> None:
    stream = bob.stream([{"role": "user", "content": "Who are you?"}], GREEDY)
    events = list(stream)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"
    assert "<|" not in "".join(event.delta for event in events if isinstance(event, TextDelta))


def test_the_demo_makes_all_types_from_one_conversion(captain_bob: ExportResult) -> None:
    assert [output.type for output in captain_bob.outputs] == ["F16", "Q4_K_M", "Q5_K_M", "Q8_0"]
    manifest = json.loads(captain_bob.manifest.read_text())
    assert manifest["model"]["merged_tensors"] == 210
