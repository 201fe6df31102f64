"""The base as an adapter saw it in training: as it is, or rounded to NF4 by QLoRA.

scripts/finetune.py records it in the adapter's training.json, as options.qlora: null, or
{"quant_type": "nf4", "double_quant": true, "dtype": "bfloat16"}, with
"compute_dtype" where it is another one. An adapter of other programs has no record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import read_json

RECORD = "training.json"
_DTYPES = ("float32", "bfloat16", "float16")
_QLORA_KEYS = {"quant_type", "double_quant", "dtype"}
_OPTIONAL_KEY = "compute_dtype"


@dataclass(frozen=True)
class Nf4Rounding:
    """How a base was rounded to NF4 in blocks of 64.

    `dtype` is the type in which it was loaded, before rounding; None is the type of its files. With
    `double_quant` the blocks' scales are quantized too. bitsandbytes dequantizes to the type in
    which it multiplies, `compute_dtype`; None is `dtype`.
    """

    dtype: str | None = None
    double_quant: bool = True
    compute_dtype: str | None = None

    def __str__(self) -> str:
        loaded = f" from {self.dtype}" if self.dtype else ""
        computed = f" to {self.compute_dtype}" if self.compute_dtype not in (None, self.dtype) else ""
        return f"nf4{loaded}{computed}{'' if self.double_quant else ' without double quantization'}"


def trained_rounding(qlora_base: str | None, adapters: Sequence[Adapter]) -> Nf4Rounding | None:
    """Return the rounding of the base that the adapters are merged into; None for the base as it is.

    `qlora_base` is the value of --qlora-base, which adapters without a record need. Raises InputError when
    an adapter's record contradicts it or another adapter's, or is of another kind than NF4.
    """
    records = dict(_records(adapters))
    asked = Nf4Rounding() if qlora_base else None
    plain = next((spec for spec, found in records.items() if found is None), None)
    if qlora_base and plain is not None:
        raise InputError(
            f"--qlora-base {qlora_base} contradicts the adapter {plain!r}, which was trained on the base "
            f"as it is ({RECORD}): leave the option out"
        )
    (first, rounding), *others = records.items() or [("", asked)]
    for spec, other in others:
        if other != rounding:
            raise InputError(
                f"the adapter {first!r} was trained on {_base(rounding)}, and {spec!r} on {_base(other)} "
                f"({RECORD}): they cannot be merged into one base; export each by itself"
            )
    return rounding


def rounding_notes(adapters: Sequence[Adapter]) -> Iterator[str]:
    """Yield a note for the user on each adapter that was trained on a rounded base."""
    for adapter in adapters:
        for _, found in _records([adapter]):
            if found is not None:
                name = adapter.spec if adapter.source.revision else adapter.folder.name
                yield f"the adapter {name} was trained by QLoRA on {_base(found)}, and is merged into that"


def _base(rounding: Nf4Rounding | None) -> str:
    return "the base as it is" if rounding is None else f"the base rounded to {rounding}"


def _records(adapters: Sequence[Adapter]) -> Iterator[tuple[str, Nf4Rounding | None]]:
    """Yield each adapter with a record of the base that it was trained on. Raises InputError."""
    for adapter in adapters:
        path = adapter.folder / RECORD
        options = read_json(path, f"the adapter {adapter.spec!r}").get("options") if path.is_file() else None
        if isinstance(options, dict) and "qlora" in options:
            yield adapter.spec, _rounding(adapter.spec, options["qlora"])


def _rounding(spec: str, record: Any) -> Nf4Rounding | None:
    if record is None:
        return None
    fault = _fault(record)
    if fault:
        raise InputError(
            f"the adapter {spec!r} has {fault} in its {RECORD}, a base that is not made here: merge it with "
            "PEFT's merge_and_unload where it was trained, and export that with --base"
        )
    return Nf4Rounding(record["dtype"], record["double_quant"], record.get(_OPTIONAL_KEY))


def _fault(record: Any) -> str:
    """Return what is not understood in options.qlora, "" if all is."""
    if not isinstance(record, dict) or _QLORA_KEYS - record.keys():
        return f"options.qlora = {str(record)[:80]!r}"
    wrong = {
        "quant_type": record["quant_type"] != "nf4",
        "double_quant": not isinstance(record["double_quant"], bool),
        "dtype": record["dtype"] not in _DTYPES,
        _OPTIONAL_KEY: record.get(_OPTIONAL_KEY) not in (None, *_DTYPES),
        **dict.fromkeys(sorted(record.keys() - _QLORA_KEYS - {_OPTIONAL_KEY}), True),
    }
    key = next((key for key, is_wrong in wrong.items() if is_wrong), None)
    return f"options.qlora.{key} = {str(record[key])[:80]!r}" if key else ""
