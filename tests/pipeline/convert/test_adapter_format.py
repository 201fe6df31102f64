"""GGUF LoRA files: the base's logits with one loaded are those of PEFT's model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
import pytest
import torch

from engine.llama.model import Adapter as LoadedAdapter
from engine.llama.model import Model
from engine.probe.cpu_backend import load_cpu_backend
from pipeline.convert.lora import reject_inexpressible
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source, TensorInfo
from tests.pipeline.chatml import CHATML
from tests.pipeline.merge.merging import adapted, distance, scale_by
from tests.pipeline.tiny import make_adapter, make_base

pytestmark = pytest.mark.slow

TOKENS = list(range(3, 300, 7))
Logits = Callable[[Path | None], torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("lora") / "base")
    (folder / "chat_template.jinja").write_text(CHATML)  # the engine loads no model without one
    return folder


@pytest.fixture(scope="module")
def over_the_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Logits:
    """Return llama.cpp's float32 logits of the base's GGUF with the adapter's GGUF loaded."""
    out = tmp_path_factory.mktemp("gguf") / "base"
    export(ExportConfig(str(base), out, quants=(), keep_f16=True, outtype="f32", threads=2))
    gguf = out / "base-F32.gguf"
    load_cpu_backend(gguf, threads=2)
    model = Model(gguf)

    def logits(adapter: Path | None) -> torch.Tensor:
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to f16
        context = llama.llama_init_from_model(model.handle, params)
        if adapter is not None:
            handles = (llama.llama_adapter_lora_p_ctypes * 1)(LoadedAdapter(model, adapter).handle)
            assert llama.llama_set_adapters_lora(context, handles, 1, (llama.ctypes.c_float * 1)(1.0)) == 0
        batch = llama.llama_batch_init(len(TOKENS), 0, 1)
        batch.n_tokens = len(TOKENS)
        for place, token in enumerate(TOKENS):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        assert llama.llama_decode(context, batch) == 0
        rows = [
            np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (32000,)).copy()
            for i in range(len(TOKENS))
        ]
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        return torch.from_numpy(np.stack(rows))

    return logits


KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora, patterns, output": {
        "rank_pattern": {"o_proj": 2},
        "alpha_pattern": {"down_proj": 3, "q_proj": 19},
        "target_modules": ["q_proj", "o_proj", "down_proj", "lm_head"],
        "use_rslora": True,
    },
}


@pytest.mark.parametrize(("kind", "weight"), [("lora", 0.5), ("rslora, patterns, output", 1.0)])
def test_its_answers_are_pefts(
    kind: str, weight: float, base: Path, over_the_base: Logits, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, **KINDS[kind])
    out = tmp_path / "bob"
    given = f"{adapter}={weight}"
    result = export(ExportConfig(str(base), out, adapters=(given,), outtype="f32", format="adapter"))
    assert [path.name for path in sorted(out.iterdir())] == ["bob-LoRA-F32.gguf", "manifest.json"]
    manifest = json.loads(result.manifest.read_text())
    assert (manifest["options"]["format"], manifest["complete"]) == ("adapter", True)
    model = adapted(base, adapter)
    scale_by(model, weight)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0]
    assert distance(over_the_base(out / result.made[0]), expected) < 1e-4
    assert distance(over_the_base(None), expected) > 0.1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "OFT"}, "OFT is no LoRA"),
    "dora": ({"use_dora": True}, "DoRA rescales every row"),
    "biases": ({"bias": "lora_only"}, r"trained biases \(bias='lora_only'\)"),
    "bias of the update": ({"lora_bias": True}, "its updates have biases"),
    "modules": ({"modules_to_save": ["lm_head"]}, "whole modules"),
    "tokens": ({"trainable_token_indices": [1]}, "embeddings of its own"),
    "experts": ({"target_parameters": ["experts.down_proj"]}, "bare parameters"),
    "transposed": ({"fan_in_fan_out": True}, "weights transposed"),
}


def adapter_of(config: dict[str, Any], tensor: str = "a.lora_A.weight") -> Adapter:
    source = Source("me/mine", Path("mine"), None)
    return Adapter(source, {"peft_type": "LORA", **config}, {tensor: TensorInfo((4, 8), "F32")})


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_gguf_lora_cannot_say_is_refused(what: str) -> None:
    config, says = REFUSED[what]
    with pytest.raises(InputError, match=rf"'me/mine' cannot be a GGUF LoRA file: .*{says}.*which merges it"):
        reject_inexpressible(adapter_of(config))


@pytest.mark.parametrize("tensor", ["model.embed_tokens.lora_embedding_A", "model.norm.weight"])
def test_other_tensors_are_refused_by_name(tensor: str) -> None:
    with pytest.raises(InputError, match=rf"it has {tensor}, which is no update of a linear layer"):
        reject_inexpressible(adapter_of({}, tensor))


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden_size=96, head_dim=24, vocab_size=320)
    adapter = make_adapter(tmp_path / "adapter", other)
    with pytest.raises(InputError, match="made for another base"):
        export(ExportConfig(str(base), tmp_path / "bob", adapters=(str(adapter),), format="adapter"))
    assert not (tmp_path / "bob").exists()
