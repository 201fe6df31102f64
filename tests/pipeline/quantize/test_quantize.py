"""The quantizer writes exactly the bytes that llama_model_quantize writes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader

from common.worker_process import WorkerDied
from ggufio.ggml import dequantize, ggml_type_named, quantize, type_name
from ggufio.ggml_reader import GgufTensors, read_tensors
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.errors import InputError
from pipeline.progress import Advance, NoProgress
from pipeline.quantize import writer as quant_file
from pipeline.quantize.allocation import allocate, smallest_size, tensor_types
from pipeline.quantize.imatrix_file import UNWEIGHED, ImportanceWeights
from pipeline.quantize.job import CostJob, Quantization, QuantizeJob, Quantizer
from pipeline.quantize.tensor_costs import CostInputs, Sensitivity, TensorCosts, file_size, tensor_costs
from pipeline.quantize.types import MIXTURE, TensorTypes, parse_tensor_types, quant_type
from pipeline.quantize.worker import dry_run
from pipeline.quantize.writer import WriteJob, write_quantized
from pipeline.sources.model_source import base_source
from tests.pipeline.converting import convert_all
from tests.pipeline.tiny import make_base

pytestmark = pytest.mark.slow

_WIDE = {"hidden_size": 256, "intermediate_size": 768, "head_dim": 64}
_MODELS = {
    "llama, f16": ("llama", "f16", _WIDE),
    "llama, bf16": ("llama", "bf16", _WIDE),
    "llama, f32": ("llama", "f32", _WIDE),
    "rows of no multiple of 256": ("qwen2", "f16", {"hidden_size": 96}),
    "experts": ("mixtral", "f16", {**_WIDE, "num_local_experts": 4}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, root: Path, python: str) -> dict[str, Path]:
    """A full-precision GGUF of each model."""
    folder, jobs = tmp_path_factory.mktemp("sources"), {}
    for index, (title, (architecture, outtype, sizes)) in enumerate(_MODELS.items()):
        base = folder / f"base-{architecture}"
        if not base.exists():
            make_base(base, architecture, **sizes)
        source, target = base_source(str(base)), folder / f"{index}.gguf"
        jobs[title] = ConvertJob(source, (), outtype, target, str(index), ensure_toolchain(), 1)
    convert_all([*jobs.values()], root, python)
    return {title: job.target for title, job in jobs.items()}


def by_llama_cpp(source: Path, target: Path, quant: str, **options: Any) -> bytes:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = quant_type(quant).ftype
    for option, value in options.items():
        setattr(params, option, value)
    assert (
        llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0
    )
    return target.read_bytes()


def by_us(source: Path, target: Path, quant: str, *earlier: Path, chosen: TensorTypes = MIXTURE) -> bytes:
    ftype = quant_type(quant).ftype
    types = dry_run(str(source), ftype, chosen).types
    write_quantized(WriteJob(source, target, types, ftype, 3, earlier), lambda count: None)
    return target.read_bytes()


@pytest.mark.parametrize("title", _MODELS)
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q5_K_M", "Q8_0"])
def test_a_quantization_is_llama_cpps_to_the_byte(
    title: str, quant: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    theirs = by_llama_cpp(sources[title], tmp_path / "theirs.gguf", quant)
    assert by_us(sources[title], tmp_path / "ours.gguf", quant) == theirs


@pytest.mark.parametrize(
    "quant", ["Q2_K", "Q3_K_M", "IQ3_M", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q5_0", "Q6_K"]
)
def test_so_is_every_kind_of_type(quant: str, sources: dict[str, Path], tmp_path: Path) -> None:
    source = sources["llama, f16"]
    theirs = by_llama_cpp(source, tmp_path / "theirs.gguf", quant)
    assert by_us(source, tmp_path / "ours.gguf", quant) == theirs


def overrides(*items: tuple[bytes | None, int]) -> Any:
    return (llama_cpp.llama_model_tensor_override * len(items))(*items)


_CHOICES: dict[str, tuple[TensorTypes, dict[str, Any]]] = {
    "patterns": (
        # The second pattern also matches tensors of the first.
        parse_tensor_types(
            ["blk.*.attn_v=q6_K", "blk.?.attn*=q8_0", "blk.[!0].ffn_down.weight=f16"], None, None, False
        ),
        {
            "tt_overrides": overrides(
                (rb"attn_v\.weight", 14), (rb"attn", 8), (rb"blk\.1\.ffn_down\.weight", 1), (None, 0)
            )
        },
    ),
    "output and embeddings": (
        parse_tensor_types([], "q8_0", "f32", False),
        {"output_tensor_type": 8, "token_embedding_type": 0},
    ),
    "pure": (parse_tensor_types([], None, None, True), {"pure": True}),
    "pure but one": (
        parse_tensor_types(["output=iq4_nl", "token_embd=bf16"], None, None, True),
        {"pure": True, "tt_overrides": overrides((b"^output", 20), (b"^token_embd", 30), (None, 0))},
    ),
}


@pytest.mark.parametrize("title", ["llama, bf16", "rows of no multiple of 256"])
@pytest.mark.parametrize("choice", _CHOICES)
def test_so_is_one_with_types_of_the_users_choice(
    title: str, choice: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    source, (chosen, options) = sources[title], _CHOICES[choice]
    theirs = by_llama_cpp(source, tmp_path / "theirs.gguf", "Q4_K_M", **options)
    assert by_us(source, tmp_path / "ours.gguf", "Q4_K_M", chosen=chosen) == theirs
    assert dry_run(str(source), 15, chosen).types != dry_run(str(source), 15).types


def test_shards_hold_what_the_whole_holds(sources: dict[str, Path], tmp_path: Path) -> None:
    source, types = sources["llama, f16"], dry_run(str(sources["llama, f16"]), 7).types
    single = tmp_path / "ours.gguf"
    by_us(source, single, "Q8_0")

    def write(*earlier: Path) -> list[Path]:
        job = WriteJob(source, single, types, 7, 3, earlier, limit=1_000_000)
        return write_quantized(job, lambda count: None)

    paths = write()
    whole, shards = GGUFReader(single), [GGUFReader(path) for path in paths]
    numbers = [[shard.fields[f"split.{key}"].contents() for key in ("no", "count")] for shard in shards]
    assert numbers == [[number, len(shards)] for number in range(len(shards))]
    assert len(shards) > 2
    assert {shard.fields["split.tensors.count"].contents() for shard in shards} == {len(whole.tensors)}
    assert [(t.name, t.tensor_type, t.data.tobytes()) for shard in shards for t in shard.tensors] == [
        (t.name, t.tensor_type, t.data.tobytes()) for t in whole.tensors
    ]
    own = {key for key in shards[0].fields if not key.startswith(("split.", "GGUF."))}
    assert own == {key for key in whole.fields if not key.startswith("GGUF.")}
    contents = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write(single)] == contents  # copied out of the whole


def test_what_an_earlier_file_holds_is_copied(sources: dict[str, Path], tmp_path: Path) -> None:
    source = sources["llama, f16"]
    by_us(source, tmp_path / "q4.gguf", "Q4_K_M")
    copied = by_us(source, tmp_path / "q5.gguf", "Q5_K_M", tmp_path / "q4.gguf")
    assert copied == by_llama_cpp(source, tmp_path / "theirs.gguf", "Q5_K_M")
    # A change of the earlier file shows that it was copied.
    reader = GGUFReader(tmp_path / "q4.gguf", "r+")
    shared = next(tensor for tensor in reader.tensors if tensor.tensor_type.name == "Q6_K")
    shared.data[0] ^= 1
    reader.data.flush()
    assert by_us(source, tmp_path / "again.gguf", "Q5_K_M", tmp_path / "q4.gguf") != copied


def test_slabs_do_not_show(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources["experts"]
    types = dry_run(str(source), 15).types
    added: list[int] = []
    monkeypatch.setattr(quant_file, "_SLAB", 1000)
    write_quantized(WriteJob(source, tmp_path / "ours.gguf", types, 15, 3), added.append)
    theirs = by_llama_cpp(source, tmp_path / "theirs.gguf", "Q4_K_M")
    assert (tmp_path / "ours.gguf").read_bytes() == theirs
    assert len(added) > 1000
    assert sum(added) == sum(tensor.n_bytes for tensor in GGUFReader(tmp_path / "theirs.gguf").tensors)


def test_a_number_that_is_not_finite_is_named(sources: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(sources["llama, f16"].read_bytes())
    reader = GGUFReader(broken, "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_up.weight")
    tensor.data[3, 5] = np.float16("inf")
    reader.data.flush()
    with pytest.raises(InputError, match=r"blk\.1\.ffn_up\.weight .*infinite"):
        by_us(broken, tmp_path / "ours.gguf", "Q4_K_M")


def test_in_a_child_it_tells_what_it_knows(sources: dict[str, Path], tmp_path: Path) -> None:
    source, quant, target = sources["llama, f16"], quant_type("Q4_K_M"), tmp_path / "ours.gguf"
    wanted, steps = Quantization(source, quant), Steps()
    with Quantizer(tmp_path / "quantize.log") as quantizer:
        plan = quantizer.plan(wanted)
        quantizer.quantize(QuantizeJob(wanted, target, 2), plan, steps)
    assert target.read_bytes() == by_llama_cpp(source, tmp_path / "theirs.gguf", "Q4_K_M")
    assert 5 < plan.bits_per_weight < 6
    assert plan.size == pytest.approx(steps.done[-1], rel=0.01)
    assert steps.done == sorted(steps.done)


def test_a_file_that_was_cut_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(sources["llama, f16"].read_bytes()[:-1000])
    with Quantizer(tmp_path / "log") as quantizer, pytest.raises(WorkerDied, match="quantize"):
        quantizer.plan(Quantization(cut, quant_type("Q8_0")))


class Steps:
    """Records the progress that a step reports."""

    def __init__(self) -> None:
        self.done: list[int] = []

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        yield self.done.append


def costs_of(source: Path, folder: Path, fixed: TensorTypes = MIXTURE, **found: Any) -> TensorCosts:
    Sensitivity(**found).save(folder / "sensitivity.npz")
    job = CostJob(Quantization(source, quant_type("Q8_0"), fixed), folder / "sensitivity.npz", 2)
    with Quantizer(folder / "costs.log") as quantizer:
        return quantizer.costs(job, NoProgress())


def smallest_of(source: Path, folder: Path) -> TensorCosts:
    with Quantizer(folder / "costs.log") as quantizer:
        return quantizer.costs(CostJob(Quantization(source, quant_type("Q8_0")), None, 1), NoProgress())


@pytest.mark.parametrize(
    "title", ["llama, f16", "llama, bf16", "llama, f32", "rows of no multiple of 256", "experts"]
)
def test_an_allocation_is_what_llama_cpp_plans_and_has_the_size_that_was_reckoned(
    title: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    source = sources[title]
    costs = costs_of(source, tmp_path)
    least = costs.header + costs.rest + smallest_size(costs.options)
    assert {name: min(one.size for one in found) for name, found in costs.options.items()} == {
        name: one.size for name, (one,) in smallest_of(source, tmp_path).options.items()
    }
    whole = source.stat().st_size
    for share in (0.0, 0.2, 0.9):
        limit = int(least + share * (whole - least))
        chosen = allocate(costs.options, limit - costs.header - costs.rest)
        types = {name: option.type for name, option in chosen.items()}
        plan = dry_run(str(source), quant_type("Q4_K_S").ftype, tensor_types(types)).types
        assert {name: type_name(plan[name]) for name in types} == types
        assert {name: type_name(plan[name]) for name in costs.others} == costs.others
        target = tmp_path / "allocated.gguf"
        write_quantized(WriteJob(source, target, plan, 14, 2), lambda count: None)
        assert target.stat().st_size == file_size(costs, types) <= limit
    odd = "rows of no multiple" in title
    assert any(one.type == "Q4_K" for found in costs.options.values() for one in found) is not odd
    for quant in ("Q4_K_M", "Q6_K"):
        plan = dry_run(str(source), quant_type(quant).ftype).types
        by_us(source, tmp_path / "ready.gguf", quant)
        names = {name: type_name(number) for name, number in plan.items()}
        assert (tmp_path / "ready.gguf").stat().st_size == file_size(costs, names)


def test_a_tensor_of_more_information_gets_more_bits(sources: dict[str, Path], tmp_path: Path) -> None:
    flat = {name: np.ones(tensor.width) for name, tensor in read_tensors(sources["llama, f16"]).items()}
    needed = {**flat, "blk.1.ffn_up.weight": 1000 * np.ones(256)}
    costs = costs_of(sources["llama, f16"], tmp_path, columns=needed)
    budget = int(1.6 * smallest_size(costs.options))
    bits = {name: ggml_type_named(one.type).bits for name, one in allocate(costs.options, budget).items()}
    assert bits["blk.1.ffn_up.weight"] > bits["blk.0.ffn_up.weight"] + 1


def test_a_type_that_undoes_the_tuning_costs_what_the_tuning_is_worth(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    """The change is the very error of rounding to Q4_0, so that Q4_0 gives the base again."""
    source, name = sources["llama, f16"], "blk.0.attn_q.weight"
    file = GgufTensors(source)
    rows = file.read(name, 0, file.tensors[name].rows)
    dtype = ggml_type_named("Q4_0")
    change = rows - dequantize(dtype, quantize(dtype, rows)).reshape(rows.shape)
    plain = costs_of(source, tmp_path).options[name]
    tuned = costs_of(
        source,
        tmp_path,
        down={name: np.eye(rows.shape[1], dtype=np.float32)},
        up={name: change},
        change=1.5,
    ).options[name]
    added = {one.type: one.cost - before.cost for one, before in zip(tuned, plain, strict=True)}
    assert added["Q4_0"] == pytest.approx(1.5, rel=1e-3)
    assert added["Q8_0"] < 0.01 and added["F16"] == 0


def test_a_tensor_with_a_type_of_the_user_has_no_choice(sources: dict[str, Path], tmp_path: Path) -> None:
    fixed = parse_tensor_types(["blk.0.attn_v=q8_0"], "q6_k", None, False)
    costs = costs_of(sources["llama, f16"], tmp_path, fixed)
    assert costs.others["blk.0.attn_v.weight"] == "Q8_0" and costs.others["output.weight"] == "Q6_K"
    assert "blk.1.attn_v.weight" in costs.options and "token_embd.weight" in costs.options


def test_errors_are_those_of_the_importance_matrix_that_the_file_gets(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    source, name = sources["llama, f16"], "blk.0.ffn_up.weight"
    columns = np.where(np.arange(256) % 2 == 0, 1.0, 0.001)
    tensors = read_tensors(source)
    weighed = {
        key: columns[None, : one.width].astype(np.float32) for key, one in tensors.items() if key == name
    }
    plan = dry_run(str(source), quant_type("Q8_0").ftype).types

    def cost(weights: ImportanceWeights) -> dict[str, float]:
        found = Sensitivity(columns={name: columns})
        inputs = CostInputs(source, plan, MIXTURE, weights, found, 1)
        return {one.type: one.cost for one in tensor_costs(inputs, lambda done: None).options[name]}

    without, with_matrix = cost(UNWEIGHED), cost(ImportanceWeights(weighed))
    assert with_matrix["Q3_K"] < 0.95 * without["Q3_K"]
    assert "IQ2_XXS" in with_matrix and "IQ2_XXS" not in without
