"""Check 3: the full-precision GGUF holds each tensor of the tuned model, up to its type's rounding."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

from common.certificate import Finding, Status
from common.text import all_of_them, and_more, nan_to_none, pluralize
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject
from pipeline.certificate.tensors.compare import (
    ComparedTensor,
    Comparison,
    compare_tensors,
    total_delta_ratio,
)
from pipeline.progress import StepProgress
from pipeline.sources.adapter import Adapter

_HEAD = "The output matrix is the embeddings where the model's is, and only there."
_VALUES = (
    "The difference is what the file's number format rounds off (f16: 1e-6 of a tensor's energy at most), "
    "or a merge in bfloat16 did before, and 95 to 105 % of the adapter's change is there, as far as the "
    "format can hold it."
)
_MIN_RATIO = 0.25  # of the change, in all tensors of a quantized file together
_FINE_RATIO = 0.95  # of the change, in all tensors of a file that is not quantized


def check_weights(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare all tensors; skipped without a base."""
    if subject.base is None:
        summary = "The base's checkpoint was not given (--base), so nothing can be said of the weights."
        yield Finding("weights.values", "skipped", summary)
        return
    with progress.step("Check the weights", None) as advance:
        comparison = compare_tensors(subject, advance)
    yield _check_head(comparison)
    yield _check_values(comparison, subject.adapters)
    if comparison.compared and (unknown := comparison.uncompared):
        count = pluralize(len(unknown), "tensor that the tuning changes", "tensors that the tuning changes")
        summary = f"The GGUF has {count} in other parts ({unknown[0]} first), which were not compared."
        yield Finding("weights.uncompared", "skipped", summary, {"tensors": list(unknown)})


def _check_head(comparison: Comparison) -> Finding:
    figures = {"tied_in_model": comparison.tied, "own_in_gguf": comparison.own_head}
    if "output.weight" in comparison.missing:
        summary = "The model has an output matrix of its own, and the GGUF uses its embeddings for it."
        return Finding("weights.head", "fail", summary, figures, _HEAD, find_cause("head_missing"))
    if comparison.tied and comparison.own_head:
        summary = "The GGUF has an output matrix of its own, and the model uses its embeddings for it."
        return Finding("weights.head", "fail", summary, figures, _HEAD, find_cause("head_untied"))
    summary = f"The output matrix is {'the embeddings' if comparison.tied else 'one of its own'}, as trained."
    return Finding("weights.head", "pass", summary, figures, _HEAD)


def _check_values(comparison: Comparison, adapters: Sequence[Adapter]) -> Finding:
    compared = comparison.compared
    ratio = total_delta_ratio(compared)
    figures: dict[str, Any] = {
        "compared": len(compared),
        "in_gguf": comparison.tensors,
        "share_of_change": None if ratio is None else round(ratio, 4),
    }
    if not compared:
        summary = "This architecture's tensors are not known by name here, so none was compared."
        return Finding("weights.values", "warn", summary, figures, _VALUES)
    worst = max(compared, key=lambda one: one.excess)
    figures |= {"worst": worst.tensor, "worst_nmse": nan_to_none(worst.error.nmse), "limit": worst.limit}
    missing = [name for name in comparison.missing if name != "output.weight"]
    if missing:
        summary = f"The GGUF lacks {missing[0]}{and_more(len(missing) - 1, 'tensor')} of the model."
        lack: Status = "fail" if comparison.is_known else "warn"
        return Finding("weights.values", lack, summary, figures, _VALUES, find_cause("tensor_missing"))
    if any(not one.fits for one in compared):
        return _describe_misfits(comparison, adapters, figures)
    if ratio is not None and ratio < _MIN_RATIO:
        summary = f"Only {ratio:.0%} of the adapter's change is in the GGUF."
        return Finding("weights.values", "fail", summary, figures, _VALUES, find_cause("delta_missing"))
    if ratio is not None and ratio < _FINE_RATIO and all(one.is_unquantized for one in compared):
        summary = (
            f"All tensors are rounded as they must be, which leaves {ratio:.0%} of the adapter's change."
        )
        return Finding("weights.values", "warn", summary, figures, _VALUES, find_cause("delta_too_fine"))
    before = sorted({one.rounded_before for one in compared if one.rounded_before})
    figures["rounded_before"] = sum(bool(one.rounded_before) for one in compared)
    rounded = f", but for an earlier rounding to {' and '.join(before)}" if before else ""
    summary = (
        f"{all_of_them(len(compared), 'tensor is', 'tensors are')} what they must be{rounded}; "
        f"the worst is {worst.tensor} with an NMSE of {worst.error.nmse:.1e}."
    )
    return Finding("weights.values", "pass", summary, figures, _VALUES)


def _describe_misfits(
    comparison: Comparison, adapters: Sequence[Adapter], figures: dict[str, Any]
) -> Finding:
    misfits = [one for one in comparison.compared if not one.fits]
    worst = max(misfits, key=lambda one: one.excess)
    signature = signature_of(misfits, len(comparison.compared), adapters)
    figures |= {"differ": len(misfits), "first": [one.tensor for one in misfits[:8]]}
    of_all = f"of {pluralize(len(comparison.compared), 'tensor')}"
    differ = pluralize(len(misfits), f"{of_all} differs", f"{of_all} differ")
    summary = f"{differ}; the worst is {worst.tensor} with an NMSE of {worst.error.nmse:.1e}."
    status: Status = "fail" if comparison.is_known else "warn"
    return Finding("weights.values", status, summary, figures, _VALUES, find_cause(signature))


def signature_of(misfits: Sequence[ComparedTensor], num_compared: int, adapters: Sequence[Adapter]) -> str:
    """Return the signature of the cause that explains most of the `misfits` among `num_compared` tensors."""
    signatures = [one.signature for one in misfits]
    commonest = max(dict.fromkeys(signatures), key=signatures.count)
    if commonest == "delta_scaled" and len(adapters) == 1:
        ratios = [one.error.delta_ratio for one in misfits if one.error.delta_ratio is not None]
        return _scale_signature(statistics.median(ratios), adapters[0])
    return "other_base" if commonest == "damaged" and 2 * len(misfits) > num_compared else commonest


def _scale_signature(ratio: float, adapter: Adapter) -> str:
    """Return the signature of the known mistake that scales an adapter's change by `ratio`."""
    is_rslora = bool(adapter.config.get("use_rslora"))
    root = sqrt(max(1, adapter.rank))
    if abs(ratio * root - 1) < 0.1 and is_rslora:
        return "rslora"
    if abs(ratio / root - 1) < 0.1 and not is_rslora:
        return "lora_as_rslora"
    return "merged_twice" if abs(ratio - 2) < 0.1 else "delta_scaled"
