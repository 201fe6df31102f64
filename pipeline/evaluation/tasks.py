"""Standard tasks by lm-evaluation-harness, which asks our server: one is started for it, and ended after.

https://github.com/EleutherAI/lm-evaluation-harness. Its results are written as they are, to tasks.json.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import load_json, write_atomically
from common.paths import expanded
from common.system import physical_cores
from common.worker_process import ROOT, last_line
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation.config import require_writable
from pipeline.evaluation.gguf_files import GgufModel, check_vocabulary, find_gguf_models
from pipeline.manifest import NAME
from pipeline.progress import NoProgress, StepProgress
from pipeline.sources.model_source import HUB_ID
from pipeline.sources.reading import reading

TASKS = "tasks.json"
_CONTEXT = 4096
_MAX_LENGTH = 2047  # tokens of a scored text, with one more after it: the server's limit
_KEPT = ("GGUF_CHAT_CACHE",)
_LOADING = 600.0  # seconds


@dataclass(frozen=True)
class TasksConfig:
    """The options of a run of `tasks` on the GGUF `model`, with the results in the folder `out`.

    `limit` is the number of examples of each task, None for all. `tokenizer` is a folder or a Hub id, by
    which lm_eval counts tokens; without one it is the base that the manifest beside the model names. With
    `chat` the examples are chats in the model's template, for tasks that generate. `include` is a folder of
    the user's own tasks. Raises InputError.
    """

    model: Path
    out: Path
    tasks: tuple[str, ...]
    limit: int | None = None
    few_shot: int | None = None
    tokenizer: str | None = None
    chat: bool = False
    include: Path | None = None
    threads: int = field(default_factory=physical_cores)
    force: bool = False

    def __post_init__(self) -> None:
        names = tuple(name.strip() for text in self.tasks for name in text.split(",") if name.strip())
        if not names:
            raise InputError("--tasks is empty: name tasks of lm_eval, such as arc_easy,hellaswag")
        if odd := next((name for name in names if name.startswith("-")), None):
            raise InputError(f"--tasks {odd!r} is no name of a task: such as arc_easy")
        object.__setattr__(self, "tasks", names)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit} is too few examples: use 1 or more, or leave it out")
        if self.few_shot is not None and self.few_shot < 0:
            raise InputError(f"--few-shot {self.few_shot} is no number of examples: use 0 or more")
        if self.include is not None and not self.include.is_dir():
            raise InputError(f"--include {self.include} is no folder: give one with tasks as .yaml files")
        if self.threads < 1:
            raise InputError(f"--threads {self.threads} is too few: use 1 or more")
        out = expanded(self.out)
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {str(self.out)!r} is a file: name a folder for the results")
        require_writable(out)
        if (out / TASKS).exists() and not self.force:
            raise InputError(
                f"--out {str(self.out)!r} has {TASKS} already: choose another folder, or give --force"
            )


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task, with its standard error if lm_eval gives one."""

    task: str
    metric: str
    value: float
    error: float | None


def run_tasks(config: TasksConfig, progress: StepProgress | None = None) -> list[TaskScore]:
    """Run the tasks, write lm_eval's results to tasks.json in `out`, and return the scores.

    Raises InputError for wrong input before the model is loaded, and PipelineError when lm_eval or the server
    fails; nothing is written then.
    """
    progress = progress or NoProgress()
    program = _lm_eval()
    models = find_gguf_models([config.model])
    if len(models) > 1:
        raise InputError(
            f"{config.model} holds {len(models)} models: name one of them, such as {models[0].spec}"
        )
    with tempfile.TemporaryDirectory(prefix="tasks-") as scratch:
        folder, port = Path(scratch), _free_port()
        options = {} if config.chat else _tokenizer_options(config, models[0].path, folder)
        with (
            _server(models[0], port, config.threads, folder / "server.log", progress),
            progress.step("Run lm_eval", None),
        ):
            done = subprocess.run(
                [*program, *arguments(config, port, options, folder / "results")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # its table; what it says of errors is on standard error
                env={**os.environ, "LMEVAL_LOG_LEVEL": "WARNING", "OPENAI_API_KEY": "none"},
                check=False,
            )
        found = sorted((folder / "results").rglob("results_*.json"))
        content = load_json(found[-1]) if found else None
        if done.returncode or not isinstance(content, dict):
            raise PipelineError(f"lm_eval ended with exit code {done.returncode}: it says why above")
        scores = read_scores(content)
        out = expanded(config.out)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / TASKS, f"{json.dumps(content, indent=1)}\n")
    return scores


def arguments(config: TasksConfig, port: int, options: dict[str, str], results: Path) -> list[str]:
    """Return lm_eval's arguments; `options` are more of its model."""
    kind, route = (
        ("local-chat-completions", "chat/completions")
        if config.chat
        else ("local-completions", "completions")
    )
    model = {
        "model": "local",
        "base_url": f"http://127.0.0.1:{port}/v1/{route}",
        "num_concurrent": "1",
        "max_retries": "2",
        "max_length": str(_MAX_LENGTH),
        **options,
    }
    listed = ["--model", kind, "--model_args", ",".join(f"{key}={value}" for key, value in model.items())]
    listed += ["--tasks", ",".join(config.tasks), "--output_path", str(results)]
    if config.limit is not None:
        listed += ["--limit", str(config.limit)]
    if config.few_shot is not None:
        listed += ["--num_fewshot", str(config.few_shot)]
    if config.include is not None:
        listed += ["--include_path", str(config.include)]
    return [*listed, "--apply_chat_template"] if config.chat else listed


def read_scores(content: dict[str, Any]) -> list[TaskScore]:
    """Return the metrics in lm_eval's results; those that are no numbers are left out."""
    scores = []
    for task, metrics in content.get("results", {}).items():
        for key, value in metrics.items():
            name, _, filtered = key.partition(",")
            if name.endswith("_stderr") or not isinstance(value, int | float) or not filtered:
                continue
            error = metrics.get(f"{name}_stderr,{filtered}")
            metric = name if filtered == "none" else f"{name} ({filtered})"
            scores.append(TaskScore(task, metric, float(value), error if isinstance(error, float) else None))
    return scores


def _lm_eval() -> list[str]:
    beside = Path(sys.executable).with_name("lm_eval")
    found = str(beside) if beside.is_file() else shutil.which("lm_eval")
    if found is None:
        raise InputError("lm_eval is not installed: run `pip install -r requirements-tasks.txt`")
    return [found]


def _tokenizer_options(config: TasksConfig, model: Path, scratch: Path) -> dict[str, str]:
    """Return the options of lm_eval's tokenizer, which must be the model's. Raises InputError."""
    from transformers import AutoTokenizer

    from pipeline.evaluation.models import vocabulary

    spec = config.tokenizer or _manifest_base(model)
    if spec is None:
        raise InputError(
            "lm_eval counts tokens by a tokenizer of transformers: give the base's folder or Hub id as "
            "--tokenizer, or --chat for tasks that generate"
        )
    folder = expanded(spec)
    named = str(folder.resolve()) if folder.is_dir() else spec
    if not folder.is_dir() and not HUB_ID.fullmatch(spec):
        raise InputError(f"--tokenizer {spec!r} is no folder and no Hub id: give the base that was tuned")
    if "," in named or "=" in named:
        raise InputError(f"--tokenizer {spec!r}: lm_eval takes no path with a comma or an equals sign")
    with reading(f"--tokenizer {spec!r} has no tokenizer that can be read", "give the base that was tuned"):
        tokenizer = AutoTokenizer.from_pretrained(named, trust_remote_code=False)
    adds_bos = check_vocabulary(model, vocabulary(tokenizer), scratch / "vocabulary.log")
    return {
        "tokenizer": named,
        "tokenizer_backend": "huggingface",
        "tokenized_requests": "True",
        "add_bos_token": str(adds_bos),
    }


def _manifest_base(model: Path) -> str | None:
    manifest = load_json(model.with_name(NAME))
    inputs = manifest.get("inputs") if isinstance(manifest, dict) else None
    base = inputs.get("base") if isinstance(inputs, dict) else None
    name = base.get("model") if isinstance(base, dict) else None
    return name if isinstance(name, str) and HUB_ID.fullmatch(name) else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def server_command(model: str, port: int, threads: int) -> Sequence[str]:
    """Return the command of a server of this model alone, for this machine alone."""
    options = {"--host": "127.0.0.1", "--port": port, "--history": "off", "--context": _CONTEXT}
    options |= {"--slots": 1, "--threads": threads}
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, str(ROOT / "gguf_chat.py"), "serve", model, *words]


@contextmanager
def _server(model: GgufModel, port: int, threads: int, log: Path, progress: StepProgress) -> Iterator[None]:
    """Serve the model until the context ends. Raises PipelineError when it does not load."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GGUF_CHAT_") or name in _KEPT  # a login, say, is not for this server
    }
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            server_command(model.spec, port, threads), env=kept, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        with progress.step(f"Load {model.name}", None):
            _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until the server answers 200, which it does when its model is loaded."""
    deadline = time.monotonic() + _LOADING
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PipelineError(f"the server ended with {process.returncode}: {last_line(log)}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise PipelineError(f"the server has not loaded the model in {_LOADING:.0f} s: {last_line(log)}")
