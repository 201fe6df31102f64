"""Startup time of the app: from the start of its process until a real browser can type a question.

The app has opened the model before, so its probe results are cached; conversations are kept in memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.browser import chromium
from bench.llama_server import free_port
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

APP = Path(__file__).resolve().parent.parent / "app.py"
TIMEOUT = 120.0  # seconds
_CAN_TYPE = "() => document.querySelector('#question textarea')?.disabled === false"


@dataclass(frozen=True)
class Start:
    """Seconds from the process's start until the page answers, the model is loaded, a question can be typed.

    The browser is already running, opens the page as soon as it answers, and has an empty cache.
    """

    page: float
    ready: float
    typing: float


def measure_start(model: Path, repeat: int) -> Start:
    """Return the medians of `repeat` starts after a warm-up start. Raises InputError or PipelineError."""
    with chromium() as browser:
        _once(model, browser)
        starts = [astuple(_once(model, browser)) for _ in range(repeat)]
    return Start(*map(statistics.median, zip(*starts, strict=True)))


def _once(model: Path, browser: Browser) -> Start:
    port = free_port()
    command = [sys.executable, str(APP), str(model), "--port", str(port)]
    env = {**os.environ, "GGUF_CHAT_HISTORY": "off", "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        with ThreadPoolExecutor(1) as reader:
            ready = reader.submit(_when_ready, process.stdout)
            url = f"http://127.0.0.1:{port}/"
            _wait_for(url, process)
            page = time.perf_counter()
            tab = browser.new_page()
            tab.goto(url, wait_until="commit")
            tab.wait_for_function(_CAN_TYPE, polling=10)
            typing = time.perf_counter()
            tab.close()
            return Start(page - began, ready.result(TIMEOUT) - began, typing - began)
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until the page answers. Raises PipelineError when the process ends first."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                answer.read()
                return
        except urllib.error.URLError as error:
            if process.poll() is not None:
                raise PipelineError(f"app.py ended with {process.returncode}: run it by hand") from error
            time.sleep(0.01)


def _when_ready(output: IO[str]) -> float:
    """Return the time at which the app prints that its model is loaded. Raises PipelineError."""
    for line in output:
        if line.startswith("Ready: "):
            return time.perf_counter()
    raise PipelineError("app.py ended before its model was loaded: run it by hand")
