"""The size that a file may have at most: --max-size and --max-bpw."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.quantize.types import UNITS

OWN = "AUTO-"
"""Begins the names of types that are allocations for a size: AUTO-900M, AUTO-4.5BPW."""

_SIZE = re.compile(r"(?P<count>\d+(\.\d+)?|\.\d+)(?P<unit>[MG])", re.IGNORECASE | re.ASCII)
_BITS = re.compile(r"\d+(\.\d+)?|\.\d+", re.ASCII)
_MAX_BITS = 32.0


@dataclass(frozen=True)
class SizeGoal:
    """The largest size: `size` in bytes of the file, or `bits` a weight, of the weights without the header.

    One of them is None.
    """

    size: int | None
    bits: float | None

    @property
    def name(self) -> str:
        """The name of the type for this size, as in file names."""
        if self.size is None:
            return f"{OWN}{self.bits:g}BPW"
        unit = "G" if self.size >= UNITS["G"] else "M"
        whole, rest = divmod(self.size, UNITS[unit])
        digits = f"{rest:0{len(str(UNITS[unit])) - 1}}".rstrip("0")
        return f"{OWN}{whole}{'.' if digits else ''}{digits}{unit}"

    @property
    def option(self) -> str:
        """The option as the user gave it."""
        return f"--{'max-size' if self.bits is None else 'max-bpw'} {self.value}"

    @property
    def value(self) -> str:
        """The size or the bits as text, as in the option."""
        return self.name.removeprefix(OWN).removesuffix("BPW")

    def describe(self) -> dict[str, Any]:
        """Return the goal for the manifest."""
        return {"max_bpw": self.bits} if self.size is None else {"max_size": self.size}

    def limit(self, header: int, weights: int) -> int:
        """Return the largest size of a file in bytes, given its header's bytes and its number of weights."""
        if self.size is not None:
            return self.size
        assert self.bits is not None
        return header + math.floor(self.bits * weights / 8)

    def needed(self, size: int, header: int, weights: int) -> str:
        """Return the option's value that would allow a file of so many bytes, rounded up."""
        if self.size is None:
            return f"{math.ceil((size - header) * 8 / weights * 100) / 100:g}"
        unit, count = ("G", size / UNITS["G"]) if size >= UNITS["G"] else ("M", size / UNITS["M"])
        return f"{math.ceil(count * 1000) / 1000:g}{unit}"


def parse_goal(max_size: str | None, max_bpw: str | None) -> SizeGoal | None:
    """Parse the two options; None when neither is given. Raises InputError."""
    if max_size is not None and max_bpw is not None:
        raise InputError(
            f"--max-size {max_size} and --max-bpw {max_bpw} both limit the size: give one of them"
        )
    if max_size is not None:
        return SizeGoal(_bytes(max_size), None)
    return None if max_bpw is None else SizeGoal(None, _bits(max_bpw))


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    size = round(float(found["count"]) * UNITS[found["unit"].upper()]) if found else 0
    if not size:
        raise InputError(f"--max-size {text!r} is no size: use a number and M or G, as in 900M or 1.2G")
    return size


def _bits(text: str) -> float:
    bits = float(text) if _BITS.fullmatch(text.strip()) else 0.0
    if not 0 < bits <= _MAX_BITS:
        raise InputError(
            f"--max-bpw {text!r} is no number of bits a weight: use one from 2 to {_MAX_BITS:g}, as in 4.5"
        )
    return bits
