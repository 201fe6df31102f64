"""Detects tuning that rounds away because the base's own weights lie on the quantized type's grid.

A base that was dequantized from a GGUF (or was trained for one) has only numbers that the type holds exactly.
Rounding its sum with a small change then is no noise: most numbers return to the base's. Elsewhere rounding
moves the numbers both ways, and the change is there in the mean.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.sequences import sample_evenly
from engine.llama.model import Model
from ggufio.ggml import BF16, F16, F32, type_name
from ggufio.ggml_reader import Array, GgufTensors
from pipeline.certificate.subject import Subject, text_config
from pipeline.certificate.tensors.expected import UpdatedTensors, all_updates
from pipeline.certificate.tensors.layout import TensorMap
from pipeline.quantize.grid_survey import is_on_grid
from pipeline.sources.safetensors_reader import SafetensorsReader

_MAX_TENSORS = 6  # sampled of a file
_MAX_ROWS = 64  # sampled of a tensor
_MUCH_LOST = 0.8  # of the change is left; rounding to other grids leaves nearly all of it


@dataclass(frozen=True)
class GridSnap:
    """The type whose grid the base lies on, and the fraction of the adapter's change left in the weights."""

    type: str
    kept: float

    def explain(self) -> str:
        """The cause and the remedy in plain sentences."""
        return (
            f"The base's own weights lie on {self.type}'s grid, as those of a dequantized file do, and "
            f"rounding snaps the tuning back to them: {self.kept:.0%} of the adapter's change is left in the "
            "weights that were looked at. Train the adapter for the file (scripts/recover.py), use Q8_0, or "
            "serve the base's file with the adapter beside it (BASE.gguf::ADAPTER.gguf)."
        )


def find_snap(quantized: Path, subject: Subject) -> GridSnap | None:
    """Return what snapping costs in a quantized file of the subject; None where it does not explain a loss.

    Only plain LoRA adapters are looked at, as for others the change of a single tensor is dear to compute.
    """
    updates = all_updates(subject) if subject.base is not None and subject.adapters else None
    if not updates or subject.base is None:
        return None
    stored = SafetensorsReader(subject.base.weight_files())
    updates = [update for update in updates if update.name in stored.tensors]
    tuned, file = UpdatedTensors(stored, updates), GgufTensors(quantized)
    with closing(Model(subject.full, vocab_only=True)) as model:
        layout = TensorMap(model.metadata("general.architecture"), text_config(subject.base.folder))
    found = []
    for name in sample_evenly(sorted({update.name for update in updates}), _MAX_TENSORS):
        location = layout.location(name)
        tensor = file.tensors.get(location.tensor) if location else None
        if location is None or location.expert is not None or tensor is None:
            continue
        _, delta = tuned.read(name)
        if tensor.type in (F32, F16, BF16) or delta is None:
            continue
        change, base = (layout.reordered(location, one)[:_MAX_ROWS] for one in (delta, stored.read(name)))
        if base.shape[-1] == tensor.width:
            rows = file.read(tensor.name, 0, len(base))
            found.append((tensor.type, *_measure(base, change, rows, tensor.type)))
    on_grid = [one for one in found if one[1]]
    if 2 * len(on_grid) <= len(found):
        return None
    energy = sum(one[3] for one in found)
    kept = sum(one[2] for one in found) / energy if energy else 1.0
    return GridSnap(type_name(on_grid[0][0]), kept) if kept < _MUCH_LOST else None


def _measure(base: Array, change: Array, rounded: Array, dtype: int) -> tuple[bool, float, float]:
    """Return whether the base lies on the type's grid, and the energies of the change: kept and in all."""
    on_grid = is_on_grid(base, type_name(dtype))
    return on_grid, float(((rounded - base) * change).sum()), float(np.square(change).sum())
