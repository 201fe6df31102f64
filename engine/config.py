"""The settings of the engine (EngineConfig) and of one answer (SamplingParams), and their valid ranges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from engine.errors import SettingsError

KvType = Literal["f16", "q8_0", "q4_0"]
Overflow = Literal["drop", "refuse"]
CHUNK = 128  # tokens of a prompt that are computed together when answers must not depend on anything else
MAX_TOKENS = 1_000_000  # of one answer
USUAL_ANSWER = 512  # tokens that are kept free for an answer without a limit


def _require(ok: bool, name: str, value: object, fix: str) -> None:
    if not ok:
        raise SettingsError(f"{name}={value!r} is out of range: {fix}")


@dataclass(frozen=True)
class SamplingField:
    """A row of the table of sampling parameters, SAMPLING_FIELDS. Its texts are settings.NAME in ui/i18n.

    Every surface reads the rows: the page's panel and its presets, /v1, the Gradio API, the terminal and the
    checks below. `low`, `high` and `step` are the page's slider; `limits` are the values that the engine
    accepts, `above_minimum` excludes the lower one, and `hint` replaces the range in the error message.
    `help` is the terminal's help text. `gguf_key` follows "general.sampling." in the model's file, and is
    empty when a file cannot recommend a value. `ollama` is the name in a Modelfile, and empty when a
    recommended value is left to Ollama's own default. `basic` parameters are always in view, and presets
    set the values `in_presets`.
    """

    help: str
    limits: tuple[float, float]
    low: float
    high: float
    step: float
    above_minimum: bool = False
    hint: str = ""
    gguf_key: str = ""
    ollama: str = ""
    basic: bool = False
    in_presets: bool = True
    name: str = ""
    default: float | None = None

    @property
    def type(self) -> type[int] | type[float]:
        """`int` for parameters that are whole numbers."""
        return int if isinstance(self.step, int) else float

    def check(self, value: float | None) -> None:
        """Raise SettingsError when the value is out of range."""
        if value is None and self.default is None:
            return
        minimum, maximum = self.limits
        ok = (
            value is not None
            and minimum <= value <= maximum
            and not (self.above_minimum and value == minimum)
        )
        _require(ok, self.name, value, self.hint or f"use {minimum} to {maximum}")


def _field(default: float | None, **row: Any) -> Any:
    return field(default=default, metadata={"row": SamplingField(**row, default=default)})


@dataclass(frozen=True)
class SamplingParams:
    """The sampling settings of one answer. A temperature of 0 is greedy; a seed of None draws a random one.
    An answer has at most `max_tokens` tokens; with 0, as many as the context leaves.

    To add a parameter, add a `_field` here, its sampler (engine/llama/sampler.py) and its two locale texts
    (ui/i18n/locales). Append it: the Gradio API takes the parameters by position.
    `grammar` (GBNF text) or `json_schema` (JSON text or an object) constrains the answer.
    `overflow` drops the oldest turns of a conversation that no longer fits, or refuses it.
    `ignore_end` never draws the model's end tokens, so that a benchmark's answer has `max_tokens` tokens.
    `tool_grammar` (of llguidance) and the control tokens that are `spelled` out in the text are set by the
    backend, for a ToolRequest.
    """

    temperature: float = _field(
        0.7,
        help="0 always says the likeliest.",
        limits=(0, 5),
        low=0,
        high=2,
        step=0.05,
        gguf_key="temp",
        ollama="temperature",
        basic=True,
    )
    max_tokens: int = _field(
        0,
        help="Where an answer is cut; 0: where the context ends.",
        limits=(0, MAX_TOKENS),
        low=0,
        high=4096,
        step=16,
        basic=True,
        in_presets=False,
    )
    repeat_penalty: float = _field(
        1.1,
        help="Above 1, words already said count less.",
        limits=(0.5, 3),
        low=0.8,
        high=2,
        step=0.01,
        gguf_key="penalty_repeat",
        basic=True,
    )
    top_p: float = _field(
        0.95,
        help="Keep the likeliest words up to this share.",
        limits=(0, 1),
        above_minimum=True,
        hint="use more than 0 and at most 1",
        low=0.05,
        high=1,
        step=0.01,
        gguf_key="top_p",
        ollama="top_p",
    )
    top_k: int = _field(
        40,
        help="Keep this many of the likeliest; 0 keeps all.",
        limits=(0, 100_000),
        hint="use 0 (off) or more",
        low=0,
        high=200,
        step=1,
        gguf_key="top_k",
        ollama="top_k",
    )
    min_p: float = _field(
        0.05,
        help="Drop words below this share of the likeliest.",
        limits=(0, 1),
        low=0,
        high=0.5,
        step=0.01,
        gguf_key="min_p",
        ollama="min_p",
    )
    seed: int | None = _field(
        None,
        help="The same number repeats an answer.",
        limits=(0, 2**32 - 1),
        low=0,
        high=2**32 - 1,
        step=1,
        in_presets=False,
    )
    stop: tuple[str, ...] = ()
    grammar: str = ""
    json_schema: str | Mapping[str, Any] | None = None
    ignore_end: bool = False
    overflow: Overflow = "drop"
    frequency_penalty: float = _field(
        0.0,
        help="Above 0, each time that a word was said lately makes it less likely.",
        limits=(-2, 2),
        low=-2,
        high=2,
        step=0.05,
    )
    presence_penalty: float = _field(
        0.0,
        help="Above 0, words that were said lately are less likely, however often.",
        limits=(-2, 2),
        low=-2,
        high=2,
        step=0.05,
    )
    typical_p: float = _field(
        1.0,
        help="Keep words that surprise about as much as expected, up to this share; 1 is off.",
        limits=(0, 1),
        above_minimum=True,
        hint="use more than 0 and at most 1",
        low=0.05,
        high=1,
        step=0.01,
    )
    xtc_probability: float = _field(
        0.0,
        help="How often the likeliest words are left out, for less usual ones; 0 is off.",
        limits=(0, 1),
        low=0,
        high=1,
        step=0.05,
        gguf_key="xtc_probability",
    )
    xtc_threshold: float = _field(
        0.1,
        help="Of the words above this share, XTC leaves only the least likely; above 0.5 is off.",
        limits=(0, 1),
        low=0,
        high=0.5,
        step=0.01,
        gguf_key="xtc_threshold",
    )
    tool_grammar: str = ""
    spelled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for row in SAMPLING_FIELDS:
            row.check(getattr(self, row.name))
        _require(all(self.stop), "stop", self.stop, "a stop string cannot be empty")
        _require(self.overflow in get_args(Overflow), "overflow", self.overflow, "use drop or refuse")
        both = bool(self.grammar) and self.json_schema is not None
        _require(not both, "json_schema", self.json_schema, "use it or a grammar, not both")
        if self.json_schema is not None and not isinstance(self.json_schema, str):
            object.__setattr__(self, "json_schema", json.dumps(self.json_schema))  # keeps the params hashable

    @property
    def penalizes(self) -> bool:
        """True when earlier tokens change the chances of the next one."""
        return self.repeat_penalty != 1.0 or bool(self.frequency_penalty or self.presence_penalty)


SAMPLING_FIELDS: tuple[SamplingField, ...] = tuple(
    replace(item.metadata["row"], name=item.name) for item in fields(SamplingParams) if "row" in item.metadata
)


@dataclass(frozen=True)
class Limits:
    """Limits of one answer: `new_tokens`, and `seconds` from its admission; None is no limit."""

    new_tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class EngineConfig:
    """The settings of the engine: sizes in tokens, times in seconds, memory in bytes.

    `context` is the maximum of one conversation; `slots` conversations are decoded at once.
    `threads` of None uses the physical cores within the container's CPU quota.
    `kv_type` is the type of the KV cache: q8_0 halves its size, q4_0 quarters it.
    `cache_ram` is the prefix cache for conversations that lost their slots, in bytes; 0 disables it.
    `speculation` enables prompt-lookup decoding where it is faster.
    `deterministic` computes one conversation at a time, in the same steps always, so that the same request
    gives the same answer whatever else is served; that is slower.
    `chat_template` is Jinja, or a name, used in place of the file's; "" keeps the file's.
    The `max_...` are limits of each request, None for none: a longer prompt loses its oldest turns or is
    refused, a longer answer ends with the reason "length" or "time".
    """

    context: int = 4096
    slots: int = 4
    queue: int = 32
    threads: int | None = None
    batch: int = 512
    use_extra_buffers: bool = True
    kv_type: KvType = "f16"
    cache_ram: int = 256 << 20
    speculation: bool = True
    deterministic: bool = False
    chat_template: str = ""
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        _require(self.context >= 64, "context", self.context, "use 64 or more tokens")
        _require(1 <= self.slots <= 64, "slots", self.slots, "use 1 to 64")
        _require(self.queue >= 0, "queue", self.queue, "use 0 or more")
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, "use 1 or more")
        least = CHUNK if self.deterministic else 32
        _require(self.batch >= least, "batch", self.batch, f"use {least} or more tokens")
        _require(self.kv_type in get_args(KvType), "kv_type", self.kv_type, "use f16, q8_0 or q4_0")
        _require(self.cache_ram >= 0, "cache_ram", self.cache_ram, "use 0 (off) or more bytes")
        for name in ("max_prompt_tokens", "max_new_tokens", "max_seconds"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "use more than 0, or leave it out for no limit")

    @property
    def limits(self) -> Limits:
        """Return the limits of one answer."""
        return Limits(self.max_new_tokens, self.max_seconds)


def recommended(metadata: Callable[[str], str]) -> dict[str, float]:
    """Return the values that the model's file recommends, by the names of SamplingParams.

    `metadata` returns a key's value as text, or "" when the file does not have it. Invalid values are
    left out.
    """
    texts = ((row, metadata(f"general.sampling.{row.gguf_key}")) for row in SAMPLING_FIELDS if row.gguf_key)
    found = ((row.name, _number(row, text)) for row, text in texts)
    return {name: value for name, value in found if value is not None}


def sampling_over(recommended: Mapping[str, float], given: Mapping[str, Any]) -> SamplingParams:
    """Merge the caller's values over the model's recommendations over the defaults.

    Both mappings use the names of SamplingParams. Raises SettingsError.
    """
    return SamplingParams(**{**recommended, **given})


def _number(row: SamplingField, text: str) -> float | None:
    try:
        value = int(text) if row.type is int else round(float(text), 6)  # the file's float32, as written
        row.check(value)
    except (ValueError, SettingsError):
        return None
    return value
