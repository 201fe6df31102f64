"""Choose a type for each tensor so that the file fits a size: a multiple-choice knapsack.

The costs are estimates in nats a token that add up over the tensors; tensor_costs.py measures them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.quantize.types import TensorTypes

_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class Option:
    """A type that a tensor may get: its bytes in the file, and the cost of rounding to it."""

    type: str
    size: int
    cost: float


Options = Mapping[str, Sequence[Option]]
"""By tensor name, at least one each."""


def smallest_size(options: Options) -> int:
    """Return the bytes that all tensors take at least."""
    return sum(min(one.size for one in choices) for choices in options.values())


def allocate(options: Options, budget: int) -> dict[str, Option]:
    """Return an option for each tensor, together of at most `budget` bytes and of little cost.

    The steps along the convex hulls are taken in the order of the cost that they save a byte, which is
    optimal up to the last step; what is left is filled with the single changes that save most. Raises
    ValueError when the budget is too small.
    """
    hulls = {name: convex_hull(choices) for name, choices in options.items()}
    used = sum(hull[0].size for hull in hulls.values())
    if used > budget:
        raise ValueError(f"{budget} bytes are less than {used}")
    steps = [step for name, hull in hulls.items() for step in _next_step(name, hull, 0)]
    heapq.heapify(steps)
    chosen = {name: hull[0] for name, hull in hulls.items()}
    while steps:
        _, name, place = heapq.heappop(steps)
        hull = hulls[name]
        more = hull[place].size - chosen[name].size
        if used + more <= budget:
            used, chosen[name] = used + more, hull[place]
            for step in _next_step(name, hull, place):
                heapq.heappush(steps, step)
    _fill(options, chosen, budget - used)
    return chosen


def convex_hull(choices: Sequence[Option]) -> list[Option]:
    """Return the options that no mixture of two others beats, from the smallest to the cheapest."""
    hull: list[Option] = []
    for one in sorted(choices, key=lambda option: (option.size, option.cost)):
        if hull and one.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _slope(hull[-2], one) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(one)
    return hull


def _slope(small: Option, large: Option) -> float:
    """Return the cost that a byte saves between two options, the larger one second."""
    return (small.cost - large.cost) / (large.size - small.size)


def _next_step(name: str, hull: Sequence[Option], place: int) -> list[tuple[float, str, int]]:
    if place + 1 == len(hull):
        return []
    return [(-_slope(hull[place], hull[place + 1]), name, place + 1)]


def _fill(options: Options, chosen: dict[str, Option], left: int) -> None:
    """Change single tensors, the largest saving first, until nothing that fits saves anything."""
    while True:
        savings = [
            (chosen[name].cost - one.cost, name, one)
            for name, choices in options.items()
            for one in choices
            if one.cost < chosen[name].cost and one.size - chosen[name].size <= left
        ]
        if not savings:
            return
        _, name, one = max(savings, key=lambda saving: saving[:2])
        left -= one.size - chosen[name].size
        chosen[name] = one


def tensor_types(types: Mapping[str, str]) -> TensorTypes:
    """Return the types of all quantized tensors as the choices of a Quantization.

    llama.cpp's dry run of them gives these types again, whatever the file's main type.
    """
    overrides = tuple((name, dtype) for name, dtype in types.items() if name not in (_EMBEDDINGS, _OUTPUT))
    return TensorTypes(overrides, types.get(_OUTPUT), types.get(_EMBEDDINGS))
