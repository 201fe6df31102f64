"""The base model for scoring: the tuned GGUF with a negated LoRA applied by llama.cpp, or a GGUF of the base.

The negated adapter saves converting, writing and loading another model. It works for plain LoRA on the linear
layers of architectures whose layout is known; in all other cases the base is converted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.llama.model import Adapter, Model
from ggufio.ggml_reader import Array, GgufTensors
from pipeline.certificate.subject import Subject, text_config
from pipeline.certificate.tensors.expected import Update, all_updates
from pipeline.certificate.tensors.layout import TensorMap
from pipeline.convert.job import ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.progress import NoProgress


def negated_adapter(subject: Subject, model: Model) -> Adapter | None:
    """Return a LoRA for the loaded tuned model that undoes the subject's adapters; None when none can.

    Close it before the model.
    """
    updates = all_updates(subject)
    if subject.base is None or updates is None:
        return None
    architecture = model.metadata("general.architecture")
    layout = TensorMap(architecture, text_config(subject.base.folder))
    factors = negated_factors(updates, layout, GgufTensors(subject.full)) if layout.is_known else None
    if factors is None:
        return None
    path = subject.scratch / "subtracting.gguf"
    _write(path, architecture, factors)
    try:
        return Adapter(model, path)
    finally:
        path.unlink()


def negated_factors(
    updates: list[Update], layout: TensorMap, tensors: GgufTensors
) -> dict[str, tuple[Array, Array]] | None:
    """Return, per tensor, the low-rank factors of the negated sum of all updates: [rank, in] and [out, rank].

    None when an update has no matching tensor in the GGUF.
    """
    factors: dict[str, tuple[Array, Array]] = {}
    for update in updates:
        location = layout.location(update.name)
        tensor = tensors.tensors.get(location.tensor) if location and location.expert is None else None
        if location is None or tensor is None:
            return None
        if (tensor.rows, tensor.width) != (len(update.up), update.down.shape[1]):
            return None
        down, up = update.down, layout.reordered(location, np.float32(-update.scale) * update.up)
        if earlier := factors.get(location.tensor):
            down, up = np.concatenate([earlier[0], down]), np.concatenate([earlier[1], up], axis=1)
        factors[location.tensor] = down, up
    return factors


def _write(target: Path, architecture: str, factors: dict[str, tuple[Array, Array]]) -> None:
    """Write a LoRA GGUF like llama.cpp's convert_lora_to_gguf.py; an alpha of 0 means unscaled."""
    from gguf import GGUFWriter

    writer = GGUFWriter(target, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    for name, (down, up) in factors.items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(down, np.float32))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(up, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def why_no_base(subject: Subject) -> str:
    """Return why there is no tuning to measure; empty when there is one."""
    if subject.base is None:
        return "the base is not known"
    return "" if subject.adapters else "there is no adapter"


@contextmanager
def base_gguf(subject: Subject) -> Iterator[Path]:
    """Convert the base to a GGUF, rounded as QLoRA saw it if it was, removed when the context ends.

    Raises InputError for a base that llama.cpp cannot convert.
    """
    assert subject.base is not None
    target = subject.scratch / "base.gguf"
    try:
        threads, rounding = subject.threads, subject.rounding
        job = ConvertJob(subject.base, (), "f16", target, "base", ensure_toolchain(), threads, rounding)
        convert(job, NoProgress())
        yield target
    finally:
        target.unlink(missing_ok=True)
