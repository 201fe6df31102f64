"""Ternary models: each stored form becomes the same three values, and TQ files answer as PyTorch does."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.bitnet import pack_weights

from engine.probe.cpu_backend import first_candidate
from ggufio.ggml import F16, type_name, type_number
from ggufio.ggml_reader import GgufTensors
from pipeline.certificate.checks.logits import tuned_model
from pipeline.certificate.scoring.teacher_forcing import Sample, logits_of, open_model
from pipeline.certificate.subject import Subject
from pipeline.certificate.tensors.expected import expected_tensors
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.quantize.ternary import quant_notes, require_three_values
from pipeline.quantize.types import parse_tensor_types, quant_type
from pipeline.quantize.worker import dry_run
from pipeline.quantize.writer import WriteJob, write_quantized
from pipeline.sources.model_source import base_source
from pipeline.sources.ternary import Ternary, TernaryFormat, ternary_format
from pipeline.training.config import FinetuneConfig
from pipeline.tuning import TuneConfig, tune
from tests.pipeline.converting import convert_all
from tests.pipeline.ternary import (
    FORMS,
    ONLINE,
    configure,
    is_linear,
    make_latent,
    reference_logits,
    rounded,
    store,
)
from tests.pipeline.tiny import make_adapter, make_base

IDS = list(range(3, 300, 4))


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latent weights of a model that gives its likeliest token half of the probability."""
    folder = make_latent(tmp_path_factory.mktemp("ternary") / "latent", vocab_size=320)
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = 2 * state["model.embed_tokens.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def bases(latent: Path) -> dict[str, Path]:
    """The ternary model in each form, and as two BitNets, packed and not."""
    found = {form: store(latent, latent.with_name(form), form) for form in FORMS}
    for form in ("values", "packed"):
        found[f"bitnet-{form}"] = store_bitnet(latent.with_name(f"bitnet-{form}"), packed=form == "packed")
    return found


def store_bitnet(folder: Path, *, packed: bool) -> Path:
    """Save a BitNetForCausalLM with SiLU whose weights are three values, packed or not."""
    sizes = {"vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    make_base(folder, "bitnet", tie_word_embeddings=True, **sizes)
    state = load_file(folder / "model.safetensors")
    for name in [name for name in state if is_linear(name)]:
        levels, scale = rounded(state[name])
        state[name] = pack_weights(levels.clone()) if packed else levels * scale
        if packed:
            state[f"{name}_scale"] = scale.view(1)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return configure(folder, hidden_act="silu", quantization_config=FORMS["multiplied"] if packed else None)


@pytest.fixture(scope="module")
def converted(bases: dict[str, Path], root: Path, python: str) -> dict[str, Path]:
    """The full-precision GGUF of each form."""
    jobs = [
        ConvertJob(
            base_source(str(base)), (), "f16", base.with_suffix(".gguf"), "tiny", ensure_toolchain(), 1
        )
        for base in bases.values()
    ]
    convert_all(jobs, root, python)
    return {name: job.target for name, job in zip(bases, jobs, strict=True)}


def quantize(source: Path, quant: str) -> Path:
    target, ftype = source.with_name(f"{source.stem}-{quant}.gguf"), quant_type(quant).ftype
    types = dry_run(str(source), ftype).types
    write_quantized(WriteJob(source, target, types, ftype, 1), lambda count: None)
    return target


def logits(path: Path) -> torch.Tensor:
    """Return the logits after each token but the last."""
    with open_model(path, first_candidate()) as model:
        [found] = logits_of(model, [Sample(0, "", tuple(IDS[:1]), tuple(IDS[1:]), own=True)], 1)
    return torch.tensor(found[:, :320])


def divergence(expected: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Return the mean KL in nats a token, and the share of places with the same most likely token."""
    p, q = expected.double().log_softmax(-1), found.double().log_softmax(-1)
    same = (p.argmax(-1) == q.argmax(-1)).double().mean()
    return float((p.exp() * (p - q)).sum(-1).mean()), float(same)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_converted_to_the_same_three_values(
    form: str, converted: dict[str, Path], latent: Path
) -> None:
    file = GgufTensors(converted[form])
    weights = load_file(latent / "model.safetensors")
    for part, name in {"ffn_down": "mlp.down_proj", "attn_v": "self_attn.v_proj"}.items():
        levels, scale = rounded(weights[f"model.layers.1.{name}.weight"])
        found = file.read(f"blk.1.{part}.weight", 0, len(levels))
        np.testing.assert_allclose(found, (levels * scale).half().float().numpy(), rtol=1e-3, atol=0)
    assert not [name for name in file.tensors if "scale" in name]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["values", "packed"])
def test_a_bitnet_keeps_its_scale(form: str, converted: dict[str, Path], bases: dict[str, Path]) -> None:
    """The converter's own class would round three values once more, to two thirds of their scale."""
    weights = load_file(bases["bitnet-values"] / "model.safetensors")
    expected = weights["model.layers.0.mlp.down_proj.weight"].half().float().numpy()
    found = GgufTensors(converted[f"bitnet-{form}"]).read("blk.0.ffn_down.weight", 0, len(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_tq_files_answer_as_pytorch_does(converted: dict[str, Path], latent: Path) -> None:
    expected = reference_logits(latent, IDS)[:-1]
    for quant in ("TQ1_0", "TQ2_0", "Q8_0"):
        kl, same = divergence(expected, logits(quantize(converted["online"], quant)))
        assert kl <= 1e-4, quant
        assert same == 1.0, quant


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quant", "holds"), [("Q4_0", True), ("Q3_K_S", True), ("Q2_K", True), ("IQ4_NL", False)]
)
def test_types_of_equal_steps_hold_three_values(quant: str, holds: bool, converted: dict[str, Path]) -> None:
    full = GgufTensors(converted["online"])
    file = GgufTensors(quantize(converted["online"], quant))
    layers = [one for one in file.tensors.values() if one.name.startswith("blk.") and one.rows > 1]
    for one in layers:
        stored, held = (each.read(one.name, 0, one.rows).astype(np.float16) for each in (full, file))
        same = np.array_equal(stored, held)
        assert same is holds, f"{one.name} as {type_name(one.type)}"


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["TQ1_0", "TQ2_0"])
def test_embeddings_and_output_stay_in_f16_and_the_bytes_are_llama_cpps(
    quant: str, converted: dict[str, Path], tmp_path: Path
) -> None:
    source = converted["online"]
    types = {
        name: type_name(kind) for name, kind in dry_run(str(source), quant_type(quant).ftype).types.items()
    }
    assert (types["token_embd.weight"], types["output.weight"]) == ("F16", "F16")
    assert {types[name] for name in types if ".ffn_" in name and "norm" not in name} == {quant}
    chosen = parse_tensor_types((), "q6_k", "q4_k", False)
    types = {
        name: type_name(kind)
        for name, kind in dry_run(str(source), quant_type(quant).ftype, chosen).types.items()
    }
    assert (types["token_embd.weight"], types["output.weight"]) == ("Q4_K", "Q6_K"), "what is given wins"
    tied, chosen = converted["bitnet-packed"], parse_tensor_types((), "q8_0", None, False)
    types = {
        name: type_name(kind)
        for name, kind in dry_run(str(tied), quant_type(quant).ftype, chosen).types.items()
    }
    assert types["token_embd.weight"] == "Q8_0", "it is the output, too"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.output_tensor_type, params.token_embedding_type = quant_type(quant).ftype, F16, F16
    theirs = tmp_path / "theirs.gguf"
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(params))
    assert code == 0
    assert quantize(source, quant).read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_the_quantizer_looks_at_every_weight(converted: dict[str, Path], latent: Path) -> None:
    full, tq2 = converted["online"], type_number("TQ2_0")
    require_three_values("TQ2_0", full, {"blk.0.attn_q.weight": tq2})
    require_three_values("TQ2_0", full, {"output.weight": F16})
    with pytest.raises(InputError, match=r"TQ2_0 .*output\.weight has more: .*--tensor-type output=f16"):
        require_three_values("TQ2_0", full, {"output.weight": tq2})


@pytest.mark.slow
def test_an_adapter_is_written_beside_a_packed_base(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases["values"], target_modules=["down_proj"])
    out = tmp_path / "beside"
    export(ExportConfig(str(bases["packed"]), out, (str(adapter),), format="adapter"))
    file, saved = GgufTensors(out / "beside-LoRA-F16.gguf"), load_file(adapter / "adapter_model.safetensors")
    assert len(file.tensors) == 4
    expected = saved["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].half().float().numpy()
    np.testing.assert_array_equal(file.read("blk.1.ffn_down.weight.lora_a", 0, len(expected)), expected)


@pytest.mark.parametrize(
    ("form", "settings", "options", "message"),
    [
        ("latent", {}, {"quants": ("TQ2_0",)}, r"--quant TQ2_0 is for ternary models.* has \d+ values"),
        ("values", {}, {"quants": ("IQ3_S",)}, r"--quant IQ3_S ruins the ternary .*use TQ2_0"),
        ("packed", {}, {"quants": ("TQ1_0", "IQ3_M")}, r"--quant IQ3_M ruins the ternary"),
        (
            "online",
            {"quantization_config": {**ONLINE, "use_rms_norm": True}},
            {},
            "use_rms_norm, a norm before each linear layer",
        ),
        (
            "online",
            {"quantization_config": {**ONLINE, "quantization_mode": "later"}},
            {},
            r"quantization_mode = 'later' .*use offline or online",
        ),
        (
            "online",
            {"quantization_config": {**ONLINE, "modules_to_not_convert": "lm_head"}},
            {},
            "modules_to_not_convert = 'lm_head': give a list",
        ),
        ("bitnet-values", {"hidden_act": "relu2"}, {}, r"hidden_act = 'relu2', and llama.cpp .* silu"),
        ("bitnet-values", {"hidden_act": None}, {}, r"hidden_act = 'relu2'"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    form: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    message: str,
    bases: dict[str, Path],
    latent: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in {**bases, "latent": latent}[form].iterdir():
        (folder / path.name).symlink_to(path)
    text = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(text)
    configure(folder, **settings)
    with pytest.raises(InputError, match=message):
        export(ExportConfig(str(folder), tmp_path / "out", **{"quants": ("TQ2_0",), **options}))
    assert not (tmp_path / "out").exists()


def test_types_that_lose_something_are_noted() -> None:
    base = Ternary(None, {})
    [note] = quant_notes(("TQ2_0", "Q8_0", "Q4_K_M", "IQ4_NL"), base, merged=False)
    assert "IQ4_NL misses its three values: it cost 0.01 nats" in note
    assert not [*quant_notes(("IQ4_NL",), base, merged=True), *quant_notes(("IQ4_NL",), None, merged=False)]


def test_the_certificates_reference_is_the_ternary_model(
    bases: dict[str, Path], latent: Path, tmp_path: Path
) -> None:
    """It runs transformers' model with 8-bit activations, and expects the three values of each tensor."""
    source = base_source(str(bases["packed"]))
    subject = Subject(tmp_path, tmp_path, tmp_path, 1, base=source)
    with torch.inference_mode():
        found = tuned_model(subject)(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(found, reference_logits(latent, IDS), atol=1e-3, rtol=1e-3)
    expected = expected_tensors(subject)
    name = "model.layers.0.self_attn.q_proj.weight"
    levels, scale = rounded(load_file(latent / "model.safetensors")[name])
    value, change = expected.read(name)
    np.testing.assert_allclose(value, (levels * scale).numpy(), rtol=1e-5)
    assert change is None and f"{name}_scale" not in expected.names


def test_an_adapter_is_not_merged_into_three_values(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", bases["values"])
    config = ExportConfig(str(bases["values"]), tmp_path / "out", (str(adapter),), ("TQ2_0",))
    with pytest.raises(InputError, match=r"an adapter merged into .* destroys: .*--format adapter"):
        export(config)
    latent = replace(config, base=str(bases["online"]), quants=("Q8_0",))
    with pytest.raises(InputError, match=r"is a BitNet.*a merge ends that.*--format adapter"):
        export(latent)
    with pytest.raises(InputError, match=r"is a BitNet.*a merge ends that"):
        tune(TuneConfig(FinetuneConfig(str(bases["online"]), "data.jsonl", tmp_path / "out"), ("Q8_0",)))
    assert not (tmp_path / "out").exists()


def test_rows_that_fill_no_blocks_are_named(tmp_path: Path) -> None:
    narrow = make_base(tmp_path / "narrow", vocab_size=320)
    base = store(narrow, tmp_path / "values", "values")
    with pytest.raises(
        InputError, match=r"TQ1_0 cannot hold .*rows of (64|128) numbers are no multiple of 256"
    ):
        export(ExportConfig(str(base), tmp_path / "out", quants=("TQ1_0",)))


def test_a_bitnet_with_ordinary_weights_stores_latent_ones(tmp_path: Path) -> None:
    base = make_base(tmp_path / "bitnet", "bitnet", vocab_size=320)
    assert ternary_format(base_source(str(base))) == TernaryFormat(online=True)
