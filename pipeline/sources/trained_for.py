"""An adapter that was trained for one quantized file: trained_for.json, and the adapter as it was before.

Its weights make up for what rounding takes away in that very file, and nowhere else. Its folder also has the
adapter before, in `before/`, which is what the file is judged by, and what other files are made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.dataclass_json import from_json
from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter, read_adapter
from pipeline.sources.model_source import adapter_source, read_json

RECORD = "trained_for.json"
BEFORE = "before"
IMATRIX = "imatrix.gguf"
"""The importance matrix that it was trained through, if any."""


@dataclass(frozen=True)
class TrainedFor:
    """The file that an adapter was trained for.

    `types` counts the tensors by type, `types_sha256` is of all their names and types, and `tensors` has the
    SHA-256 of each rounded tensor's bytes. `full_type` is the type of the unquantized GGUF, and
    `imatrix_sha256` is of the importance matrix's file. `recovery` has the figures of the training. `apart`
    means that the file is the base's, and the adapter stays beside it.
    """

    quant: str
    full_type: str
    types: Mapping[str, int]
    types_sha256: str
    tensors: Mapping[str, str] = field(default_factory=dict)
    imatrix_sha256: str | None = None
    recovery: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the content of trained_for.json."""
        return asdict(self)


def types_digest(types: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensor names and their types."""
    return hashlib.sha256("".join(f"{k} {v}\n" for k, v in sorted(types.items())).encode()).hexdigest()


def read_trained_for(folder: Path) -> TrainedFor | None:
    """Return what the adapter in a folder was trained for; None when it is an ordinary one.

    Raises InputError for a record that is not understood.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_json(path, f"the adapter {folder.name!r}")
    try:
        found = from_json(TrainedFor, content)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} was written by another version ({error}): train the adapter again"
        ) from None
    if not (folder / BEFORE).is_dir():
        raise InputError(f"{folder} lacks the folder {BEFORE!r}, the adapter before: copy the whole adapter")
    return found


def adapter_before(adapter: Adapter) -> Adapter:
    """Return the adapter as it was before it was trained for a file."""
    return read_adapter(adapter_source(str(adapter.folder / BEFORE)), adapter.weight)


def unused_training_notes(
    adapters: Sequence[Adapter], *, written_apart: bool, unrounded: bool = False
) -> Iterator[str]:
    """Yield a note on each adapter that was trained for a file, where no file is made of it as a whole."""
    for adapter in adapters:
        found = read_trained_for(adapter.folder)
        if found is None:
            continue
        alone = len(adapters) == 1 and adapter.weight == 1.0
        if not alone or written_apart or unrounded:
            apart = "is written apart" if written_apart else "is merged in full precision"
            how = apart if alone else "is merged with others, or by a part"
            yield (
                f"the adapter {adapter.folder.name} was trained for {found.quant} of this model alone; as it "
                f"{how}, it is taken as it was before"
            )
