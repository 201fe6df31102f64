"""Child process for one contender, its users and one workload: `python -m bench.run_system JSON`.

A process per run isolates the contenders from each other, and gives each its own peak memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metrics import Answer, Figures, figures_of
from bench.workload import Workload, find_workload
from common.worker_process import Message, serve

if TYPE_CHECKING:
    from bench.systems import Contender, Setup

OURS, PLAIN, SERVER, LOCK = "ours", "ours, no speculation", "llama-server", "lock"
IN_PROCESS, DETERMINISTIC = "ours, in this process", "ours, deterministic"
FACTS, SINGLE, BARE, PAGE = "facts", "single stream", "llama_decode alone", "page"


def run(contender: Contender, workload: Workload, users: int) -> Figures:
    """Run a warm-up, then `users` concurrent conversations that start together; return their figures.

    Closes the contender. Re-raises the first error of a user's thread.
    """
    _converse(contender, workload, -1, [])
    answers: list[Answer] = []
    errors: list[BaseException] = []
    gate = threading.Barrier(users)

    def user(number: int) -> None:
        try:
            gate.wait()
            _converse(contender, workload, number, answers)
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: raised again below
            errors.append(error)

    threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
    decoding, began = contender.decode_seconds, time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    decoding, wall = contender.decode_seconds - decoding, time.perf_counter() - began
    peak = contender.close()
    if errors:
        raise errors[0]
    return figures_of(answers, peak, outside_decode=1 - decoding / wall)


def _converse(contender: Contender, workload: Workload, user: int, answers: list[Answer]) -> None:
    messages: list[Any] = []
    for turn in range(workload.turns if user >= 0 else 1):
        messages.append({"role": "user", "content": workload.question(user, turn)})
        pieces: list[str] = []
        times: list[float] = []

        def note(text: str, pieces: list[str] = pieces, times: list[float] = times) -> None:
            times.append(time.perf_counter())
            pieces.append(text)

        sent = time.perf_counter()
        counts = contender.answer(messages, workload.new_tokens, note)
        messages.append({"role": "assistant", "content": "".join(pieces)})
        answers.append(Answer(turn + 1, sent, tuple(times), **asdict(counts)))


def _work(request: Message) -> Message:
    name, before = request["contender"], _environment_of_peers(request["spin"])

    if name not in (OURS, PLAIN, IN_PROCESS, DETERMINISTIC):
        # A peer gets the user's environment; libgomp reads it when the CPU backend loads.
        os.environ.clear()
        os.environ.update(before)
    from bench.systems import Setup

    if name == FACTS:
        return _facts(Path(request["model"]), request["threads"])
    setup = Setup(Path(request["model"]), request["users"], request["context"], request["threads"])
    if name == SINGLE:
        from bench.single_stream import single_stream

        return asdict(single_stream(setup, quick=request["quick"]))
    workload = find_workload(request["workload"], quick=request["quick"])
    if name == BARE:
        from bench.decode_bound import bare_decode

        return asdict(bare_decode(setup, workload))
    contender = _open(name, setup, request["llama_server"], before)
    return asdict(run(contender, workload, request["users"]))


def _environment_of_peers(spin: str | None) -> dict[str, str]:
    """Return this process's environment without the variable that our engine set in the parent."""
    ours = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return ours if spin is None else {**ours, "GOMP_SPINCOUNT": spin}


def _open(name: str, setup: Setup, binary: str | None, environment: Mapping[str, str]) -> Contender:
    from bench.llama_server import LlamaServer
    from bench.systems import LockedLlama, OurEngine, OurProcess

    if name == SERVER:
        assert binary is not None
        return LlamaServer(setup, Path(binary), environment)
    if name == LOCK:
        return LockedLlama(setup)
    if name == PAGE:
        from bench.web_page import WebPage

        return WebPage(setup)
    if name == IN_PROCESS:
        return OurEngine(setup)
    return OurProcess(setup, speculation=name == OURS, deterministic=name == DETERMINISTIC)


def _facts(model: Path, threads: int | None) -> Message:
    from common.system import physical_cores
    from engine.probe.cpu_backend import probe_model

    threads = threads or physical_cores()
    choice = probe_model(model, threads=threads).choice  # cached, so that no run includes it
    return {"threads": threads, "variant": choice.variant}


if __name__ == "__main__":
    serve(_work)
