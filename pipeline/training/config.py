"""FinetuneConfig and FinetuneReport: the options and the results of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.data.reader import DataOptions
from pipeline.errors import InputError
from pipeline.quantize.types import TERNARY, quant_type

Schedule = Literal["constant", "linear", "cosine", "cosine-restarts", "plateau"]
StoredType = Literal["float16", "float32"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Optimizer = Literal["adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit"]
Tracker = Literal["trackio", "tensorboard", "wandb"]
TrainOn = Literal["all", "last"]
ALL_LINEAR = "all-linear"
"""PEFT's name for every linear layer but the output head."""

_SHAPE = ("rank", "alpha", "dropout", "targets", "rslora", "dora")
"""What an adapter to go on from decides by itself."""

_WARMUP = 0.05
LORA_RATE, FULL_RATE, TERNARY_RATE = 3e-4, 2e-5, 2e-4
"""The learning rates without --lr: of an adapter, of all weights (--full), of ternary ones (--ternary)."""


@dataclass(frozen=True)
class FinetuneConfig:
    """The options of a fine-tuning. Raises InputError for a value out of range.

    `base` is a folder (or a Hub id), `out` the adapter's folder (with `full`, the tuned model's). `data` is a
    file or a Hub id of a data set, read with `data_options`. `steps`, when given, takes precedence over
    `epochs`. `base_name` is the base's name in the adapter; None takes the base's name, never a path.

    Held out, for evaluation and not trained on, is a file `valid`, or else the fraction `held_out` of the
    data. The first `answers` held-out chats are answered before and after, in evaluation.html. `max_length`
    is in tokens. `train_on` is "all" answers of a chat or its "last".

    The update is scaled by alpha / rank (rsLoRA: alpha / sqrt(rank)). `qlora` "nf4" rounds the base to 4 bits
    first. `adapter` is one to go on from, with its rank, alpha and layers. `full` trains all weights, and
    `ternary` those of a ternary base, which stay ternary; their rounding grows to its full strength over the
    share `ternary_warmup` of the steps.

    A step takes `batch_size` x `accumulate` chats. `neftune` is NEFTune's noise alpha, 0 for none. `cycles`
    is for the schedule "cosine-restarts". With `early_stopping` N, training ends when the held-out loss has
    not improved N times in a row, measured each `eval_every` steps, and the best weights are kept. `packing`
    fills rows of `max_length` tokens with whole chats, which do not see each other.

    `precision` is the type of matrix products; "auto" takes the faster one on this machine. `threads` are
    the CPU's; None takes its physical cores. `stored_type` is the type in the adapter's file. `chat_template`
    is a Jinja file or a name, in place of the base's; the adapter then carries it.

    `for_quant` is a quantization such as "Q4_0": the tuned adapter is then distilled into itself for that
    file (recovery.py), through an importance matrix from the chats of `calibrate` if given; with
    `for_labels` it learns the data's answers through the rounded weights instead.

    `save_every` is in steps; None saves about once a minute, 0 never. With `resume`, an interrupted training
    with the same options goes on from its last checkpoint. `trackers` report the metrics as they come.
    """

    base: str
    data: str | Path
    out: Path
    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    dora: bool = False
    qlora: str | None = None
    full: bool = False
    ternary: bool = False
    ternary_warmup: float = 0.0
    adapter: str | None = None
    learning_rate: float | None = None
    schedule: Schedule = "cosine"
    cycles: int = 1
    warmup: float = _WARMUP
    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 8
    accumulate: int = 1
    max_length: int = 1024
    train_on: TrainOn = "all"
    packing: bool = False
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    neftune: float = 0.0
    optimizer: Optimizer = "adamw"
    checkpointing: bool = False
    held_out: float = 0.1
    valid: str | Path | None = None
    eval_every: int | None = None
    early_stopping: int | None = None
    answers: int = 3
    seed: int = 42
    precision: Precision = "auto"
    device: Device = "auto"
    threads: int | None = None
    stored_type: StoredType = "float16"
    base_name: str | None = None
    chat_template: str | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    save_every: int | None = None
    resume: bool = True
    trackers: tuple[Tracker, ...] = ()
    for_quant: str | None = None
    calibrate: Path | None = None
    for_labels: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.ternary:
            object.__setattr__(self, "full", True)
        if self.learning_rate is None:
            rate = TERNARY_RATE if self.ternary else FULL_RATE if self.full else LORA_RATE
            object.__setattr__(self, "learning_rate", rate)
        for option, ok, value, fix in _ranges(self):
            if not ok:
                raise InputError(f"{option} {value!r} is out of range: {fix}")
        for option, value, allowed in _choices(self):
            if value not in allowed:
                raise InputError(f"{option} {value!r} is out of range: use {_listed(allowed)}")
        for message in _contradictions(self):
            raise InputError(message)
        if self.for_quant is not None:
            quant = quant_type(self.for_quant, "--for")
            object.__setattr__(self, "for_quant", quant.name)
            if quant.needs_imatrix and self.calibrate is None:
                raise InputError(
                    f"--for {quant.name} needs an importance matrix: give --calibrate FILE.jsonl"
                )

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        assert self.learning_rate is not None  # set in __post_init__
        return self.learning_rate

    @property
    def valid_options(self) -> DataOptions:
        """How `valid` is read: as the data, but a file has no split or revision."""
        if self.valid is not None and Path(self.valid).exists():
            return replace(self.data_options, split=None, revision=None)
        return self.data_options


def _ranges(config: FinetuneConfig) -> list[tuple[str, bool, object, str]]:
    """Return (option, whether its value is in range, the value, the fix)."""
    one = config
    rate = one.learning_rate or 0
    return [
        ("--rank", 1 <= one.rank <= 1024, one.rank, "use 1 to 1024"),
        ("--alpha", 0 < one.alpha <= 4096, one.alpha, "use more than 0, usually 1 or 2 times the rank"),
        ("--dropout", 0 <= one.dropout < 1, one.dropout, "use 0 to below 1"),
        ("--lr", 0 < rate <= 0.1, one.learning_rate, "use about 1e-4 to 5e-4"),
        ("--cycles", 1 <= one.cycles <= 1000, one.cycles, "use 1 or more"),
        ("--warmup", 0 <= one.warmup < 1, one.warmup, "use a fraction of the steps, 0 to below 1"),
        ("--ternary-warmup", 0 <= one.ternary_warmup < 1, one.ternary_warmup, "use a fraction of the steps"),
        ("--epochs", 0 < one.epochs <= 1000, one.epochs, "use more than 0 and at most 1000"),
        ("--steps", one.steps is None or 1 <= one.steps <= 10**8, one.steps, "use 1 or more"),
        ("--batch-size", one.batch_size >= 1, one.batch_size, "use 1 or more"),
        ("--accumulate", one.accumulate >= 1, one.accumulate, "use 1 or more"),
        ("--max-length", one.max_length >= 16, one.max_length, "use 16 or more tokens"),
        ("--weight-decay", 0 <= one.weight_decay <= 1, one.weight_decay, "use 0 to 1, usually 0 to 0.1"),
        (
            "--max-grad-norm",
            0 <= one.max_grad_norm < 1e6,
            one.max_grad_norm,
            "use about 1, or 0 for none",
        ),
        ("--neftune", 0 <= one.neftune <= 100, one.neftune, "use 0 for none, or about 5"),
        ("--held-out", 0 <= one.held_out < 1, one.held_out, "use a fraction, 0 to below 1"),
        ("--eval-every", (one.eval_every or 1) >= 1, one.eval_every, "use 1 or more steps"),
        ("--early-stopping", (one.early_stopping or 1) >= 1, one.early_stopping, "use 1 or more evaluations"),
        ("--answers", 0 <= one.answers <= 1000, one.answers, "use 0 for none, or a few"),
        ("--save-every", (one.save_every or 0) >= 0, one.save_every, "use steps, or 0 for no checkpoints"),
        ("--threads", one.threads is None or 1 <= one.threads <= 1024, one.threads, "use 1 to 1024"),
        ("--seed", 0 <= one.seed < 2**32, one.seed, "use 0 to 4294967295"),
        (
            "--target",
            bool(one.targets) and all(one.targets),
            one.targets,
            "name layers, or all-linear",
        ),
    ]


def _choices(config: FinetuneConfig) -> list[tuple[str, object, tuple[str | None, ...]]]:
    """Return (option, its value, the allowed ones)."""
    return [
        ("--schedule", config.schedule, get_args(Schedule)),
        ("--precision", config.precision, get_args(Precision)),
        ("--device", config.device, get_args(Device)),
        ("--optimizer", config.optimizer, get_args(Optimizer)),
        ("--train-on", config.train_on, get_args(TrainOn)),
        ("--qlora", config.qlora, (None, "nf4")),
        ("stored_type", config.stored_type, get_args(StoredType)),
        *(("--track", name, get_args(Tracker)) for name in config.trackers),
    ]


def _contradictions(config: FinetuneConfig) -> list[str]:
    """Return what is wrong with options that are right each for itself."""
    measured = "the data must have a held-out part: give --valid FILE or --held-out above 0"
    has_held_out = config.valid is not None or config.held_out > 0
    adapter_options = {"--rslora": config.rslora, "--dora": config.dora, "--qlora": config.qlora}
    given = [option for option, value in adapter_options.items() if value]
    whole = "--ternary" if config.ternary else "--full"
    not_plain = {"--full": config.full, "--dora": config.dora, "--qlora": config.qlora}
    no_plain_lora = [option for option, value in not_plain.items() if value]
    found: dict[str, object] = {
        f"--early-stopping needs a held-out loss: {measured}": config.early_stopping and not has_held_out,
        f"--schedule plateau needs a held-out loss: {measured}": config.schedule == "plateau"
        and not has_held_out,
        "--schedule plateau has no warm-up: leave --warmup out": config.schedule == "plateau"
        and config.warmup not in (0, _WARMUP),
        f"--eval-every needs a held-out loss: {measured}": config.eval_every and not has_held_out,
        "--cycles goes with --schedule cosine-restarts: give that, or leave it out": config.cycles > 1
        and config.schedule != "cosine-restarts",
        f"{whole} trains all weights and takes no {' '.join(given)}: leave out one": config.full and given,
        f"{whole} trains the base and takes no --adapter: leave out one": config.full and config.adapter,
        "--ternary-warmup goes with --ternary: give that, or leave it out": config.ternary_warmup
        and not config.ternary,
        "--calibrate is for the file of --for: give that, or leave it out": config.calibrate
        and not config.for_quant,
        "--for-labels goes with --for: give that, or leave it out": config.for_labels
        and not config.for_quant,
        f"--for needs held-out chats, which say when to stop: {measured}": config.for_quant
        and not has_held_out,
        f"--for {config.for_quant} is a type for ternary bases, which take no adapter: use --ternary": (
            config.for_quant and config.for_quant.strip().upper() in TERNARY
        ),
        f"--for trains a plain LoRA for the file, and takes no {' '.join(no_plain_lora)}: leave out one": (
            config.for_quant and no_plain_lora
        ),
    }
    if config.adapter:
        defaults = {one.name: one.default for one in fields(FinetuneConfig)}
        changed = [name for name in _SHAPE if getattr(config, name) != defaults[name]]
        shape = " ".join("--target" if name == "targets" else f"--{name}" for name in changed)
        found[f"--adapter brings its own shape and takes no {shape}: leave out one"] = changed
    return [message for message, wrong in found.items() if wrong]


def _listed(names: tuple[str | None, ...]) -> str:
    known = [name for name in names if name]
    return f"{', '.join(known[:-1])} or {known[-1]}" if len(known) > 1 else str(known[0])


@dataclass(frozen=True)
class FinetuneReport:
    """The results of a training. Losses are in nats per token, over the trained tokens only.

    `dropped_chats` were left out, as they have no answer within max_length. `train_loss` is measured on about
    as many trained chats as were held out, at least 16; what is `held_out` is None without held-out chats:
    `held_out_before` and `held_out_after` have the loss with its 95 % interval, and `comparison` how often
    the wanted answer became likelier (pipeline.evaluation.statistics). `best_step` is the step whose weights
    were kept, if not the last one's. `seconds` include the interrupted runs. `notes` are for the user.
    """

    steps: int
    seconds: float
    train_chats: int
    held_out_chats: int
    truncated_chats: int
    dropped_chats: int
    trained_parameters: int
    trained_tokens: int
    train_loss_before: float
    train_loss: float
    held_out_loss_before: float | None
    held_out_loss: float | None
    best_step: int | None = None
    evaluation: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
