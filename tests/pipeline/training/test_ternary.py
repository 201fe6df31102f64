"""Going on training a ternary model: the rounding, its gradient, what is written, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint
from pipeline.merge.ternary import absmax_int8, absmean_ternary, base_tensors, latent_of, unpacked
from pipeline.sources.model_source import base_source
from pipeline.sources.ternary import find_ternary
from pipeline.training.config import TERNARY_RATE, FinetuneConfig
from pipeline.training.finetune import finetune
from pipeline.training.ternary import RoundingWarmup, TernaryLinear, load_for_training
from tests.pipeline.chatml import make_byte_llama
from tests.pipeline.ternary import ONLINE, configure, is_linear
from tests.pipeline.training.test_resume import StopAt, metrics
from tests.pipeline.training.test_variants import record

WEIGHT = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
INPUT = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def ternary_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_byte_llama(tmp_path_factory.mktemp("models") / "tiny-ternary", hidden_size=64)
    return configure(folder, quantization_config=ONLINE)


@pytest.fixture
def ternary(config: FinetuneConfig, ternary_base: Path) -> FinetuneConfig:
    plain: dict[str, Any] = {"rank": 8, "alpha": 16}
    return replace(config, base=str(ternary_base), ternary=True, learning_rate=2e-3, steps=9, **plain)


def test_the_products_are_those_of_transformers_layers() -> None:
    levels, scale = (WEIGHT / WEIGHT.abs().mean()).round().clamp(-1, 1), WEIGHT.abs().mean()
    ours = TernaryLinear(12, 8, bias=False).eval()
    ours.weight.data = WEIGHT
    online = AutoBitLinear(12, 8, bias=False, online_quant=True)
    online.weight.data = WEIGHT
    packed = BitLinear(12, 8, bias=False, dtype=torch.float32)
    packed.weight, packed.weight_scale = pack_weights(levels.clone()), (1 / scale).view(1)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = ours(INPUT)
        torch.testing.assert_close(online(INPUT), expected)
        torch.testing.assert_close(packed(INPUT), expected)
    torch.testing.assert_close(unpacked(packed.weight) * scale, absmean_ternary(WEIGHT))


def test_gradients_pass_the_rounding_unchanged() -> None:
    layer, inputs = TernaryLinear(12, 8, bias=False), INPUT.clone().requires_grad_()
    layer.weight.data = WEIGHT.clone()
    layer(inputs).sum().backward()
    assert layer.weight.grad is not None and inputs.grad is not None
    torch.testing.assert_close(layer.weight.grad, absmax_int8(INPUT).sum(0).expand(8, 12))
    torch.testing.assert_close(inputs.grad, absmean_ternary(WEIGHT).sum(0).expand(3, 12))


def test_latent_weights_of_three_values_round_to_the_same_three_values() -> None:
    three = absmean_ternary(WEIGHT)
    torch.testing.assert_close(absmean_ternary(latent_of(three)), three)
    shrunk = absmean_ternary(three)
    assert float(shrunk.abs().max()) < 0.9 * float(three.abs().max()), "the values themselves would not"
    assert not latent_of(torch.zeros(2, 2)).any()


def test_the_rounding_grows_over_its_share_of_the_steps() -> None:
    class State:
        max_steps, global_step = 10, 0

    layer, state = TernaryLinear(12, 8, bias=False), State()
    warmup, found = RoundingWarmup(torch.nn.Sequential(layer), 0.4), []
    for state.global_step in (0, 1, 4, 9):
        warmup.on_step_begin(None, state, None)
        found.append(layer.strength)
    assert found == [0.0, 0.25, 1.0, 1.0]
    layer.strength = 0.0
    torch.testing.assert_close(layer(INPUT), torch.nn.functional.linear(INPUT, layer.weight))
    assert not torch.equal(layer.eval()(INPUT), torch.nn.functional.linear(INPUT, layer.weight))


@pytest.mark.slow
def test_a_ternary_model_learns_goes_on_after_an_interrupt_and_is_read_again(
    ternary: FinetuneConfig, tmp_path: Path
) -> None:
    config = replace(ternary, save_every=4, ternary_warmup=0.5)
    whole = finetune(replace(config, out=tmp_path / "whole" / "model"))
    with pytest.raises(KeyboardInterrupt):
        finetune(config, StopAt(7))
    assert not config.out.exists()
    folder = finetune(config)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert metrics(folder) == metrics(whole)
    report = record(folder)["report"]
    assert report["train_loss"] < report["train_loss_before"] - 0.3
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    found = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert found == {**ONLINE, "modules_to_not_convert": ["lm_head"]}
    assert "All weights, which are ternary, of `tiny-ternary`" in (folder / "README.md").read_text()
    source = base_source(str(folder))
    assert find_ternary(source) is not None
    tensors = base_tensors(source)
    for name in filter(is_linear, stored):
        assert len(tensors.read(name).unique()) == 3
    again = finetune(replace(config, base=str(folder), steps=1, out=tmp_path / "again"))
    assert record(again)["report"]["train_loss_before"] == report["train_loss"]


def test_stored_three_values_are_where_a_training_begins(ternary_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "values"
    folder.mkdir()
    for path in ternary_base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    values = base_tensors(base_source(str(ternary_base)))
    state = {name: values.read(name).clone() for name in values.shapes}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    configure(folder, quantization_config=None)
    model = load_for_training(base_source(str(folder)))
    layers = {name: one for name, one in model.named_modules() if isinstance(one, TernaryLinear)}
    assert len(layers) == 14
    for name, layer in layers.items():
        torch.testing.assert_close(absmean_ternary(layer.weight), state[f"{name}.weight"])


def test_what_would_end_the_three_values_is_refused(
    config: FinetuneConfig, ternary: FinetuneConfig, base: Path, ternary_base: Path
) -> None:
    with pytest.raises(
        InputError, match=r"is none \(.* has \d+ values in 32 rows\).* ruin an ordinary model"
    ):
        finetune(replace(ternary, base=str(base)))
    with pytest.raises(InputError, match=r"--full would end the three values .*: use --ternary"):
        finetune(replace(config, base=str(ternary_base), full=True, rank=8, alpha=16))
    with pytest.raises(InputError, match="--ternary trains all weights and takes no --dora"):
        replace(ternary, dora=True)
    with pytest.raises(InputError, match="--ternary-warmup goes with --ternary"):
        replace(config, ternary_warmup=0.5)
    with pytest.raises(InputError, match="--for TQ2_0 is a type for ternary bases"):
        replace(config, for_quant="TQ2_0")
    with pytest.raises(InputError, match=r"is a BitNet.*a merge ends that"):
        finetune(replace(config, base=str(ternary_base), for_quant="Q4_0"))
    assert not config.out.exists()


def test_a_ternary_base_takes_an_adapter_beside_it(config: FinetuneConfig, ternary_base: Path) -> None:
    folder = finetune(replace(config, base=str(ternary_base), steps=2))
    assert (folder / "adapter_model.safetensors").is_file()
    assert replace(config, ternary=True, learning_rate=None, rank=8, alpha=16).rate == TERNARY_RATE


def test_the_checkpoint_of_an_ordinary_base_is_read_as_it_is(base: Path) -> None:
    assert isinstance(base_tensors(base_source(str(base))), Checkpoint)
