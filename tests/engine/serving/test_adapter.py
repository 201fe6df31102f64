from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp as llama

from engine.config import EngineConfig, SamplingParams
from engine.errors import EngineError, EngineStopped, ModelError
from engine.llama.model import Adapter
from engine.serving.backend import LlamaBackend
from tests.engine.helpers import ask, user

SAMPLING = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=12)
# A random adapter gives near ties between tokens, which the batch size may decide.
SETTINGS = EngineConfig(context=256, slots=2, speculation=False)
QUESTIONS = ["Who are you?", "Name a fruit."]
WIDTH, RANK = 576, 4


def _adapter(path: Path, width: int = WIDTH) -> Path:
    """Write a LoRA as llama.cpp's convert_lora_to_gguf.py does; it changes answers without garbling them.

    Garbled text has many near ties, which depend on the order of additions in each batch shape.
    """
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(30):
        name = f"blk.{layer}.attn_q.weight"
        for part, shape in (("a", (RANK, width)), ("b", (width, RANK))):
            writer.add_tensor(f"{name}.lora_{part}", random.normal(0, 0.15, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _adapter(tmp_path_factory.mktemp("lora") / "pirate.gguf")


def _answers(backend: LlamaBackend) -> list[str]:
    return [ask(backend, user(question), SAMPLING)[0] for question in QUESTIONS]


def test_base_and_tuned_answer_side_by_side(smollm2: Path, cache: Path, adapter: Path) -> None:
    base = LlamaBackend.open(smollm2, SETTINGS)
    plain = _answers(base)
    tuned = base.with_adapter(adapter)
    assert tuned._model is base._model and tuned.info.adapter == str(adapter)
    alone = _answers(tuned)
    assert alone != plain
    together: dict[str, list[str]] = {}
    threads = [
        threading.Thread(target=lambda n=name, b=backend: together.update({n: _answers(b)}))
        for name, backend in (("base", base), ("tuned", tuned))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == {"base": plain, "tuned": alone}
    base.close()
    with pytest.raises(EngineStopped):
        base.with_adapter(adapter)
    assert _answers(tuned) == alone, "the weights live as long as their last user"
    tuned.close()
    assert tuned._model.handle is None


def test_an_adapter_without_room_is_freed(
    backend: LlamaBackend, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counter[str]()

    def counted(place: object, name: str) -> None:
        function = getattr(place, name)

        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        monkeypatch.setattr(place, name, call)

    counted(Adapter, "close")
    counted(llama, "llama_init_from_model")
    counted(llama, "llama_free")
    monkeypatch.setattr(llama, "llama_set_adapters_lora", lambda *_: 1)
    monkeypatch.setattr("engine.serving.backend.check_adapter", lambda *_: None)  # needs a child process
    with pytest.raises(EngineError, match="does not take"):
        backend.with_adapter(adapter)
    assert counts == {"close": 1, "llama_init_from_model": 1, "llama_free": 1}
    assert backend._model._owners == 1


def test_a_scale_of_nothing_is_the_base(smollm2: Path, cache: Path, adapter: Path) -> None:
    with LlamaBackend.open(smollm2, SETTINGS) as base, base.with_adapter(adapter, 0.0) as same:
        assert _answers(same) == _answers(base)


@pytest.mark.parametrize("kind", ["text", "truncated", "width", "model"])
def test_what_is_no_adapter_of_this_model_is_refused(
    smollm2: Path, cache: Path, adapter: Path, tmp_path: Path, kind: str
) -> None:
    bad = tmp_path / "bad.gguf"
    if kind == "text":
        bad.write_text(json.dumps({}))
    elif kind == "truncated":
        bad.write_bytes(adapter.read_bytes()[:5000])
    elif kind == "width":
        _adapter(bad, 64)
    else:
        bad = smollm2
    with LlamaBackend.open(smollm2, SETTINGS) as base:
        with pytest.raises(ModelError, match=r"adapter|GGUF"):
            base.with_adapter(bad)
        assert ask(base, user("Hi"), SAMPLING)[0]
