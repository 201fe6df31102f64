"""Check 3: each tensor of the tuned model stands in the full-precision GGUF, to its type's rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from engine.model import Model
from pipeline.adapter import Adapter
from pipeline.certificate.causes import cause
from pipeline.certificate.checkpoint_config import text_config
from pipeline.certificate.deviation import Deviation, deviation
from pipeline.certificate.diagnosis import diagnose
from pipeline.certificate.finding import Finding, Status
from pipeline.certificate.gguf_tensors import GgufTensors
from pipeline.certificate.layout import Layout, Place
from pipeline.certificate.limits import limit_of
from pipeline.certificate.stored import Array
from pipeline.certificate.subject import Subject
from pipeline.certificate.tuned import tuned_tensors
from pipeline.progress import Advance, StepProgress

_VALUES = (
    "The difference is what the file's number format rounds off (f16: 1e-6 of a tensor's energy at most), "
    "and 95 to 105 % of the adapter's change is there, or rounding's share of doubt."
)
_HEAD = "The output matrix is tied to the embeddings where the model's is, and only there."


@dataclass(frozen=True)
class Compared:
    """A tensor that does not fit, with what it should be."""

    place: Place
    found: Deviation
    limit: float

    @property
    def excess(self) -> float:
        """How many times the limit the error is."""
        return self.found.error / self.limit

    @property
    def fits(self) -> bool:
        """Whether error and share are within their limits."""
        share = self.found.share
        allowed = max(0.05, 6 * self.found.doubt)
        return self.found.error <= self.limit and (share is None or abs(share - 1) <= allowed)


def check_weights(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare all tensors, one in memory at a time; without a base there is nothing to compare with."""
    if subject.base is None:
        words = "The base's checkpoint was not given (--base), so nothing can be said of the weights."
        yield Finding("weights.values", "skipped", words)
        return
    tensors = GgufTensors(subject.full)
    with progress.step("Check the weights", len(tensors.tensors)) as advance:
        yield from _Comparison(subject, tensors).findings(advance)


class _Comparison:
    """The tuned model's tensors against a GGUF's."""

    def __init__(self, subject: Subject, tensors: GgufTensors) -> None:
        assert subject.base is not None
        self._config = text_config(subject.base.folder)
        with closing(Model(subject.full, vocab_only=True)) as model:
            architecture = model.metadata("general.architecture")
        self._layout = Layout(architecture, self._config)
        self._tuned = tuned_tensors(subject)
        self._tensors = tensors
        self._adapters = subject.adapters

    def findings(self, advance: Advance) -> Iterator[Finding]:
        """What the comparison says: of the output matrix, and of all tensors."""
        seen: set[str] = set()
        lost: list[str] = []
        misfits: list[tuple[Compared, str]] = []
        worst: Compared | None = None
        counted = 0
        for name in self._tuned.names:
            place = self._layout.place(name)
            if place is None:
                continue
            if place.tensor not in self._tensors.tensors:
                lost.append(place.tensor)
                continue
            seen.add(place.tensor)
            advance(len(seen))
            compared, signature = self._compare(name, place)
            counted += 1
            if worst is None or compared.excess > worst.excess:
                worst = compared
            if not compared.fits:
                misfits.append((compared, signature))
        yield self._head(lost, seen)
        yield self._values(counted, misfits, [name for name in lost if name != "output.weight"], worst)

    def _compare(self, name: str, place: Place) -> tuple[Compared, str]:
        value = self._tuned.read(name)
        wanted = self._layout.converted(place, value)
        before = self._tuned.base(name)
        earlier = None if before is None else self._layout.converted(place, before)
        tensor = self._tensors.tensors[place.tensor]
        if wanted.size > tensor.rows * tensor.width or (wanted.ndim and wanted.shape[-1] != tensor.width):
            found = Deviation(place.tensor, float("inf"), 0.0, 1.0)
            return Compared(place, found, limit_of(tensor.type)), "damaged"
        first = (place.expert or 0) * (wanted.size // tensor.width)

        def read(row: int, count: int) -> Array:
            return self._tensors.read(place.tensor, first + row, count)

        found = deviation(place.tensor, wanted, earlier, read)
        compared = Compared(place, found, limit_of(tensor.type))
        if compared.fits:
            return compared, ""
        return compared, diagnose(self._layout, place, value, found, read)

    def _head(self, lost: list[str], seen: set[str]) -> Finding:
        tied = (
            bool(self._config.get("tie_word_embeddings", False)) and "lm_head.weight" not in self._tuned.names
        )
        has_own = "output.weight" in self._tensors.tensors
        figures = {"tied_in_model": tied, "output_in_gguf": has_own}
        if "output.weight" in lost:
            words = "The model has an output matrix of its own, and the GGUF uses its embeddings for it."
            return Finding("weights.head", "fail", words, figures, _HEAD, cause("head_missing"))
        if tied and has_own and "output.weight" not in seen and not self._equals_embeddings():
            words = "The GGUF has an output matrix that the model does not have."
            return Finding("weights.head", "fail", words, figures, _HEAD, cause("head_untied"))
        words = f"The output matrix is {'tied to the embeddings' if not has_own else 'there'}."
        return Finding("weights.head", "pass", words, figures, _HEAD)

    def _equals_embeddings(self) -> bool:
        head, embeddings = (self._tensors.tensors[name] for name in ("output.weight", "token_embd.weight"))
        if (head.rows, head.width) != (embeddings.rows, embeddings.width):
            return False
        wanted = self._tensors.read("token_embd.weight", 0, embeddings.rows)
        found = deviation(
            head.name, wanted, None, lambda row, count: self._tensors.read(head.name, row, count)
        )
        return found.error <= limit_of(head.type)

    def _values(
        self, counted: int, misfits: list[tuple[Compared, str]], lost: list[str], worst: Compared | None
    ) -> Finding:
        figures: dict[str, Any] = {"compared": counted, "in_gguf": len(self._tensors.tensors)}
        if worst is not None:
            figures |= {"worst": worst.place.tensor, "worst_nmse": worst.found.error, "limit": worst.limit}
        if not counted:
            words = "This architecture's tensors are not known by name here, so none was compared."
            return Finding("weights.values", "warn", words, figures, _VALUES)
        if lost:
            words = f"The GGUF lacks {lost[0]} and {len(lost) - 1} more tensors of the model."
            return Finding("weights.values", "fail", words, figures, _VALUES, cause("tensor_missing"))
        if misfits:
            return self._misfit(counted, misfits, figures)
        assert worst is not None
        words = (
            f"All {counted} tensors are what they must be; the worst is {worst.place.tensor} with an NMSE of "
            f"{worst.found.error:.1e}."
        )
        return Finding("weights.values", "pass", words, figures, _VALUES)

    def _misfit(self, counted: int, misfits: list[tuple[Compared, str]], figures: dict[str, Any]) -> Finding:
        gravest = max(misfits, key=lambda pair: pair[0].excess)[0]
        signature = overall(misfits, counted, self._adapters)
        shares = [one.found.share for one, _ in misfits if one.found.share is not None]
        figures |= {
            "differ": len(misfits),
            "first": [one.place.tensor for one, _ in misfits[:8]],
            "share_of_change": round(sum(shares) / len(shares), 3) if shares else None,
        }
        words = (
            f"{len(misfits)} of {counted} tensors differ; the worst is {gravest.place.tensor} with an NMSE "
            f"of {gravest.found.error:.1e}."
        )
        status: Status = "fail" if self._layout.is_known else "warn"
        return Finding("weights.values", status, words, figures, _VALUES, cause(signature))


def overall(misfits: list[tuple[Compared, str]], counted: int, adapters: tuple[Adapter, ...]) -> str:
    """The one signature that explains most of what differs."""
    signatures = [signature for _, signature in misfits]
    most = max(dict.fromkeys(signatures), key=signatures.count)
    if most == "delta_scaled" and len(adapters) == 1:
        shares = [one.found.share for one, _ in misfits if one.found.share is not None]
        return _scale_signature(shares, adapters[0])
    return "other_base" if most == "damaged" and 2 * len(misfits) > counted else most


def _scale_signature(shares: list[float], adapter: Adapter) -> str:
    root = max(1, adapter.rank) ** 0.5
    share = sorted(shares)[len(shares) // 2]
    is_rslora = bool(adapter.config.get("use_rslora"))
    expected = 1 / root if is_rslora else root
    if abs(share / expected - 1) < 0.1:
        return "rslora" if is_rslora else "lora_as_rslora"
    return "merged_twice" if abs(share - 2) < 0.1 else "delta_scaled"
