"""Write what a training made: an adapter's folder or a whole model's, with its record and its card."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_directory, sha256
from pipeline.errors import InputError
from pipeline.evaluation.config import PAGE
from pipeline.report.loss_curve import loss_curve
from pipeline.report.model_card import CARD, adapter_card, own_card
from pipeline.sources.bundled import read_record
from pipeline.sources.model_source import WEIGHTS, Source, tensors_of
from pipeline.tokenizers.folder_templates import TEMPLATE
from pipeline.training.base_model import TYPE_NAMES, qlora_record
from pipeline.training.checkpoints import METRICS
from pipeline.training.config import FinetuneConfig
from pipeline.training.job import TrainingJob
from pipeline.training.recipe import RECIPE, write_recipe

if TYPE_CHECKING:
    from pipeline.training.run import Trained

PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate")
RECORD = "training.json"
"""Written last: the options, the data's SHA-256, the versions and the FinetuneReport."""

CURVE = "loss.svg"
_WEIGHTS = (
    "*.safetensors",
    "*.index.json",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
)
_MAX_SHARD = "5GB"

_MADE = (
    *("adapter_*", RECORD, RECIPE, METRICS, CURVE, PAGE, CARD, ".gitattributes"),
    *("*token*.json", "tokenizer.model", "vocab.*", "merges.txt", "*config.json", "*.jinja", "*_templates"),
    *("checkpoint-*", "runs", "train*_args.bin", "trainer_*.json", "*_results.json", "*.pt", "*.pth"),
    *("*.safetensors", "*.index.json", ".DS_Store", ".cache"),
)
"""What is found in a folder of an adapter: of this program, of PEFT, of TRL, of a download."""


def check_out(config: FinetuneConfig) -> None:
    """Raise InputError where --out exists and may not be replaced."""
    out = config.out
    if out.name in ("", ".."):
        raise InputError(f"--out {str(out)!r} names no folder to make: give its name")
    if not out.exists():
        return
    if not config.force:
        raise InputError(f"--out {str(out)!r} exists already: choose another, or give --force to replace it")
    tuned = (out / RECORD).is_file() and (out / "config.json").is_file()
    ours = tuned or (out / "adapter_config.json").is_file()
    if not out.is_dir() or (any(out.iterdir()) and not ours):
        raise InputError(
            f"--out {str(out)!r} is no adapter folder, so --force will not replace it: choose another"
        )
    if lost := None if tuned else _foreign_file(out):
        raise InputError(
            f"--out {str(out)!r} has {lost!r}, which no training made and --force would remove: move it, or "
            "choose another"
        )


def _foreign_file(adapter: Path) -> str | None:
    """Return the first name in an adapter's folder that neither we nor PEFT's trainers write."""
    names = sorted(path.name for path in adapter.iterdir())
    return next((name for name in names if not any(fnmatch(name, made) for made in _MADE)), None)


def write_adapter(job: TrainingJob, trained: Trained, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Write the adapter's folder, which replaces `config.out` when it is whole."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config, model = job.config, trained.model
    with atomic_directory(config.out) as folder:
        # Not model.save_pretrained: that stores float32, an empty model card and this machine's path.
        dtype = getattr(torch, config.stored_type)
        state = {
            name: weight.detach().to("cpu", dtype).contiguous()
            for name, weight in get_peft_model_state_dict(model).items()
        }
        weights = folder / WEIGHTS
        save_file(state, weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors makes it readable for its owner only
        lora = model.peft_config["default"]
        lora.base_model_name_or_path = base_name(config, job.source)
        if not isinstance(lora.target_modules, str):  # a regular expression
            lora.target_modules = sorted(lora.target_modules)
        lora.inference_mode = True
        lora.save_pretrained(folder)
        shape = {
            "rank": lora.r,
            "alpha": lora.lora_alpha,
            "dropout": lora.lora_dropout,
            "rslora": lora.use_rslora,
            "dora": lora.use_dora,
        }
        _write_record(job, folder, trained, metrics, shape)


def write_model(job: TrainingJob, trained: Trained, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Write the tuned model's folder: weights in the base's type, and the base's tokenizer and settings."""
    import torch

    config, source, model = job.config, job.source, trained.model
    with atomic_directory(config.out) as folder:
        files = (path for path in source.folder.iterdir() if path.is_file() and not path.name.startswith("."))
        for path in files:
            if not any(path.match(pattern) for pattern in _WEIGHTS) and path.name != CARD:
                shutil.copy(path, folder / path.name)
        model.to(getattr(torch, stored_type(config, source)))
        model.config.use_cache = True
        model.save_pretrained(folder, max_shard_size=_MAX_SHARD)
        _write_record(job, folder, trained, metrics, {})


def stored_type(config: FinetuneConfig, source: Source) -> str:
    """Return the type of the trained weights in their file: of a whole model, that of most of the base's.

    Latent weights of a ternary model stay in float32: small steps would round away, or move a value too far.
    """
    if config.ternary:
        return "float32"
    if not config.full:
        return config.stored_type
    types = Counter(info.dtype for info in tensors_of(source).values())
    return TYPE_NAMES.get(types.most_common(1)[0][0], "float32")


def base_name(config: FinetuneConfig, source: Source) -> str:
    """Return the base's name in the adapter: the user's, the model's or the folder's, never a path."""
    if config.base_name:
        return config.base_name
    bundled = (read_record(source.folder) or {}).get("model")
    return str(bundled) if bundled else source.spec if source.revision else source.folder.name


def versions() -> dict[str, str]:
    """Return the versions of the packages that train."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def _write_record(
    job: TrainingJob,
    folder: Path,
    trained: Trained,
    metrics: Sequence[Mapping[str, Any]],
    shape: Mapping[str, Any],
) -> None:
    from pipeline.training.before_after import write_page

    config = job.config
    if job.given is not None:  # an export takes the adapter's template
        (folder / TEMPLATE).write_text(job.given.source, encoding="utf-8")
    record = {
        "options": {**_options(job), **shape},
        "report": asdict(trained.report),
        "versions": versions(),
    }
    curve = loss_curve(metrics)
    if curve:
        (folder / CURVE).write_text(curve, encoding="utf-8")
    card = own_card(config.out) or adapter_card(
        config.out.resolve().name, record["options"], record["report"], curve=CURVE if curve else None
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in metrics), encoding="utf-8")
    write_recipe(config, folder / RECIPE)
    names = {name: record["options"][name] for name in ("data", "base")}
    write_page(job, folder, names, trained.before, trained.after)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _options(job: TrainingJob) -> dict[str, Any]:
    config, source, given = job.config, job.source, job.given
    options = asdict(config)
    for name in ("force", "out", "resume", "adapter", "trackers", "threads"):
        del options[name]
    options |= {
        "base": base_name(config, source),
        "base_revision": source.revision,
        "data": _data_name(config.data),
        "valid": None if config.valid is None else _data_name(config.valid),
        "chat_template": given.origin if given else None,
        "qlora": qlora_record(config, source),
        "adapter": None if config.adapter is None else Path(config.adapter).name,
    }
    if Path(config.data).is_file():
        options["data_sha256"] = sha256(Path(config.data))
    return options


def _data_name(spec: str | Path) -> str:
    return Path(spec).name if Path(spec).exists() else str(spec)
