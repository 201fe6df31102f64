"""llama-server as a contender: started as a child process and used over HTTP."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bench.systems import OnText, Setup, TokenCounts
from engine.probe.cpu_backend import probe_model
from engine.types import Message
from pipeline.errors import InputError, PipelineError

_START_SECONDS = 120.0
_ANSWER_SECONDS = 600.0


class LlamaServer:
    """A llama-server process, with its defaults except for the fields of Setup."""

    def __init__(self, setup: Setup, binary: Path, environment: Mapping[str, str]) -> None:
        """Start the server and wait until it is ready; `environment` is the user's, without our variables.

        Raises InputError when `binary` does not exist, PipelineError when it does not start.
        """
        if not binary.is_file():
            raise InputError(f"--llama-server {binary} is not a file: build one with `make llama-server`")
        self.decode_seconds = float("nan")
        self._port = free_port()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        choice = probe_model(setup.model, threads=setup.threads).choice
        # Our wheel's kernels: `make llama-server` builds without a CPU backend.
        kernels = {"GGML_BACKEND_PATH": choice.path} if choice.path else {}
        command = [str(binary), *server_arguments(setup, self._port), *_repack(choice.extra_buffers)]
        self._process = subprocess.Popen(
            command,
            env={**environment, **kernels},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with response(self._port, "GET", "/health") as answer:
                    if answer.status == http.client.OK:
                        return
            except OSError:
                pass
            time.sleep(0.05)
        self._process.kill()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        raise PipelineError(f"llama-server does not start: {lines[-1] if lines else 'it said nothing'}")

    def answer(self, messages: Sequence[Message], new_tokens: int, on_text: OnText) -> TokenCounts:
        """See bench.systems.Contender."""
        body = {
            "messages": list(messages),
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        timings: dict[str, Any] = {}
        with response(self._port, "POST", "/v1/chat/completions", body) as answer:
            if answer.status != http.client.OK:
                raise PipelineError(f"llama-server refused a request: {answer.read()[:300]!r}")
            for chunk in chunks_of(answer):
                timings = chunk.get("timings", timings)
                for choice in chunk.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        on_text(text)
        cached = timings["cache_n"]
        return TokenCounts(timings["prompt_n"] + cached, cached, timings["predicted_n"])

    def close(self) -> int:
        """See bench.systems.Contender."""
        self._process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._log.close()
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def server_arguments(setup: Setup, port: int) -> list[str]:
    """Return the command-line arguments for a Setup."""
    return [
        *("--model", str(setup.model)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--parallel", str(setup.slots), "--ctx-size", str(setup.slots * setup.context)),
        *("--threads", str(setup.threads), "--threads-batch", str(setup.threads)),
    ]


def _repack(extra_buffers: bool) -> list[str]:
    return [] if extra_buffers else ["--no-repack"]


def free_port() -> int:
    """Return a TCP port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class response:
    """Context manager for one HTTP exchange over a new connection."""

    def __init__(self, port: int, method: str, path: str, body: object = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})

    def __enter__(self) -> http.client.HTTPResponse:
        return self._connection.getresponse()

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def chunks_of(stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events. Raises PipelineError on an `error` object."""
    for line in stream:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        chunk: dict[str, Any] = json.loads(line[6:])
        if "error" in chunk:
            raise PipelineError(f"an answer failed: {chunk['error']}")
        yield chunk


def _end_with_parent() -> None:
    """Run in the child before exec: make the kernel kill it when its parent dies (prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
