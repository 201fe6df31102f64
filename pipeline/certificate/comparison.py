"""Every tensor of the tuned model beside the one in its place in a GGUF, one in memory at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from engine.model import Model
from pipeline.certificate.checkpoint_config import text_config
from pipeline.certificate.deviation import Deviation, deviation
from pipeline.certificate.diagnosis import diagnose
from pipeline.certificate.gguf_tensors import PLAIN, GgufTensors, held
from pipeline.certificate.layout import Layout, Place
from pipeline.certificate.limits import limit_of
from pipeline.certificate.stored import Array
from pipeline.certificate.subject import Subject
from pipeline.certificate.tuned import tuned_tensors
from pipeline.progress import Advance

_HEAD, _EMBEDDINGS = "output.weight", "token_embd.weight"
_WRONG_SHAPE = Deviation("", float("inf"), 0.0, 1.0)


@dataclass(frozen=True)
class Compared:
    """A tensor of the GGUF, how far it is from what it must be, how far it may be, and why it does not fit.

    It `is_exact` when its type is a plain one (f32, f16, bf16). Of a quantized one nothing is asked but its
    error: how much of a small change so few bits keep is another check's matter.
    """

    tensor: str
    found: Deviation
    limit: float
    is_exact: bool
    signature: str = ""

    @property
    def excess(self) -> float:
        """How many times the limit the error is."""
        return self.found.error / self.limit

    @property
    def fits(self) -> bool:
        """Whether the error, and the share of the adapter's change, are within their limits."""
        share = self.found.share if self.is_exact else None
        allowed = max(0.05, 6 * self.found.doubt)
        return self.found.error <= self.limit and (share is None or abs(share - 1) <= allowed)


@dataclass(frozen=True)
class Comparison:
    """What came of it: tensors that were compared, and those of the model that the GGUF `lacks`.

    `tied` tells whether the model uses its embeddings as its output matrix, `own_head` whether the GGUF has
    an output matrix that is another than its embeddings. Of an architecture that is not `known` in all its
    parts, a difference proves nothing.
    """

    compared: tuple[Compared, ...]
    lacks: tuple[str, ...]
    tensors: int
    tied: bool
    own_head: bool
    known: bool


def compare_tensors(subject: Subject, advance: Advance) -> Comparison:
    """Compare all; the subject must have a base. Raises InputError, and PipelineError for a broken GGUF."""
    assert subject.base is not None
    tensors = GgufTensors(subject.full)
    config = text_config(subject.base.folder)
    with closing(Model(subject.full, vocab_only=True)) as model:
        layout = Layout(model.metadata("general.architecture"), config)
    tuned = tuned_tensors(subject)
    # What has no place is a buffer, or has a name that gguf's table does not know.
    places = {name: place for name in tuned.names if (place := layout.place(name))}
    lacks = [place.tensor for place in places.values() if place.tensor not in tensors.tensors]
    there = [(name, place) for name, place in places.items() if place.tensor in tensors.tensors]
    compared: list[Compared] = []
    with ThreadPoolExecutor(min(subject.threads, tuned.threads)) as pool:
        for one in pool.map(lambda pair: _compare(layout, pair[1], tuned.read(pair[0]), tensors), there):
            compared.append(one)
            advance(len(compared))
    tied = is_tied(config, tuned.names)
    return Comparison(
        tuple(compared), tuple(lacks), len(tensors.tensors), tied, _own_head(tensors), layout.is_known
    )


def is_tied(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether a model with these tensors uses its embeddings as its output matrix.

    config.json leaves out what is the default of the model's class, which is one thing for Gemma and another
    for Llama; then the tensors tell.
    """
    return bool(config.get("tie_word_embeddings", True)) and "lm_head.weight" not in names


def _compare(
    layout: Layout, place: Place, values: tuple[Array, Array | None], tensors: GgufTensors
) -> Compared:
    """`values` are the tensor and the tuning's change of it, as the checkpoint has them."""
    value, change = values
    tensor = tensors.tensors[place.tensor]
    limit, is_exact = limit_of(tensor.type), tensor.type in PLAIN
    wanted = layout.converted(place, value)
    if wanted.shape[-1:] != (tensor.width,) or wanted.size > tensor.rows * tensor.width:
        return Compared(place.tensor, _WRONG_SHAPE, limit, is_exact, "shape")
    start = (place.expert or 0) * (wanted.size // tensor.width)

    def read(first: int, count: int) -> Array:
        return tensors.read(place.tensor, start + first, count)

    moved = None if change is None else layout.reordered(place, change)
    found = deviation(place.tensor, wanted, moved, read, lambda values: held(values, tensor.type))
    fitting = Compared(place.tensor, found, limit, is_exact)
    if fitting.fits:
        return fitting
    return Compared(place.tensor, found, limit, is_exact, diagnose(layout, place, value, found, read))


def _own_head(tensors: GgufTensors) -> bool:
    """Whether there is an output matrix that does not hold the embeddings' numbers once more."""
    head, embeddings = tensors.tensors.get(_HEAD), tensors.tensors[_EMBEDDINGS]
    if head is None:
        return False
    if (head.rows, head.width) != (embeddings.rows, embeddings.width):
        return True
    wanted = tensors.read(_EMBEDDINGS, 0, embeddings.rows)
    found = deviation(_HEAD, wanted, None, lambda first, count: tensors.read(_HEAD, first, count))
    return found.error > max(limit_of(head.type), limit_of(embeddings.type))


def share_of_change(compared: Sequence[Compared]) -> float | None:
    """How much of the adapter's change is there in all, by its energy; None where nothing was changed."""
    shares = [
        (one.found.change * one.found.energy, one.found.kept)
        for one in compared
        if one.found.kept is not None
    ]
    whole = sum(energy for energy, _ in shares)
    return sum(energy * share for energy, share in shares) / whole if whole else None
