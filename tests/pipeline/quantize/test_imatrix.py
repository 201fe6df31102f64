"""Importance matrices: the sums are those of the real inputs, and llama.cpp quantizes equally with them."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.llama.model import Model
from ggufio.ggml_reader import read_tensors
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.progress import Advance
from pipeline.quantize.imatrix_file import (
    Imatrix,
    ImportanceWeights,
    Sums,
    check_fits,
    check_importance,
    read_imatrix,
    read_weights,
    write_imatrix,
)
from pipeline.quantize.imatrix_worker import _tokens, gather
from pipeline.quantize.worker import imatrix_data
from tests.pipeline.chatml import CHATML
from tests.pipeline.quantize.test_quantize import by_llama_cpp
from tests.pipeline.tiny import make_base

pytestmark = pytest.mark.slow

_SIZES = {"hidden_size": 256, "intermediate_size": 768, "head_dim": 64}
_CHUNK = 256  # the context that these models were "trained" with
_QUANTS = ("Q4_K_M", "Q2_K_S")  # llama.cpp makes the latter only with importance


def write_chats(path: Path, answers: int = 40) -> Path:
    """Write chats of about 25 tokens each."""
    lines = [
        [("user", f"What is {number} times {number}?"), ("assistant", f"{number * number}, matey!")]
        for number in range(answers)
    ]
    chats = [{"messages": [{"role": role, "content": text} for role, text in line]} for line in lines]
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExportConfig:
    """The config of an export with an importance matrix, of a model with four experts."""
    folder = tmp_path_factory.mktemp("imatrix")
    base = make_base(folder / "base", "mixtral", **_SIZES)
    (base / "chat_template.jinja").write_text(CHATML)
    found = ExportConfig(
        base=str(base),
        out=folder / "bob",
        quants=_QUANTS,
        outtype="f32",
        keep_f16=True,
        calibrate=write_chats(folder / "chats.jsonl"),
    )
    export(found)
    return found


def matrix_of(config: ExportConfig) -> Imatrix:
    return read_imatrix(config.out / config.imatrix_name)


def test_the_sums_are_those_of_the_real_inputs(config: ExportConfig) -> None:
    tokens = tokens_of(config)
    count = len(tokens) // _CHUNK
    assert count > 2
    wanted = squares_by_torch(Path(config.base), tokens[: count * _CHUNK])
    matrix = matrix_of(config)
    assert (matrix.datasets, matrix.chunks, matrix.chunk_size) == (("chats.jsonl",), count, _CHUNK)
    experts = {f"blk.{layer}.ffn_{name}_exps.weight" for layer in (0, 1) for name in ("gate", "up", "down")}
    assert matrix.sums.keys() == wanted.keys() | experts
    for name, values in wanted.items():
        assert matrix.sums[name].counts.tolist() == [count * _CHUNK]
        np.testing.assert_allclose(matrix.sums[name].values[0], values, rtol=2e-3)


def tokens_of(config: ExportConfig) -> list[int]:
    assert config.calibrate is not None
    model = Model(config.out / config.full_precision_name, vocab_only=True)
    found = _tokens(model, read_chats(config.calibrate))
    model.close()
    return found


_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate_inp": "mlp.gate",
}


def squares_by_torch(base: Path, tokens: list[int]) -> dict[str, Any]:
    """Return the summed squared inputs of each linear layer of transformers' model, by the GGUF's names."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found: dict[str, Any] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            found[name] = found.get(name, 0) + inputs[0].double().square().flatten(0, -2).sum(0).numpy()

        return hook

    for number, layer in enumerate(model.model.layers):
        for name, module in _MODULES.items():
            layer.get_submodule(module).register_forward_pre_hook(watch(f"blk.{number}.{name}.weight"))
    chunks = torch.tensor(tokens).reshape(-1, _CHUNK)
    chunks[:, 0] = model.config.bos_token_id  # as llama.cpp begins each chunk
    with torch.inference_mode():
        for chunk in chunks:
            model(chunk[None])
    return found


def test_each_expert_has_sums_of_its_own(config: ExportConfig) -> None:
    matrix = matrix_of(config)
    router, experts = (matrix.sums[f"blk.0.ffn_{name}.weight"] for name in ("gate_inp", "gate_exps"))
    assert experts.values.shape == (4, 256)
    assert experts.counts.sum() == 2 * router.counts[0]  # two experts see each token
    np.testing.assert_allclose(experts.values.sum(axis=0), 2 * router.values[0], rtol=1e-4)
    means = experts.values / experts.counts[:, None]
    assert not np.allclose(means[0], means[1], rtol=0.05)


@pytest.mark.parametrize("quant", _QUANTS)
def test_a_weighed_quantization_is_llama_cpps_to_the_byte(
    quant: str, config: ExportConfig, tmp_path: Path
) -> None:
    weights = read_weights(config.out / config.imatrix_name)
    source, ours = (config.out / name for name in (config.full_precision_name, config.quantized_name(quant)))
    options = {"imatrix": imatrix_data(weights.importance), "kv_overrides": overrides(weights)}
    assert ours.read_bytes() == by_llama_cpp(source, tmp_path / "theirs.gguf", quant, **options)


def overrides(weights: ImportanceWeights) -> Any:
    """Return the metadata as llama-quantize passes it, ending with one without a key."""
    items = (llama_cpp.llama_model_kv_override * (len(weights.notes) + 1))()
    for item, (key, value) in zip(items, weights.notes.items(), strict=False):
        item.key = key.encode()
        if isinstance(value, int):
            item.tag, item.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            item.tag, item.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    pointer = ctypes.POINTER(llama_cpp.llama_model_kv_override)
    return ctypes.cast(items, pointer)


class Titles:
    """Records the steps of an export."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        self.seen.append(title)
        yield lambda done, note="": None


def test_it_is_told_kept_and_used_again(config: ExportConfig, tmp_path: Path) -> None:
    manifest = json.loads((config.out / "manifest.json").read_text())
    assert manifest["inputs"]["importance"]["calibrate"] == "chats.jsonl"
    assert manifest["importance"]["file"] == "bob-imatrix.gguf"
    steps = Titles()
    assert export(replace(config, quants=("Q4_1",)), steps).made == ("bob-Q4_1.gguf",)
    assert not any("Gather" in title for title in steps.seen)
    others = write_chats(tmp_path / "chats.jsonl", answers=41)
    for change in ({"calibrate": others}, {"calibrate": None, "quants": ("Q4_0",)}):
        with pytest.raises(InputError, match=r"options \(the importance matrix was chats.jsonl, "):
            export(replace(config, **change))  # type: ignore[arg-type]


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    sums = {
        "blk.0.b.weight": Sums(np.float32([[1, 2], [3, 4], [0, 0]]), np.array([2, 4, 0])),
        "blk.0.a.weight": Sums(np.float32([[1, 9]]), np.array([3])),
        "blk.0.c.weight": Sums(np.float32([[0, 0]]), np.array([0])),
    }
    write_imatrix(tmp_path / "m.gguf", Imatrix(sums, ("a.txt", "b.txt"), 7, 512))
    found = read_imatrix(tmp_path / "m.gguf")
    assert (list(found.sums), found.datasets, found.chunks) == (sorted(sums), ("a.txt", "b.txt"), 7)
    means = {name: values.tolist() for name, values in found.importance().items()}
    # An unused expert weights all columns equally; a tensor without any rows has no means.
    assert means == {
        "blk.0.a.weight": [[np.float32(1) / 3, 3]],
        "blk.0.b.weight": [[0.5, 1], [0.75, 1], [1, 1]],
    }


def test_what_is_no_matrix_of_this_model_is_refused(config: ExportConfig, tmp_path: Path) -> None:
    full = config.out / config.full_precision_name
    with pytest.raises(InputError, match="holds no importance matrix"):
        read_imatrix(full)
    (tmp_path / "text.gguf").write_text("hello, this is no GGUF at all")
    for name, says in (("text.gguf", "cannot be read"), ("none.gguf", "does not exist")):
        with pytest.raises(InputError, match=says):
            read_imatrix(tmp_path / name)
    importance = matrix_of(config).importance()
    strange = {**importance, "blk.7.attn_q.weight": np.ones((1, 256), np.float32)}
    with pytest.raises(InputError, match=r"another model: it knows blk\.7\.attn_q\.weight"):
        check_fits(full, strange, read_tensors(full))
    narrow = {"blk.0.attn_q.weight": np.ones((1, 64), np.float32)}
    with pytest.raises(InputError, match=r"has 64 numbers for .*, and this one needs 256"):
        check_fits(full, narrow, read_tensors(full))
    check_fits(full, importance, read_tensors(full))


def test_a_type_that_is_noise_without_importance_names_the_tensor() -> None:
    types = {"token_embd.weight": 10, "blk.0.attn_q.weight": 17}
    with pytest.raises(InputError, match=r"blk\.0\.attn_q\.weight is in no importance matrix"):
        check_importance(20, types, ImportanceWeights())
    check_importance(20, types, ImportanceWeights({"blk.0.attn_q.weight": np.ones((1, 64), np.float32)}))


def test_too_few_chats_are_refused(config: ExportConfig, tmp_path: Path) -> None:
    few = write_chats(tmp_path / "few.jsonl", answers=2)
    job = {"model": str(config.out / config.full_precision_name), "data": str(few), "threads": 1}
    with pytest.raises(InputError, match=r"few\.jsonl is \d+ tokens long and 256 are needed: add chats"):
        gather({**job, "target": str(tmp_path / "none.gguf")})
