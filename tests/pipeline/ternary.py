"""A tiny ternary Llama in each form in which such models are stored, and PyTorch's answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.bitnet import pack_weights

from tests.pipeline.tiny import make_base

ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
PACKED = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
MULTIPLIED = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
FORMS = {"values": None, "online": ONLINE, "packed": PACKED, "multiplied": MULTIPLIED}
"""The quantization_config of each form."""


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return -1, 0 and 1, and their scale, by the rule of BitNet b1.58."""
    scale = weight.abs().mean()
    return (weight / scale).round().clamp(-1, 1), scale


def make_latent(folder: Path, **options: Any) -> Path:
    """Save an ordinary random Llama whose rows fill the blocks of 256."""
    sizes = {"vocab_size": 32000, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    return make_base(folder, **{**sizes, **options})


def store(latent: Path, folder: Path, form: str) -> Path:
    """Save the ternary model of latent weights in one of the FORMS."""
    shutil.copytree(latent, folder)
    state = {}
    for name, weight in load_file(latent / "model.safetensors").items():
        levels, scale = rounded(weight)
        if not is_linear(name) or form == "online":
            state[name] = weight
        elif form == "values":
            state[name] = levels * scale
        else:
            state[name] = pack_weights(levels.clone())
            state[f"{name}_scale"] = (1 / scale if form == "packed" else scale).view(1)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return configure(folder, quantization_config=FORMS[form])


def configure(folder: Path, **settings: Any) -> Path:
    """Change config.json; None removes a key."""
    path = folder / "config.json"
    changed = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
    return folder


class IntegerLinear(torch.nn.Linear):
    """A linear layer as bitnet.cpp computes it: levels times 8-bit activations, scaled afterwards."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        levels, scale = rounded(self.weight)
        steps = input.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
        return torch.nn.functional.linear((input / steps).round(), levels) * steps * scale


def reference_logits(latent: Path, ids: list[int]) -> torch.Tensor:
    """Return the ternary model's logits, [ids, vocabulary], written without the code under test."""
    model = AutoModelForCausalLM.from_pretrained(latent, dtype=torch.float32)
    for path, module in list(model.named_modules()):
        if path.endswith("_proj"):
            layer = IntegerLinear(module.in_features, module.out_features, bias=False)
            layer.weight = module.weight
            model.set_submodule(path, layer)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor([ids])).logits[0]
    return logits
