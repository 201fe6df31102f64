"""ExportConfig: every path, type and option of an export, validated before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.quant_types import quant_type

OUTTYPES = ("f16", "bf16", "f32")
DEFAULT_QUANTS = ("Q4_K_M", "Q5_K_M")


@dataclass(frozen=True)
class ExportConfig:
    """What to export. `base` and `adapter` are folders or Hub ids; `out` is a folder, models/NAME.

    `threads` is used by the quantizer and the merge. With `resume`, finished files of an earlier
    run on the same inputs are kept; with `force`, whatever stands in `out` is made anew.
    """

    base: str
    out: Path
    adapter: str | None = None
    quants: tuple[str, ...] = DEFAULT_QUANTS
    outtype: str = "f16"
    keep_f16: bool = False
    revision: str | None = None
    adapter_revision: str | None = None
    threads: int = 1
    force: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        if not self.base.strip():
            raise InputError(
                "--base is empty: give a model folder or a Hub id such as HuggingFaceTB/SmolLM2-135M"
            )
        if self.outtype not in OUTTYPES:
            raise InputError(f"--outtype {self.outtype!r} is unknown: use one of {', '.join(OUTTYPES)}")
        if self.threads < 1:
            raise InputError(f"--threads {self.threads} is too few: use 1 or more")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise InputError(
                f"--out {str(self.out)!r} cannot name the files: its last part may hold "
                "letters, digits, '.', '_' and '-'"
            )
        if self.adapter_revision and not self.adapter:
            raise InputError("--adapter-revision needs --adapter")
        names = tuple(dict.fromkeys(quant_type(name).name for name in self.quants))
        object.__setattr__(self, "quants", names)
        if not names and not self.keep_f16:
            raise InputError("nothing to export: give --quant at least once, or --keep-f16")

    @property
    def name(self) -> str:
        """The model's name: the last part of `out`."""
        return self.out.resolve().name

    @property
    def full_precision_name(self) -> str:
        """The file name of the unquantized GGUF."""
        return f"{self.name}-{self.outtype.upper()}.gguf"

    def quantized_name(self, quant: str) -> str:
        """The file name of the GGUF of one quantization type."""
        return f"{self.name}-{quant}.gguf"
