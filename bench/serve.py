"""Compares our engine and its peers on the same model, prompts and lengths, in one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.metrics import Figures, median_of, ratio
from bench.run_system import (
    BARE,
    DETERMINISTIC,
    FACTS,
    IN_PROCESS,
    LOCK,
    OURS,
    PLAIN,
    SERVER,
    SINGLE,
)
from bench.workload import find_workload
from common.worker_process import run_worker
from engine import SPIN_BEFORE
from pipeline.errors import InputError

LogLine = Callable[[str], None]


@dataclass(frozen=True)
class ServeConfig:
    """Settings of a comparison. `context` is tokens per conversation; `threads` None: the physical cores.

    Each contender runs `repeat` times, interleaved with the others; the result has medians.
    `deterministic` adds our deterministic engine. `quick` is for tests.
    """

    model: Path
    scratch: Path
    users: tuple[int, ...] = (1, 2, 4, 8, 16)
    workloads: tuple[str, ...] = ("single", "conversation")
    llama_server: Path | None = None
    context: int = 1024
    threads: int | None = None
    repeat: int = 1
    quick: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Check the options. Raises InputError."""
        for name in self.workloads:
            find_workload(name)
        if not self.model.is_file():
            raise InputError(f"--model {self.model} is not a file: give a GGUF")
        if self.llama_server is not None and not self.llama_server.is_file():
            raise InputError(
                f"--llama-server {self.llama_server} is not a file: build one with `make llama-server`"
            )
        if min(self.users, default=0) < 1 or self.repeat < 1:
            raise InputError("--users and --repeat are 1 or more")


@dataclass(frozen=True)
class Cell:
    """The figures of each contender for one workload and number of users."""

    workload: str
    users: int
    figures: dict[str, Figures]


@dataclass(frozen=True)
class ServeResult:
    """All figures. `single` holds the rates of bench.single_stream.SingleStream, in tokens/s."""

    threads: int
    variant: str
    single: dict[str, float]
    cells: list[Cell]

    @property
    def ratios(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Return ours over each peer's: workload -> users -> peer -> name of the ratio -> value."""
        found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for cell in self.cells:
            ours = cell.figures[OURS]
            peers = {peer: _ratios(ours, f) for peer, f in cell.figures.items() if peer != OURS}
            if cell.users == 1:
                peers[SINGLE] = {"decode": ratio(ours.decode_rate, self.single["decode"])}
                peers[SINGLE]["decode_at_depth"] = ratio(ours.decode_rate, self.single["decode_at_depth"])
            found.setdefault(cell.workload, {})[str(cell.users)] = peers
        return found


def _ratios(ours: Figures, theirs: Figures) -> dict[str, float]:
    names = {
        "throughput": "throughput",
        "ttft": "ttft_mean",
        "later_ttft": "later_ttft_mean",
        "gap_p95": "gap_p95",
        "peak_memory": "peak_bytes",
    }
    found = {name: ratio(getattr(ours, key), getattr(theirs, key)) for name, key in names.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def compare_serving(config: ServeConfig, log: LogLine = lambda line: None) -> ServeResult:
    """Run all contenders, interleaved, `config.repeat` times; `log` gets a line before each cell."""
    config.scratch.mkdir(parents=True, exist_ok=True)
    facts = run_contender(config, FACTS)
    config = replace(config, threads=facts["threads"])
    single_runs: list[dict[str, float]] = []
    cells: list[Cell] = []
    for workload in config.workloads:
        contenders = _contenders(config, workload)
        for users in config.users:
            log(f"{workload}, {users} user{'s' * (users > 1)}: {', '.join(contenders)}")
            runs: dict[str, list[Figures]] = {name: [] for name in contenders}
            for name in interleave(contenders if cells else [SINGLE, *contenders], config.repeat):
                done = run_contender(config, name, workload=workload, users=users)
                if name == SINGLE:
                    single_runs.append(done)
                else:
                    runs[name].append(Figures(**done))
            cells.append(Cell(workload, users, {name: median_of(found) for name, found in runs.items()}))
    single = {name: statistics.median(run[name] for run in single_runs) for name in single_runs[0]}
    return ServeResult(facts["threads"], facts["variant"], single, cells)


def _contenders(config: ServeConfig, workload: str) -> list[str]:
    server = [SERVER] if config.llama_server else []
    plain = [PLAIN] if workload == "repeat" else []
    bound = [BARE] if workload == "single" else []
    deterministic = [DETERMINISTIC] if config.deterministic else []
    return [OURS, IN_PROCESS, *deterministic, *plain, *server, *bound, LOCK]


def interleave(contenders: Sequence[str], repeat: int) -> Iterator[str]:
    """Yield A B C A B C ..., so that a temporary load on the machine affects all contenders alike."""
    for _ in range(repeat):
        yield from contenders


def run_contender(
    config: ServeConfig, contender: str, *, workload: str = "", users: int = 1
) -> dict[str, Any]:
    """Run a contender in a child process and return its figures as a dict. Re-raises its error."""
    request = {
        "contender": contender,
        "model": str(config.model),
        "context": config.context,
        "threads": config.threads,
        "quick": config.quick,
        "llama_server": str(config.llama_server) if config.llama_server else None,
        "workload": workload,
        "users": users,
        "spin": SPIN_BEFORE,
    }
    return run_worker("bench.run_system", request, config.scratch / f"{contender.replace(', ', '-')}.log")
