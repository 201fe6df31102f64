"""Selects the CPU backend that runs a model on this machine, and checks the file, in child processes.

llama.cpp's fastest variant can crash (AMX on some virtual machines, and only with some tensor types), and a
broken GGUF can abort inside C. So a new file is first opened and computed with in a child process. The result
is cached per file, CPU and build.
"""

from __future__ import annotations

import hashlib
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.chat_templates import OPTION
from common.files import load_json, open_input, store_json
from common.paths import cache_folder
from common.system import physical_cores
from engine.errors import BackendError, ModelError
from engine.llama.library import (
    build_identity,
    cpu_identity,
    find_variants,
    load_variant,
    loaded_variant,
    rank_variants,
    variant_name,
)
from engine.llama.model import ModelMetadata
from engine.probe.client import ProbeResult, compute, run_probe
from engine.types import ProgressCallback, no_progress, rising, scaled
from ggufio import shards

_FORMAT = 7  # raise it when cached values change their meaning


def cache_path(kind: str, model: Path, *more: object, cache: Path | None = None) -> Path:
    """Return the cache file for a result; `more` are its inputs besides the model, the CPU and the build."""
    parts: list[object] = [_FORMAT]
    for file in shards.files(model):
        parts += [file.resolve(), (stat := file.stat()).st_size, stat.st_mtime_ns]
    parts += [*more, cpu_identity(), build_identity()]
    key = hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()[:32]
    return (cache or cache_folder()) / f"{kind}-{key}.json"


def load_cached(memo: Path) -> Any:
    """Return the cached JSON, or None."""
    return load_json(memo)


def store_cached(memo: Path, found: object) -> None:
    """Cache a value as JSON, if the folder is writable."""
    with suppress(OSError):  # a read-only home only costs the next start a probe
        store_json(memo, found)


_INSPECT_SECONDS = 60.0
_TRIALS = {
    "tokenizer": "tokenizer",
    "template": "chat template",
    "grammar": "vocabulary with a JSON schema",
}
"""The stages of engine.probe.trials, as users know them."""
_AMX = ("sapphirerapids",)  # the variants with AMX
_LORA_FAILED = "failed to apply lora adapter: "  # llama.cpp's message, before the reason
_FIX = "download or export it again"
_REBUILD = (
    "reinstall with `pip install --force-reinstall --no-cache-dir llama-cpp-python --config-settings="
    '"cmake.args=-DGGML_NATIVE=OFF"`'
)


@dataclass(frozen=True)
class CpuChoice:
    """A CPU backend; a `path` of None is the compiled-in one. See `use_extra_bufts` in llama.h.

    The fields, and those of ModelMetadata, are also the cache's format.
    """

    variant: str
    path: str | None
    extra_buffers: bool


@dataclass(frozen=True)
class Probe:
    """The metadata of a model file, and the backend that computes with it."""

    facts: ModelMetadata
    choice: CpuChoice


def load_cpu_backend(
    model: Path | str, *, threads: int | None = None, extra_buffers: bool = True
) -> CpuChoice:
    """Load the best CPU backend for the model into this process, for `llama_cpp.Llama` too.

    Pass the choice's `extra_buffers` on to llama_model_params.use_extra_bufts. Raises ModelError or
    BackendError.
    """
    model = Path(model)
    return load_choice(model, probe_model(model, threads=threads, extra_buffers=extra_buffers).choice)


def load_choice(model: Path, choice: CpuChoice) -> CpuChoice:
    """Load a backend for the model into this process, and return the one in use. Raises BackendError.

    A process has one backend. If it loaded another one for another model, that one is tried in a child.
    """
    loaded = loaded_variant()
    if choice.path is None:
        return choice
    if loaded is None or loaded == Path(choice.path):
        load_variant(Path(choice.path))
        return choice
    memo = cache_path("runs", model, loaded, choice.extra_buffers)
    if (runs := load_cached(memo)) is None:
        threads, extra = physical_cores(), choice.extra_buffers
        done = compute("run", model, variant=str(loaded), extra_buffers=extra, threads=threads)
        store_cached(memo, runs := done.answer == {"finite": True})
    if not runs:
        raise BackendError(
            f"{model.name} needs the CPU backend {choice.variant}, and this process uses "
            f"{variant_name(loaded)} for another model: open it in a process of its own"
        )
    return _choice(loaded, choice.extra_buffers)


def probe_model(
    model: Path,
    *,
    threads: int | None = None,
    extra_buffers: bool = True,
    chat_template: str = "",
    cache: Path | None = None,
    progress: ProgressCallback = no_progress,
) -> Probe:
    """Return the model's metadata and the backend that runs it, from the cache or from child processes.

    A `chat_template` replaces the file's, which then need not have one.
    `cache` is a folder (default: `cache_folder()`). Raises ModelError when the file is at fault, BackendError
    when no backend survives, and EngineStopped when `progress` returns False.
    """
    _check_files(model)
    memo = _probe_path(model, extra_buffers, chat_template, cache)
    if (known := _load_probe(memo)) is not None:
        return known
    found = _inspect(model, chat_template)
    facts = ModelMetadata(**_tuples(found["facts"]))
    ranked = [Path(p) for p in found["variants"] if not (_is_plain(facts) and variant_name(Path(p)) in _AMX)]
    loading = rising(scaled(progress, 0.2, 1.0))  # a backend that crashes is followed by the next one
    choice = _choose(model, ranked, threads or physical_cores(), extra_buffers, loading)
    probe = Probe(facts, choice)
    store_cached(memo, asdict(probe))
    return probe


def is_known(model: Path, extra_buffers: bool, chat_template: str = "") -> bool:
    """Return whether `probe_model` has a cached result for this file."""
    _check_files(model)
    return _probe_path(model, extra_buffers, chat_template).exists()


def _probe_path(model: Path, extra_buffers: bool, chat_template: str, cache: Path | None = None) -> Path:
    given = [chat_template] if chat_template else []
    return cache_path("probe", model, extra_buffers, *given, cache=cache)


def _is_plain(facts: ModelMetadata) -> bool:
    """Return whether the weights are not quantized, as far as the file says.

    Where AMX crashes, it does so with quantized types only. A plain file must not bring it into a process
    that opens a quantized one next.
    """
    return facts.quantization in ("all F32", "F16", "BF16", "unknown")


def first_candidate() -> CpuChoice:
    """Return the best backend without AMX, which may crash, for a process that does not try others."""
    ranked = [path for path in rank_variants(find_variants()) if variant_name(path) not in _AMX]
    path, extra = candidates(ranked, extra_buffers=True)[0]
    return _choice(path, extra)


def record_probe(model: Path, probe: Probe) -> None:
    """Cache a result for `probe_model`, from a caller that has computed with the file."""
    store_cached(cache_path("probe", model, True), asdict(probe))


def check_adapter(
    model: Path, adapter: Path, choice: CpuChoice, threads: int, progress: ProgressCallback = no_progress
) -> None:
    """Load a LoRA adapter on its model and compute with it, in a child process. Raises ModelError."""
    _check_file(adapter)
    done = compute(
        "run",
        model,
        adapter=adapter,
        variant=choice.path,
        extra_buffers=choice.extra_buffers,
        threads=threads,
        progress=progress,
    )
    if done.answer == {"finite": True}:
        return
    reason = str(done.answer.get("error", "its numbers are not finite")) if done.answer else done.ending
    raise ModelError(
        f"{adapter} is no working adapter for {model.name} ({reason.rpartition(_LORA_FAILED)[2]}): "
        "convert it with this very base model"
    )


def _check_files(model: Path) -> None:
    for file in shards.files(model):
        _check_file(file)


def _check_file(model: Path) -> None:
    try:
        with open_input(model) as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{model} cannot be read: {error.strerror or error}") from error
    if magic != b"GGUF":
        raise ModelError(f"{model} is not a GGUF file (it begins with {magic!r}): {_FIX}, or pass a .gguf")


def _inspect(model: Path, chat_template: str) -> dict[str, Any]:
    request = {"job": "inspect", "model": str(model), "chat_template": chat_template}
    done = run_probe(request, _INSPECT_SECONDS)
    if done.answer is not None and "facts" in done.answer:
        return done.answer
    if not done.stage and done.answer is None:
        raise BackendError(f"llama-cpp-python does not start on this machine ({done.ending}): {_REBUILD}")
    if done.answer is None and (trial := _TRIALS.get(done.stage)):
        if done.stage == "template" and chat_template:
            raise ModelError(f"{model}: the template of {OPTION} takes too long: give another one")
        how = "takes too long" if done.code == -signal.SIGALRM else f"crashes llama.cpp ({done.ending})"
        raise ModelError(f"{model}: its {trial} {how}; do not trust this file")
    reason = _reason(model, done)
    if chat_template:
        reason = reason.replace("the model's chat template", f"the template of {OPTION}")
    raise ModelError(reason)


def _reason(model: Path, done: ProbeResult) -> str:
    reason = str(done.answer["error"]) if done.answer else f"llama.cpp ended with {done.ending}"
    if any(word in reason for word in ("template", "tokenizer", "LoRA adapter", "nobody can chat")):
        return f"{model}: {reason}"
    return f"{model} is damaged or not supported: {reason.removeprefix(f'{model} does not load: ')}; {_FIX}"


def _choose(
    model: Path, ranked: list[Path], threads: int, extra_buffers: bool, progress: ProgressCallback
) -> CpuChoice:
    failures: list[str] = []
    for path, extra in candidates(ranked, extra_buffers):
        choice = _choice(path, extra)
        done = compute(
            "run", model, variant=choice.path, extra_buffers=extra, threads=threads, progress=progress
        )
        if done.answer == {"finite": True}:
            return choice
        if done.answer is not None and "error" in done.answer:
            # llama.cpp refused it cleanly, as every backend would
            raise ModelError(_reason(model, done))
        why = "numbers that are not finite" if done.answer else done.ending
        failures.append(f"{choice.variant}{'' if extra else ' without extra buffers'}: {why}")
    raise BackendError(
        f"no CPU backend of llama.cpp runs {model.name} on this machine ({'; '.join(failures)}). "
        f"If other models run, this file is damaged: {_FIX}. Otherwise {_REBUILD}"
    )


def _choice(path: Path | None, extra_buffers: bool) -> CpuChoice:
    return CpuChoice(variant_name(path) if path else "built-in", str(path) if path else None, extra_buffers)


def candidates(ranked: list[Path], extra_buffers: bool) -> list[tuple[Path | None, bool]]:
    """Return the (variant, use extra buffers) pairs to try, in order; at most 7, as each takes seconds."""
    paths: list[Path | None] = [*ranked] or [None]
    first: list[tuple[Path | None, bool]] = [(p, True) for p in paths[:4]] if extra_buffers else []
    plain = list(dict.fromkeys([*paths[:2], paths[-1]]))
    return first + [(p, False) for p in plain]


def _load_probe(memo: Path) -> Probe | None:
    try:
        data = load_cached(memo)
        return Probe(ModelMetadata(**_tuples(data["facts"])), CpuChoice(**data["choice"]))
    except (TypeError, KeyError):
        return None


def _tuples(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
