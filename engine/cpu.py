"""Picks the CPU backend that survives a model on this machine, and vouches for the file: in child processes.

llama.cpp's fastest variant can crash (AMX on some virtual machines, and only with some tensor types), and a
broken GGUF can abort inside C. So a file that was never seen here is opened and computed with in a child
first. What came out is remembered per file, CPU and build: the next start asks nobody.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.cores import physical_cores
from engine.errors import BackendError, ModelError
from engine.native import build_identity, cpu_identity, load_variant, variant_name
from engine.probe_child import Ended, run_probe
from engine.reach import Reach, part, unwatched
from places import cache_folder

__all__ = [
    "CpuChoice",
    "ModelFacts",
    "Probe",
    "check_adapter",
    "is_known",
    "load_cpu_backend",
    "physical_cores",
    "probe_model",
    "recall_exact",
    "remember_exact",
]

_FORMAT = 2  # raise it when what is remembered changes its meaning
_INSPECT_SECONDS = 60.0
_RUN_SECONDS = 120.0
_SLOW_DISK = 40e6  # bytes a second; a cold model on a laptop's disk is no fault
_LORA_FAILED = "failed to apply lora adapter: "  # llama.cpp's words, before the reason
_FIX = "download or export it again"
_REBUILD = (
    "reinstall with `pip install --force-reinstall --no-cache-dir llama-cpp-python --config-settings="
    '"cmake.args=-DGGML_NATIVE=OFF"`'
)


@dataclass(frozen=True)
class CpuChoice:
    """The CPU backend to use; a `path` of None is the one compiled in. See `use_extra_bufts` in llama.h."""

    variant: str
    path: str | None
    extra_buffers: bool


@dataclass(frozen=True)
class ModelFacts:
    """What a GGUF says about itself. `control` and `ends` are spellings of tokens, `size` is in bytes.

    `recommended` is how it wants to be sampled; see engine.recommended.
    """

    name: str
    architecture: str
    quantization: str
    parameters: int
    size: int
    trained_context: int
    template: str
    bos: str
    eos: str
    control: tuple[str, ...]
    ends: tuple[str, ...]
    recommended: Mapping[str, float]


@dataclass(frozen=True)
class Probe:
    """A model file that was opened and computed with, and the backend that did it."""

    facts: ModelFacts
    choice: CpuChoice


def load_cpu_backend(model: Path, *, threads: int | None = None, extra_buffers: bool = True) -> CpuChoice:
    """Load into this process the best CPU backend for the model. Raises ModelError or BackendError.

    Pass the choice's `extra_buffers` on to llama_model_params.use_extra_bufts.
    """
    choice = probe_model(model, threads=threads, extra_buffers=extra_buffers).choice
    if choice.path is not None:
        load_variant(Path(choice.path))
    return choice


def probe_model(
    model: Path,
    *,
    threads: int | None = None,
    extra_buffers: bool = True,
    cache: Path | None = None,
    reach: Reach = unwatched,
) -> Probe:
    """Open the model in a child process and find the backend that runs it, or recall both.

    `cache` is a folder (default: `cache_folder()`); `reach` hears of what is not recalled. Raises ModelError
    when the file is at fault, BackendError when no backend survives, EngineStopped when `reach` says so.
    """
    _check_file(model)
    memo = (cache or cache_folder()) / f"probe-{_key(model, extra_buffers)}.json"
    if (known := _recall(memo)) is not None:
        return known
    found = _inspect(model)
    facts = ModelFacts(**_tuples(found["facts"]), size=model.stat().st_size)
    ranked = [Path(p) for p in found["variants"]]
    choice = _choose(model, ranked, threads or physical_cores(), extra_buffers, part(reach, 0.2, 1.0))
    _remember(memo, Probe(facts, choice))
    return Probe(facts, choice)


def is_known(model: Path, extra_buffers: bool) -> bool:
    """Whether `probe_model` would recall this very file, rather than open it in a child process."""
    _check_file(model)
    return (cache_folder() / f"probe-{_key(model, extra_buffers)}.json").exists()


def recall_exact(model: Path, extra_buffers: bool) -> int | None:
    """What `remember_exact` recorded for this very file on this machine, or None."""
    try:
        return int(json.loads(_exact_memo(model, extra_buffers).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember_exact(model: Path, extra_buffers: bool, rows: int) -> None:
    """Record up to which size a batch gives what single tokens give; see engine.draft.Costs."""
    _write(_exact_memo(model, extra_buffers), json.dumps(rows))


def _exact_memo(model: Path, extra_buffers: bool) -> Path:
    return cache_folder() / f"exact-{_key(model, extra_buffers)}.json"


def check_adapter(
    model: Path, adapter: Path, choice: CpuChoice, threads: int, reach: Reach = unwatched
) -> None:
    """Open a LoRA adapter on its model and compute with it, in a child process. Raises ModelError."""
    _check_file(adapter)
    variant = Path(choice.path) if choice.path else None
    arguments = _run_arguments(model, variant, choice.extra_buffers, threads)
    seconds = _RUN_SECONDS + model.stat().st_size / _SLOW_DISK
    done = run_probe([*arguments, "--adapter", str(adapter)], seconds, reach)
    if done.answer == {"finite": True}:
        return
    reason = str(done.answer.get("error", "its numbers are not finite")) if done.answer else done.ending
    raise ModelError(
        f"{adapter} is no working adapter for {model.name} ({reason.rpartition(_LORA_FAILED)[2]}): "
        "convert it with this very base model"
    )


def _check_file(model: Path) -> None:
    try:
        with model.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{model} cannot be read: {error.strerror or error}") from error
    if magic != b"GGUF":
        raise ModelError(f"{model} is not a GGUF file (it begins with {magic!r}): {_FIX}, or pass a .gguf")


def _key(model: Path, extra_buffers: bool) -> str:
    """Everything that can change the outcome: this very file, the CPU, and the libraries."""
    stat = model.stat()
    parts = (
        _FORMAT,
        model.resolve(),
        stat.st_size,
        stat.st_mtime_ns,
        extra_buffers,
        cpu_identity(),
        build_identity(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _inspect(model: Path) -> dict[str, Any]:
    done = run_probe(["inspect", str(model)], _INSPECT_SECONDS)
    if done.answer is not None and "facts" in done.answer:
        return done.answer
    if not done.ready:
        raise BackendError(f"llama-cpp-python does not start on this machine ({done.ending}): {_REBUILD}")
    if done.code == -signal.SIGALRM:
        raise ModelError(f"{model}: its chat template takes too long to render; do not trust this file")
    raise ModelError(_blame(model, done))


def _blame(model: Path, done: Ended) -> str:
    reason = str(done.answer["error"]) if done.answer else f"llama.cpp ended with {done.ending}"
    if "template" in reason or "LoRA adapter" in reason:
        return f"{model}: {reason}"
    return f"{model} is damaged or not supported: {reason.removeprefix(f'{model} does not load: ')}; {_FIX}"


def _choose(model: Path, ranked: list[Path], threads: int, extra_buffers: bool, reach: Reach) -> CpuChoice:
    failures: list[str] = []
    seconds = _RUN_SECONDS + model.stat().st_size / _SLOW_DISK
    for path, extra in candidates(ranked, extra_buffers):
        name = variant_name(path) if path else "built-in"
        done = run_probe(_run_arguments(model, path, extra, threads), seconds, reach)
        if done.answer == {"finite": True}:
            return CpuChoice(name, str(path) if path else None, extra)
        if done.answer is not None and "error" in done.answer:
            raise ModelError(
                _blame(model, done)
            )  # llama.cpp said no in good order: another backend would too
        why = "numbers that are not finite" if done.answer else done.ending
        failures.append(f"{name}{'' if extra else ' without extra buffers'}: {why}")
    raise BackendError(
        f"no CPU backend of llama.cpp runs {model.name} on this machine ({'; '.join(failures)}). "
        f"If other models run, this file is damaged: {_FIX}. Otherwise {_REBUILD}"
    )


def candidates(ranked: list[Path], extra_buffers: bool) -> list[tuple[Path | None, bool]]:
    """What to try, in this order: (variant, use extra buffers). Seven at most, for each may take seconds."""
    paths: list[Path | None] = [*ranked] or [None]
    first: list[tuple[Path | None, bool]] = [(p, True) for p in paths[:4]] if extra_buffers else []
    plain = list(dict.fromkeys([*paths[:2], paths[-1]]))
    return first + [(p, False) for p in plain]


def _run_arguments(model: Path, variant: Path | None, extra: bool, threads: int) -> list[str]:
    chosen = ["--variant", str(variant)] if variant else []
    return ["run", str(model), *chosen, *([] if extra else ["--no-extra-bufts"]), "--threads", str(threads)]


def _recall(memo: Path) -> Probe | None:
    try:
        data = json.loads(memo.read_text(encoding="utf-8"))
        return Probe(ModelFacts(**_tuples(data["facts"])), CpuChoice(**data["choice"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(memo: Path, probe: Probe) -> None:
    _write(memo, json.dumps(asdict(probe)))


def _write(memo: Path, text: str) -> None:
    beside = memo.with_name(f"{memo.name}.{os.getpid()}")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(memo)
    except OSError:
        return  # a read-only home only costs the next start a probe


def _tuples(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
