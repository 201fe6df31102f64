"""Models of real shapes with random weights, for measurements where the real ones cannot be downloaded.

The sizes are from the published configurations of HuggingFaceTB/SmolLM2-135M, meta-llama/Llama-3.2-1B and
microsoft/Phi-3.5-mini-instruct.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from common.worker_process import Message, run_worker, serve
from pipeline.errors import InputError

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "phi-3.5-mini": {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
_COMMON = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
_SHARD_BYTES = 2**30


def make_shape(
    name: str, folder: Path, layers: int | None = None, dora: bool = False, rank: int = 16
) -> tuple[Path, Path]:
    """Write a bfloat16 base of shape `name` and an adapter for its linear layers; return both folders.

    `layers` replaces the real number of layers; with `dora` the adapter is a DoRA instead of a LoRA. Existing
    folders are reused. The weights are random; the tokenizer is a real SentencePiece model of 32,000 tokens,
    which the converter pads to the vocabulary.
    """
    config = dict(SHAPES[name])
    if layers not in (None, config["num_hidden_layers"]):
        name, config["num_hidden_layers"] = f"{name}-{layers}-layers", layers
    base, adapter = folder / name, folder / f"{name}-{'dora' if dora else 'lora'}"
    if not (base / "config.json").exists():
        _write_base(config, base)
    if not (adapter / "adapter_config.json").exists():
        _write_adapter(base, adapter, rank, dora)
    return base, adapter


def shape_in_child(
    name: str, folder: Path, layers: int | None = None, dora: bool = False
) -> tuple[Path, Path]:
    """Run make_shape in a child process. Raises InputError for an unknown shape.

    The kernel starts a child's peak memory at its parent's, so the measuring process must stay small and may
    not import torch.
    """
    if name not in SHAPES:
        raise InputError(f"--shape {name!r} is unknown: use one of {', '.join(SHAPES)}")
    folder.mkdir(parents=True, exist_ok=True)
    request = {"name": name, "folder": str(folder.resolve()), "layers": layers, "dora": dora}
    result = run_worker("bench.random_models", request, folder / f"{name}.log")
    return Path(result["base"]), Path(result["adapter"])


def _write_base(config: dict[str, Any], folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = [{}]
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 0.02
    weight_map: dict[str, str] = {}
    held = 0

    def flush() -> None:
        file = f"model-{len(shards):05d}.safetensors"
        save_file(shards[-1], folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shards[-1], file))

    for tensor_name, shape in _tensors(config):
        count = int(torch.Size(shape).numel())
        if held and held + 2 * count > _SHARD_BYTES:
            flush()
            shards.append({})
            shards[-2].clear()
            held = 0
        values = noise.repeat(count // len(noise) + 1)[:count].reshape(shape)
        shards[-1][tensor_name] = torch.ones(shape, dtype=torch.bfloat16) if len(shape) == 1 else values
        held += 2 * count
    flush()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    shutil.copyfile(_sentencepiece_model(), folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    # Written last: it marks the folder as complete.
    (folder / "config.json").write_text(json.dumps({**_COMMON, **config}, indent=2))


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    hidden, middle, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", [vocab, hidden]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        if config["model_type"] == "phi3":
            yield layer + "self_attn.qkv_proj.weight", [hidden + 2 * keys, hidden]
            yield layer + "mlp.gate_up_proj.weight", [2 * middle, hidden]
        else:
            yield layer + "self_attn.q_proj.weight", [hidden, hidden]
            yield layer + "self_attn.k_proj.weight", [keys, hidden]
            yield layer + "self_attn.v_proj.weight", [keys, hidden]
            yield layer + "mlp.gate_proj.weight", [middle, hidden]
            yield layer + "mlp.up_proj.weight", [middle, hidden]
        yield layer + "self_attn.o_proj.weight", [hidden, hidden]
        yield layer + "mlp.down_proj.weight", [hidden, middle]
        yield layer + "input_layernorm.weight", [hidden]
        yield layer + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [vocab, hidden]


def _sentencepiece_model() -> Path:
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise MissingPackage("mistral-common")
    return Path(spec.origin).parent / "data" / "tokenizer.model.v1"


def _write_adapter(base: Path, folder: Path, rank: int, dora: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False, use_dora=dora
    )
    tuned = get_peft_model(model, config, low_cpu_mem_usage=True)
    for parameter_name, parameter in list(tuned.named_parameters()):
        if "lora_" in parameter_name:
            module, _, leaf = parameter_name.rpartition(".")
            value = torch.randn(parameter.shape) * 0.02
            if parameter_name.endswith("magnitude_vector.default.weight"):
                value += 1  # magnitudes are lengths, near 1
            setattr(tuned.get_submodule(module), leaf, torch.nn.Parameter(value))
    tuned.save_pretrained(str(folder), save_embedding_layers=False)


def _serve(request: Message) -> Message:
    base, adapter = make_shape(request["name"], Path(request["folder"]), request["layers"], request["dora"])
    return {"base": str(base), "adapter": str(adapter)}


if __name__ == "__main__":
    serve(_serve)
