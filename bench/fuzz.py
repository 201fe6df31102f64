"""Fuzzing: hostile GGUF files, adapters and configurations, and what became of the processes that read them.

This process plays the server: it has no llama.cpp, opens models through engine.process, and must survive.
Beside the mutants, it has a good model loaded, which must go on to give the same answers.
"""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bench.config_mutations import mutated_config, restore, write_good_folders
from bench.mutations import MODEL_MUTATIONS, mutated_adapter, mutated_model
from bench.tiny_gguf import write_model
from common.errors import InputError
from common.system import process_memory
from common.worker_process import WorkerDied, WorkerProcess
from engine.config import EngineConfig, SamplingParams
from engine.errors import EngineError, EngineStopped
from engine.process.client import DiedLoading
from engine.process.supervisor import ProcessBackend, ProcessLoader
from engine.types import Message, TextDelta
from ggufio.errors import GgufError
from ggufio.untrusted_reader import read_header

T = TypeVar("T")
ANSWER_SECONDS = 30.0
MAX_MEMORY = 1 << 30
_LOAD_SECONDS = 150.0  # the probe's own limits are shorter
_PROGRESS_SECONDS = 10.0
_REUSES = 200  # mutants that one reading process serves, unless one ends it
KINDS = (*MODEL_MUTATIONS, "bytes", "adapter", "config")
_WEIGHTS = (3, 6, 2, 2, 3, 3, 2)
_SETTINGS = EngineConfig(context=512, slots=2, queue=4, speculation=False, threads=1, cache_ram=1 << 20)
_SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
_GREEDY = SamplingParams(temperature=0, max_tokens=8)


def _said(*texts: str) -> list[Message]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)
    ]


QUESTIONS: tuple[tuple[list[Message], SamplingParams], ...] = (
    (_said("hello"), _GREEDY),
    (_said("ÿ é \0 \u07ff 日本 😀"), _GREEDY),
    (_said("hello you, " * 30), _GREEDY),
    (_said("A name as JSON"), SamplingParams(temperature=0, max_tokens=8, json_schema=_SCHEMA)),
    (_said(*["hi"] * 15), SamplingParams(max_tokens=8, seed=1)),
)


@dataclass(frozen=True)
class Mutant:
    """One input: `content` is a GGUF's, or that of the file `name` of bench.config_mutations."""

    kind: str
    content: bytes
    name: str = ""


def mutant(seed: int, number: int) -> Mutant:
    """Return a mutant, always the same for a seed and a number."""
    draw = random.Random(f"{seed} {number}")
    kind = draw.choices(KINDS, _WEIGHTS)[0]
    if kind == "config":
        name, content = mutated_config(draw)
        return Mutant(kind, content, name)
    return Mutant(kind, mutated_adapter(draw) if kind == "adapter" else mutated_model(draw, kind))


@dataclass
class Outcome:
    """What became of one mutant. `broken` are descriptions of broken promises."""

    kind: str
    fate: str = "refused"  # or "accepted"
    asked: int = 0
    answered: int = 0  # of those asked; the others got an error's line
    probe_deaths: int = 0
    deaths: int = 0
    hangs: int = 0
    server_deaths: int = 0
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def hung(self, what: str) -> None:
        """Record that something did not end in time."""
        self.hangs += 1
        self.broken.append(f"{what} got no answer in time")

    def failed(self, error: BaseException) -> None:
        """Record an error that the server does not expect, which would end its request or its thread."""
        self.server_deaths += 1
        self.broken.append(f"the server's own error {error!r:.200}")


@dataclass(frozen=True)
class FuzzConfig:
    """`seconds` or `mutants` end the run, whichever comes first; `only` is the number of the only mutant."""

    seed: int = 0
    seconds: float | None = None
    mutants: int | None = None
    only: int | None = None
    answer_seconds: float = ANSWER_SECONDS

    def __post_init__(self) -> None:
        """Check the options. Raises InputError."""
        if self.seconds is None and self.mutants is None and self.only is None:
            raise InputError("the run has no end: give --seconds, --mutants or --only")
        for name in ("seconds", "mutants"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InputError(f"--{name} {value:g} is too few: use more than 0")


@dataclass
class FuzzResult:
    """The outcomes by the mutants' numbers, and the peak memory of this process in bytes."""

    seed: int
    outcomes: dict[int, Outcome]
    seconds: float
    peak_memory: int

    @property
    def broken(self) -> list[str]:
        """Return a line for each broken promise, with the command that reruns its mutant."""
        lines = [
            f"mutant {number} ({one.kind}): {line}: python scripts/fuzz.py --seed {self.seed} --only {number}"
            for number, one in self.outcomes.items()
            for line in one.broken
        ]
        if self.peak_memory > MAX_MEMORY:
            lines.append(f"the server's process took {self.peak_memory >> 20} MiB")
        return lines

    def total(self, name: str) -> int:
        """Return the sum of a counter over all outcomes."""
        return sum(getattr(one, name) for one in self.outcomes.values())

    def rows(self) -> list[tuple[str, int, int, int, int, int, int, int]]:
        """Return for each kind: its name, mutants, refused, accepted, asked, answered, deaths, hangs."""
        found = []
        for kind in KINDS:
            ones = [one for one in self.outcomes.values() if one.kind == kind]
            fates = Counter(one.fate for one in ones)
            sums = [
                sum(getattr(one, name) for one in ones) for name in ("asked", "answered", "deaths", "hangs")
            ]
            found.append((kind, len(ones), fates["refused"], fates["accepted"], *sums))
        return found


def fuzz(config: FuzzConfig, log: Callable[[str], None] = lambda line: None) -> FuzzResult:
    """Make the mutants, try each, and return what became of them."""
    began, outcomes = time.monotonic(), dict[int, Outcome]()
    numbers = itertools.count() if config.only is None else iter([config.only])
    if config.mutants is not None:
        numbers = itertools.islice(numbers, config.mutants)
    shown = began
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, Fuzzer(Path(folder), config) as fuzzer:
        for number in numbers:
            if config.seconds is not None and time.monotonic() - began > config.seconds:
                break
            outcomes[number] = fuzzer.attempt(mutant(config.seed, number))
            for line in outcomes[number].broken:
                log(f"BROKEN: mutant {number}: {line}")
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                accepted = sum(one.fate == "accepted" for one in outcomes.values())
                log(f"{number + 1} mutants, {accepted} accepted, {shown - began:.0f} s")
    return FuzzResult(config.seed, outcomes, time.monotonic() - began, process_memory("VmHWM"))


class Fuzzer:
    """The processes that read mutants, and the good model beside them."""

    def __init__(self, folder: Path, config: FuzzConfig) -> None:
        self._folder, self._limit = folder, config.answer_seconds
        self._cache = os.environ.get("GGUF_CHAT_CACHE")
        os.environ["GGUF_CHAT_CACHE"] = str(folder / "cache")  # of the probe: mutants do not come again
        os.environ["HF_HUB_OFFLINE"] = "1"
        self._loader = ProcessLoader(_SETTINGS)
        self._good = write_model(folder / "good.gguf")
        self._host = self._loader(self._good)
        self._expected = [self._answer(self._host, question) for question in QUESTIONS]
        self._probe = _Reader("engine.probe.child", folder)
        self._configs = _Reader("bench.config_reader", folder)
        self._variant: str | None = self._probe.run(self._inspect(self._good), _LOAD_SECONDS)["variants"][0]
        write_good_folders(folder / "configs")
        self._outcome = Outcome("")
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed

    def __enter__(self) -> Fuzzer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        threading.excepthook = self._hook
        self._host.close()
        self._loader.close()
        self._probe.close()
        self._configs.close()
        os.environ.pop("GGUF_CHAT_CACHE")
        if self._cache is not None:
            os.environ["GGUF_CHAT_CACHE"] = self._cache

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        self._outcome.failed(failure.exc_value or SystemExit())

    def attempt(self, one: Mutant) -> Outcome:
        """Try a mutant as the server would, and return what became of it."""
        began = time.monotonic()
        outcome = self._outcome = Outcome(one.kind)
        try:
            if one.kind == "config":
                self._try_config(one, outcome)
            else:
                self._try_file(one, outcome)
        except Exception as error:  # noqa: BLE001 - whatever the server's code lets through is a finding
            outcome.failed(error)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _try_config(self, one: Mutant, outcome: Outcome) -> None:
        folder = self._folder / "configs"
        (folder / one.name).write_bytes(one.content)
        try:
            self._configs.run({"folder": str(folder)}, self._limit)
            outcome.fate = "accepted"
        except TimeoutError:
            outcome.hung(one.name)
        except WorkerDied as error:
            outcome.broken.append(f"{one.name}: {error.reason}")
        except InputError:
            pass
        finally:
            restore(folder)

    def _try_file(self, one: Mutant, outcome: Outcome) -> None:
        path = self._folder / "mutant.gguf"
        path.write_bytes(one.content)
        with suppress(GgufError):
            _within(self._limit, lambda: read_header(path))
        is_adapter = one.kind == "adapter"
        if not self._is_accepted(path, is_adapter, outcome):
            return
        try:
            target = (self._good, path) if is_adapter else (path, None)
            backend = _within(_LOAD_SECONDS, lambda: self._loader(*target))
        except EngineError as error:
            outcome.deaths += isinstance(error, DiedLoading)
            return
        except TimeoutError:
            outcome.hung("loading")
            return
        outcome.fate = "accepted"
        with backend:
            for question in QUESTIONS:
                self._ask(backend, question, outcome)
            if is_adapter and backend.model is self._host.model and self._host.failed:
                self._host = self._loader(self._good)
        self._ask_neighbour(outcome)

    def _is_accepted(self, path: Path, is_adapter: bool, outcome: Outcome) -> bool:
        """Return whether the probe's jobs accept a file; in a process that serves many, as it is faster."""
        run = {"job": "run", "variant": self._variant, "extra_buffers": True, "threads": 1}
        jobs = [] if is_adapter else [self._inspect(path), {**run, "model": str(path), "adapter": None}]
        if is_adapter:
            jobs = [{**run, "model": str(self._good), "adapter": str(path)}]
        for job in jobs:
            try:
                if self._probe.run(job, _LOAD_SECONDS) == {"finite": False}:
                    return False
            except WorkerDied:
                outcome.probe_deaths += 1
                return False
            except TimeoutError:
                outcome.hung(f"the probe's {job['job']}")
                return False
            except InputError:
                return False
        return True

    @staticmethod
    def _inspect(path: Path) -> dict[str, Any]:
        return {"job": "inspect", "model": str(path), "chat_template": ""}

    def _ask(
        self, backend: ProcessBackend, question: tuple[list[Message], SamplingParams], outcome: Outcome
    ) -> None:
        outcome.asked += 1
        try:
            self._answer(backend, question)
            outcome.answered += 1
        except EngineStopped as error:
            outcome.deaths += "ended (" in str(error)
        except EngineError:
            pass  # one line, as promised
        except TimeoutError:
            outcome.hung(f"the question {question[0][-1]['content']!r:.40}")

    def _ask_neighbour(self, outcome: Outcome) -> None:
        number = outcome.asked % len(QUESTIONS)
        try:
            if self._answer(self._host, QUESTIONS[number]) != self._expected[number]:
                outcome.broken.append("the model beside it gave another answer than before")
        except TimeoutError:
            outcome.hung("the model beside it")

    def _answer(self, backend: ProcessBackend, question: tuple[list[Message], SamplingParams]) -> str:
        """Return an answer's text. Raises EngineError, and TimeoutError when it does not end in time."""
        return _within(
            self._limit,
            lambda: "".join(
                event.delta for event in backend.stream(*question) if isinstance(event, TextDelta)
            ),
        )


class _Reader:
    """A WorkerProcess that is replaced when it ends, or has served many."""

    def __init__(self, module: str, folder: Path) -> None:
        self._module, self._log = module, folder / f"{module}.log"
        self._served = 0
        self._process = WorkerProcess(module, self._log)

    def run(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the result of a request. Raises InputError, WorkerDied, and TimeoutError."""
        if self._served >= _REUSES:
            self._replace()
        self._served += 1
        deadline = time.monotonic() + seconds

        def check_time() -> None:
            if time.monotonic() > deadline:
                raise TimeoutError

        try:
            return self._process.run(request, on_tick=check_time)
        except (WorkerDied, TimeoutError):
            self._replace()
            raise

    def _replace(self) -> None:
        self._process.close()
        self._process, self._served = WorkerProcess(self._module, self._log), 0

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of `work`, done in a thread. Raises its error, or TimeoutError."""
    done: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: raised again below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not done:
        raise TimeoutError
    return done[0]
