"""ExportConfig: the options of an export, validated before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.chat_templates import GivenTemplate, read_template
from engine.errors import ModelError
from engine.prompt.chat_template import ChatTemplate
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from pipeline.exporter.merged_options import reject_options
from pipeline.quantize.size_goal import SizeGoal, parse_goal
from pipeline.quantize.types import (
    AUTO,
    PREFERENCES,
    TensorTypes,
    parse_size,
    parse_tensor_types,
    quant_type,
    quants_named,
)
from pipeline.sources.adapter import parse_adapter
from pipeline.sources.trained_base import Nf4Rounding
from pipeline.training.recovery_config import RecoveryOptions

OUTTYPES = ("f16", "bf16", "f32")
MODEL, ADAPTER, APART, MERGED = "model", "adapter", "base+adapter", "merged"
FORMATS = (MODEL, ADAPTER, APART, MERGED)
AUTO_OUTTYPE = "auto"
"""f16, and in a merged checkpoint the base's own type."""
MERGED_SHARDS = "5G"
VERIFY = ("off", "fast", "full")
QLORA_BASES = ("nf4",)
DEFAULT_QUANTS = ("Q4_K_M", "Q5_K_M")


@dataclass(frozen=True)
class ExportConfig:
    """The options of an export. `base` and `adapters` are folders or Hub ids; `out` is a folder, models/NAME.

    Adapters are merged in order, each into the previous result; ADAPTER=0.7 scales its update by 0.7. With
    `qlora_base` they are merged into the base rounded to 4 bits, as QLoRA trained them; an adapter may record
    that itself, and `export` sets `rounding` from both. The `format`
    "adapter" writes only a GGUF LoRA file, unmerged, and no quantized models; "base+adapter" writes the
    quantized base, and beside each of its files the adapter as a GGUF LoRA in full precision; "merged"
    writes a merged safetensors checkpoint.

    `tensor_type` are PATTERN=TYPE for single tensors; these, `output_type`, `embedding_type` and `pure`
    replace llama.cpp's mixture of types in every quantization. A file of more than `split_max_size` ("2G",
    "500M") is split into shards.

    Quantization errors are weighted by an importance matrix, collected from the chats of `calibrate` (JSONL)
    or read from `imatrix` (GGUF).

    With `recover`, the adapter is trained for each quantized file first (pipeline.training.recovery).

    With "auto" among `quants`, a type is chosen by measurement: the smallest or the fastest, as in `prefer`.
    With `max_size` ("900M", "1.2G") or `max_bpw` ("4.5") it is instead the best of at most that size: a type
    for each tensor, or one of llama.cpp's.

    `verify` is the depth of the checks ("off", "fast", "full"; see pipeline.certificate), which also use the
    user's chats in `evaluation`, a JSONL file.

    `chat_template` is a Jinja file or a name, for a model without a template or in place of
    it; it is read at once, into `given_template`.

    `threads` is for the quantizer and the merge. With `resume`, finished files of an earlier run on the same
    inputs are kept; with `force`, everything in `out` is made again. Raises InputError.
    """

    base: str
    out: Path
    adapters: tuple[str, ...] = ()
    quants: tuple[str, ...] = DEFAULT_QUANTS
    outtype: str = AUTO_OUTTYPE
    keep_f16: bool = False
    revision: str | None = None
    adapter_revision: str | None = None
    qlora_base: str | None = None
    rounding: Nf4Rounding | None = None
    format: str = MODEL
    tensor_type: tuple[str, ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    split_max_size: str | None = None
    calibrate: Path | None = None
    imatrix: Path | None = None
    recover: RecoveryOptions | None = None
    prefer: str = "size"
    max_size: str | None = None
    max_bpw: str | None = None
    verify: str = "off"
    evaluation: Path | None = None
    chat_template: str | None = None
    threads: int = 1
    force: bool = False
    resume: bool = True
    given_template: GivenTemplate | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.base.strip():
            raise InputError(
                "--base is empty: give a model folder or a Hub id such as HuggingFaceTB/SmolLM2-135M"
            )
        self._check_outtype()
        if self.threads < 1:
            raise InputError(f"--threads {self.threads} is too few: use 1 or more")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise InputError(
                f"--out {str(self.out)!r} cannot name the files: its last part may hold "
                "letters, digits, '.', '_' and '-'"
            )
        if self.adapter_revision and len(self.adapters) != 1:
            raise InputError(
                f"--adapter-revision {self.adapter_revision!r} goes with one --adapter, and there are "
                f"{len(self.adapters)}: give folders where there are several"
            )
        self._check_adapters()
        if self.format == MERGED:
            self._set_merged_options()
        self._check_quant_options()
        self._check_verifying()
        self._check_template()
        self._check_recovery()
        own = (self.goal.name,) if self.goal else ()
        names = tuple(
            name for quant in self.quants for name in ((quant,) if quant in own else quants_named([quant]))
        )
        names = tuple(dict.fromkeys(names))
        object.__setattr__(self, "quants", names)
        self._check_importance(names)
        if self.format == "adapter":
            if names not in ((), DEFAULT_QUANTS) or self.keep_f16:
                option = "--keep-f16" if self.keep_f16 else f"--quant {names[0]}"
                raise InputError(
                    f"--format adapter takes no {option}: it writes the adapter in --outtype alone"
                )
            object.__setattr__(self, "quants", ())
        elif self.apart and (not names or self.keep_f16 or AUTO in names):
            raise InputError(
                f"--format {APART} quantizes the base, and there is no --quant: name its types"
                if not names
                else f"--format {APART} takes no {'--keep-f16' if self.keep_f16 else '--quant auto'}: "
                "it quantizes the base alone; name its types with --quant"
            )
        elif not names and not self.keep_f16 and self.format != MERGED:
            raise InputError("nothing to export: give --quant at least once, or --keep-f16")

    def _check_outtype(self) -> None:
        if self.outtype == AUTO_OUTTYPE and self.format != MERGED:
            object.__setattr__(self, "outtype", OUTTYPES[0])
        if self.outtype not in (*OUTTYPES, AUTO_OUTTYPE):
            raise InputError(f"--outtype {self.outtype!r} is unknown: use one of {', '.join(OUTTYPES)}")

    def _check_adapters(self) -> None:
        for text in self.adapters:
            parse_adapter(text)
        if self.format not in FORMATS:
            raise InputError(f"--format {self.format!r} is unknown: use one of {', '.join(FORMATS)}")
        if self.qlora_base not in (None, *QLORA_BASES):
            raise InputError(f"--qlora-base {self.qlora_base!r} is unknown: use {', '.join(QLORA_BASES)}")
        if self.qlora_base and not self.adapters:
            raise InputError("--qlora-base needs --adapter: without one, nothing was trained on that base")
        if self.apart and (len(self.adapters) != 1 or parse_adapter(self.adapters[0])[1] != 1):
            raise InputError(
                f"--format {APART} writes one --adapter as it is: "
                + (f"there are {len(self.adapters)}" if len(self.adapters) != 1 else "leave =W out")
            )
        if self.format == "adapter" and (len(self.adapters) != 1 or self.qlora_base):
            raise InputError(
                f"--format adapter writes one --adapter, and there are {len(self.adapters)}"
                if len(self.adapters) != 1
                else "--format adapter takes no --qlora-base: nothing is merged"
            )

    def _set_merged_options(self) -> None:
        reject_options(self, DEFAULT_QUANTS)
        object.__setattr__(self, "quants", ())
        object.__setattr__(self, "split_max_size", self.split_max_size or MERGED_SHARDS)

    def _check_recovery(self) -> None:
        if self.recover is None:
            return
        if self.format == "adapter":
            raise InputError("--format adapter takes no --recover: nothing is quantized")
        if len(self.adapters) != 1:
            raise InputError(f"--recover trains one --adapter, and there are {len(self.adapters)}: give one")
        if self.qlora_base:
            raise InputError("--recover takes no --qlora-base: that base is rounded already")
        if not self.quants:
            raise InputError(
                "--recover is for quantizing, and there is no --quant: give one, or leave it out"
            )

    def _check_quant_options(self) -> None:
        chosen = self.quant_options
        if chosen and self.format == "adapter":
            option = next(iter(chosen)).replace("_", "-")
            raise InputError(f"--format adapter takes no --{option}: nothing is quantized")

    def _check_importance(self, quants: Sequence[str]) -> None:
        given = [name for name in ("calibrate", "imatrix") if getattr(self, name) is not None]
        if len(given) == 2:
            raise InputError(
                "--calibrate makes an importance matrix and --imatrix brings one: give one of them"
            )
        if given and (self.format == "adapter" or not quants):
            raise InputError(
                f"--{given[0]} is for quantizing, and there is no --quant: give one, or leave it out"
            )
        for name in quants:
            if not name.startswith(AUTO) and quant_type(name).needs_imatrix and not given:
                raise InputError(
                    f"--quant {name} needs an importance matrix, without which its output is noise: "
                    "give --calibrate FILE.jsonl, or use Q3_K_M, IQ4_XS or larger"
                )

    def _check_verifying(self) -> None:
        if self.prefer not in PREFERENCES:
            raise InputError(f"--prefer {self.prefer!r} is unknown: use one of {', '.join(PREFERENCES)}")
        if self.verify not in VERIFY:
            raise InputError(f"--verify {self.verify!r} is unknown: use one of {', '.join(VERIFY)}")
        if self.evaluation is not None:
            read_chats(self.evaluation, require_answer=False)

    def _check_template(self) -> None:
        if self.chat_template is None:
            return
        if self.format == "adapter":
            raise InputError("--format adapter takes no --template: a LoRA file has none")
        given = read_template(self.chat_template)
        object.__setattr__(self, "given_template", given)
        try:
            ChatTemplate(given.source, "<s>", "</s>")
        except ModelError as error:
            raise InputError(f"--template {self.chat_template!r}: {error}") from None

    def reject_unused_options(self) -> None:
        """Raise InputError for an option without effect.

        Call it before `resolve_auto` replaces AUTO by the chosen type.
        """
        if self.prefer != "size" and AUTO not in self.quants:
            raise InputError(f"--prefer {self.prefer} goes with --quant auto: give that, or leave it out")
        self._reject_unused_goal()
        if self.evaluation and self.format == "adapter":
            raise InputError("--format adapter takes no --eval: an adapter alone is not checked")
        if self.evaluation and self.verify == "off" and AUTO not in self.quants:
            raise InputError("--eval is for the checks, and there are none with --verify off: leave out one")

    def _reject_unused_goal(self) -> None:
        if self.goal is None:
            return
        option = self.goal.option
        if AUTO not in self.quants:
            raise InputError(f"{option} goes with --quant auto: give that, or leave it out")
        if self.prefer != "size":
            raise InputError(
                f"{option} asks for the best of that size, and --prefer {self.prefer} for another"
            )
        if self.pure:
            raise InputError(
                f"{option} chooses a type for each tensor, and --pure gives all the same: leave out one"
            )

    @property
    def goal(self) -> SizeGoal | None:
        """The size that `auto` must keep to. Raises InputError."""
        return parse_goal(self.max_size, self.max_bpw)

    @property
    def tensor_types(self) -> TensorTypes:
        """The types of single tensors. Raises InputError."""
        return parse_tensor_types(self.tensor_type, self.output_type, self.embedding_type, self.pure)

    @property
    def split_bytes(self) -> int | None:
        """The bytes above which a file is split. Raises InputError."""
        return None if self.split_max_size is None else parse_size(self.split_max_size)

    @property
    def quant_options(self) -> dict[str, Any]:
        """The given options of quantizing besides the types, by their names. Raises InputError."""
        split = {} if self.split_bytes is None else {"split_max_size": self.split_bytes}
        return {**self.tensor_types.describe(), **split}

    @property
    def name(self) -> str:
        """The model's name: the last part of `out`."""
        return self.out.resolve().name

    @property
    def apart(self) -> bool:
        """Whether the adapter stays beside the quantized base."""
        return self.format == APART

    @property
    def loras(self) -> dict[str, str]:
        """The file names of the GGUF LoRAs, by those of the quantized files that they are loaded on."""
        return {self.quantized_name(quant): self.lora_name(quant) for quant in self.quants if self.apart}

    @property
    def recovery_folder(self) -> Path:
        """The folder of the recovered adapters, one for each type: NAME-recovery beside `out`."""
        out = self.out.resolve()
        return out.with_name(f"{out.name}-recovery")

    @property
    def full_precision_name(self) -> str:
        """The file name of the unquantized GGUF."""
        return f"{self.name}-{self.outtype.upper()}.gguf"

    @property
    def adapter_name(self) -> str:
        """The file name of the GGUF LoRA file."""
        return f"{self.name}-LoRA-{self.outtype.upper()}.gguf"

    @property
    def imatrix_name(self) -> str:
        """The file name of the importance matrix made from `calibrate`."""
        return f"{self.name}-imatrix.gguf"

    def quantized_name(self, quant: str) -> str:
        """Return the file name of the GGUF of one quantization type."""
        return f"{self.name}-base-{quant}.gguf" if self.apart else f"{self.name}-{quant}.gguf"

    def lora_name(self, quant: str) -> str:
        """Return the file name of the GGUF LoRA that is loaded on the base of one quantization type."""
        return f"{self.name}-{quant}-LoRA-{self.outtype.upper()}.gguf"
