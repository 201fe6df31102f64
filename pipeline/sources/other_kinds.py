"""Folders and files that are given for a base or an adapter and are something else, with the way out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.file_kinds import kind_of
from common.files import load_json
from pipeline.errors import InputError
from pipeline.sources.tensor_info import TensorInfo

_STEP = re.compile(r"(?:checkpoint|step|global_step|epoch)[-_]?(\d+)")


def reject_trainer_folder(what: str, folder: Path, weights: str) -> None:
    """Raise InputError for a trainer's folder of checkpoints without files like `weights` of its own.

    The message names the newest checkpoint that has them.
    """
    if list(folder.glob(weights)):
        return
    inner = [path for path in folder.iterdir() if path.is_dir() and _STEP.fullmatch(path.name)]
    whole = [path for path in inner if list(path.glob(weights))]
    if whole:
        newest = max(whole, key=_step)
        raise InputError(
            f"the {what} in {folder} is a trainer's folder of {len(whole)} checkpoints, without a final "
            f"model: give one of them, such as the newest, {newest}"
        )
    places = [path for path in (folder, *inner) if (path / "zero_to_fp32.py").is_file()]
    if places:
        place = max(places, key=_step)
        raise InputError(
            f"the {what} in {folder} is a checkpoint of DeepSpeed's ZeRO, in parts: put it together with "
            f"`python {shlex.quote(str(place / 'zero_to_fp32.py'))} {shlex.quote(str(place))} OUT "
            "--safe_serialization`, and give OUT"
        )
    shards = sorted(folder.glob("**/*.distcp"))
    if shards:
        raise InputError(
            f"the {what} in {folder} is a checkpoint of FSDP, in parts: put it together with "
            f"`accelerate merge-weights {shlex.quote(str(shards[0].parent))} OUT`, and give OUT"
        )


def _step(path: Path) -> int:
    found = _STEP.fullmatch(path.name)
    return int(found[1]) if found else -1


def reject_mlx(spec: str, folder: Path) -> None:
    """Raise InputError for an adapter that Apple's mlx-lm has trained, whose tensors PEFT does not know."""
    config = load_json(folder / "adapter_config.json")
    known = isinstance(config, dict) and not config.get("peft_type") and "lora_parameters" in config
    if not known and not (folder / "adapters.safetensors").is_file():
        return
    base = config.get("model") if isinstance(config, dict) else None
    raise InputError(
        f"the adapter {spec!r} is MLX's (adapters.safetensors, lora_parameters), not PEFT's: fuse it with "
        f"`mlx_lm.fuse --model {shlex.quote(str(base or 'BASE'))} --adapter-path "
        f"{shlex.quote(str(folder))} --save-path FUSED`, and give FUSED as --base"
    )


def reject_empty_tensors(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise InputError for a tensor without numbers."""
    name = next((name for name, info in tensors.items() if info.elements == 0), None)
    if name is not None:
        raise InputError(
            f"{path} has no numbers for {name} (its shape is {list(tensors[name].shape)}), as "
            "DeepSpeed's ZeRO-3 saves a model that it did not gather: save it again with "
            "stage3_gather_16bit_weights_on_model_save, or run zero_to_fp32.py in the checkpoint's folder"
        )


def reject_integer_weights(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Raise InputError for weights that are whole numbers, unless config.json says how they are quantized."""
    if config.get("quantization_config"):
        return
    for name, info in tensors.items():
        if name.endswith(".weight") and info.dtype.startswith(("I", "U", "BOOL")):
            raise InputError(
                f"the base model in {folder} stores {name} as {info.dtype}, and its config.json has no "
                "quantization_config: give the model in float16, bfloat16 or float32"
            )


def damaged_weights(path: Path, error: Exception) -> str:
    """Return the message for a safetensors file that cannot be read."""
    try:
        kind = kind_of(path)
    except OSError:
        kind = None
    if kind == "Git LFS pointer":
        return f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"
    if kind is not None:
        return f"{path} is {kind}, not safetensors: download it again"
    return f"{path} is damaged or incomplete ({error}): download it again"


_ENCODERS = {
    *("albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"),
    *("eurobert", "funnel", "gte", "layoutlm", "longformer", "modernbert", "mpnet", "new", "nomic_bert"),
    *("neobert", "roberta", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xlnet", "jina_bert"),
}
_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM", "MultipleChoice")


def reject_encoder(spec: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError for a base that writes no text word after word: an encoder, or an encoder-decoder."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    kind = None
    if config.get("is_encoder_decoder") is True:
        kind = "an encoder-decoder"
    elif (folder / "modules.json").is_file() and (folder / "1_Pooling").is_dir():
        kind = "an embedding model (it has a pooling layer)"
    elif name.endswith(tuple(f"For{head}" for head in _HEADS)):
        kind = "an encoder or a classifier"
    elif config.get("model_type") in _ENCODERS and not config.get("is_decoder"):
        kind = "an encoder (embedding) model"
    if kind:
        raise InputError(
            f"the base model {spec!r} is {kind}, of the architecture {name}, with which nobody can chat: "
            "give a decoder-only model, such as Llama or Qwen, in its -Instruct version"
        )
