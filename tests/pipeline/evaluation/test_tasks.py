"""Standard tasks: what lm_eval is asked, what it answers, and the server that is started for it."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import evaluate as cli
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation import tasks as module
from pipeline.evaluation.tasks import TASKS, TasksConfig, TaskScore, arguments, read_scores, run_tasks

RESULTS = {
    "results": {
        "arc_easy": {
            "alias": "arc_easy",
            "acc,none": 0.58,
            "acc_stderr,none": 0.07,
            "acc_norm,none": 0.5,
            "acc_norm_stderr,none": "N/A",
        },
        "gsm8k": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.1},
    }
}
SERVER = """
import http.server, os, sys
if os.environ.get("GGUF_CHAT_LOGIN"):
    sys.exit("a login would lock lm_eval out")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
LM_EVAL = """#!{python}
import json, pathlib, sys, urllib.request
given = sys.argv[1:]
options = dict(pair.split("=", 1) for pair in given[given.index("--model_args") + 1].split(","))
urllib.request.urlopen(options["base_url"].partition("/v1/")[0] + "/health").read()
if {code}:
    sys.exit({code})
out = pathlib.Path(given[given.index("--output_path") + 1]) / "local"
out.mkdir(parents=True)
(out / "results_2026.json").write_text({results!r})
"""


def config(tmp_path: Path, **options: Any) -> TasksConfig:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    return TasksConfig(**{"model": model, "out": tmp_path / "out", "tasks": ("arc_easy,gsm8k",), **options})


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that puts an lm_eval in place, which ends with this code; the server is one too."""
    monkeypatch.setattr(
        module, "server_command", lambda model, port, threads: [sys.executable, "-c", SERVER, str(port)]
    )
    monkeypatch.setenv("GGUF_CHAT_LOGIN", "bob:secret")

    def install(code: int) -> None:
        script = tmp_path / "lm_eval"
        script.write_text(LM_EVAL.format(python=sys.executable, code=code, results=json.dumps(RESULTS)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(module, "_lm_eval", lambda: [str(script)])

    return install


def test_the_results_are_written_as_they_are(tmp_path: Path, fake: Callable[[int], None]) -> None:
    fake(0)
    scores = run_tasks(config(tmp_path, chat=True))
    assert scores == [
        TaskScore("arc_easy", "acc", 0.58, 0.07),
        TaskScore("arc_easy", "acc_norm", 0.5, None),
        TaskScore("gsm8k", "exact_match (strict-match)", 0.25, 0.1),
    ]
    assert json.loads((tmp_path / "out" / TASKS).read_text()) == RESULTS
    with pytest.raises(InputError, match=r"has tasks\.json already"):
        config(tmp_path)


def test_a_failure_of_lm_eval_leaves_nothing(tmp_path: Path, fake: Callable[[int], None]) -> None:
    fake(3)
    with pytest.raises(PipelineError, match="lm_eval ended with exit code 3"):
        run_tasks(config(tmp_path, chat=True))
    assert not (tmp_path / "out").exists()


def test_a_server_that_ends_is_told(
    tmp_path: Path, fake: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(0)
    command = [sys.executable, "-c", "import sys; sys.exit('error: m.gguf is damaged')"]
    monkeypatch.setattr(module, "server_command", lambda *_: command)
    with pytest.raises(PipelineError, match=r"the server ended with 1: error: m\.gguf is damaged"):
        run_tasks(config(tmp_path, chat=True))


def test_texts_are_scored_and_chats_generated(tmp_path: Path) -> None:
    scored = arguments(config(tmp_path, limit=50), 8123, {"tokenizer": "you/base"}, tmp_path / "r")
    options = dict(zip(scored[::2], scored[1::2], strict=True))
    assert options["--model"] == "local-completions" and options["--limit"] == "50"
    assert "base_url=http://127.0.0.1:8123/v1/completions," in options["--model_args"]
    assert options["--model_args"].endswith(",tokenizer=you/base")
    assert options["--tasks"] == "arc_easy,gsm8k"
    chat = arguments(config(tmp_path, chat=True, few_shot=0, include=tmp_path), 8123, {}, tmp_path / "r")
    assert chat[1] == "local-chat-completions" and chat[-1] == "--apply_chat_template"
    assert "/v1/chat/completions," in chat[3]
    assert chat[chat.index("--num_fewshot") + 1] == "0"
    assert chat[chat.index("--include_path") + 1] == str(tmp_path)


def test_the_server_is_for_this_machine_alone() -> None:
    command = list(module.server_command("m.gguf", 8123, 2))
    assert Path(command[1]).is_file() and command[2:4] == ["serve", "m.gguf"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--history") + 1] == "off"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": (" , ",)}, "--tasks is empty"),
        ({"tasks": ("--model",)}, "--tasks '--model' is no name of a task"),
        ({"limit": 0}, "--limit 0 is too few"),
        ({"few_shot": -1}, "--few-shot -1 is no number"),
        ({"threads": 0}, "--threads 0 is too few"),
        ({"include": Path("none")}, "--include none is no folder"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **options)


def test_a_missing_lm_eval_is_told_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit) as caught:
        cli.run(["tasks", str(tmp_path / "none.gguf"), "--tasks", "arc_easy"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "lm_eval is not installed: run `pip install -r requirements-tasks.txt`" in error
    assert error.count("\n") == 1


def test_the_tokenizer_is_the_base_of_the_manifest(tmp_path: Path) -> None:
    found = config(tmp_path)
    with pytest.raises(InputError, match="give the base's folder or Hub id as --tokenizer"):
        module._tokenizer_options(found, found.model, tmp_path)
    manifest = {"inputs": {"base": {"model": "you/base"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert module._manifest_base(found.model) == "you/base"
    manifest["inputs"]["base"]["model"] = "../private"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert module._manifest_base(found.model) is None
    wrong = config(tmp_path, tokenizer="no such folder")
    with pytest.raises(InputError, match="--tokenizer 'no such folder' is no folder and no Hub id"):
        module._tokenizer_options(wrong, wrong.model, tmp_path)


def test_the_tokenizer_must_be_the_models(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_vocabulary", lambda model, tokens, log: len(tokens) == 258)
    found = config(tmp_path, tokenizer=str(tiny_base))
    options = module._tokenizer_options(found, found.model, tmp_path)
    assert options["tokenizer"] == str(tiny_base) and options["add_bos_token"] == "True"
    (comma := tmp_path / "a,b").mkdir()
    with pytest.raises(InputError, match="no path with a comma"):
        module._tokenizer_options(config(tmp_path, tokenizer=str(comma)), found.model, tmp_path)


def test_scores_that_are_no_numbers_are_left_out() -> None:
    assert read_scores({"results": {"t": {"alias": "t", "acc,none": "N/A", "samples": 3}}}) == []
    assert read_scores({}) == []
