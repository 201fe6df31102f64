"""The GitHub Action: its shell step is run as the runner would, with the inputs that a workflow gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.paths import cache_folder
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.sources.model_source import base_source
from tests.conftest import ROOT
from tests.pipeline.certificate.conftest import complete_tokenizer
from tests.pipeline.certificate.rewrite import rewrite
from tests.pipeline.converting import convert_all
from tests.pipeline.tiny import make_base

FOLDER = ROOT / ".github" / "actions" / "certify"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"] if "id" in step}
VENV = Path(".cache/gguf-chat/gate")


@dataclass(frozen=True)
class Ran:
    code: int
    text: str
    status: str
    summary: list[str]


def run_step(home: Path, **inputs: str) -> Ran:
    """Run the last step of the action in `home`, with the defaults of the inputs that are not given."""
    known = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()}
    known |= {name.replace("_", "-"): value for name, value in inputs.items()}
    values = {f"inputs.{name}": value for name, value in known.items()}
    values["github.action_path"] = str(FOLDER)

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: values[found[1]], text)

    step = STEPS["certify"]
    assert "${{" not in step["run"]  # an input in the script itself would be run as a part of it
    environment = {
        **{name: filled(value) for name, value in step["env"].items()},
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GGUF_CHAT_CACHE": str(cache_folder()),
        "OMP_NUM_THREADS": "1",
        "GITHUB_OUTPUT": str(home / "output"),
        "GITHUB_STEP_SUMMARY": str(home / "summary"),
    }
    for name in ("output", "summary"):
        (home / name).write_text("")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]],  # as GitHub's runner starts it
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = dict(line.split("=", 1) for line in (home / "output").read_text().splitlines())
    summary = (home / "summary").read_text().splitlines()[2:]
    return Ran(done.returncode, done.stdout + done.stderr, output["status"], summary)


STUB = """#!/bin/sh
printf '%s\\n' "$@" >> "$HOME/said"; echo "token=${HF_TOKEN-none}" >> "$HOME/said"
for last; do :; done
while [ "$1" != --out ]; do shift; done
case $last in *crash*) exit 1 ;; *odd*) exit 2 ;; esac
echo '{}' > "$2"
case $last in *bad*) exit 1 ;; esac
"""
HUB = """#!/bin/sh
printf '%s\\n' "$@" >> "$HOME/said"
case $2 in me/gone) exit 1 ;; esac
while [ "$1" != --local-dir ]; do shift; done
mkdir -p "$2" && echo GGUF > "$2/m-00001-of-00002.gguf"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with stand-ins for Python and for the Hub's command, which note their arguments."""
    (tools := tmp_path / VENV / "bin").mkdir(parents=True)
    for name, text in (("python", STUB), ("hf", HUB)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for name in ("good.gguf", "bad.gguf", "crash.gguf", "odd.gguf", "my model.gguf"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("files", "code", "status", "results"),
    [
        ("good.gguf", 0, "pass", ["passed"]),
        ("\n  my model.gguf  \n\n", 0, "pass", ["passed"]),
        ("bad.gguf\ngood.gguf", 1, "fail", ["failed a check", "passed"]),
        ("crash.gguf", 1, "fail", ["could not be checked"]),
        ("bad.gguf\nodd.gguf", 2, "error", ["failed a check", "was refused"]),
        ("me/model/m-00001-of-00002.gguf", 0, "pass", ["passed"]),
        ("me/gone/m.gguf\ngood.gguf", 2, "error", ["was refused", "passed"]),
        ("me/model/other.gguf", 2, "error", ["was refused"]),
    ],
)
def test_the_worst_file_decides(files: str, code: int, status: str, results: list[str], home: Path) -> None:
    ran = run_step(home, gguf=files, reference="base")
    assert (ran.code, ran.status) == (code, status)
    assert [row.split("|")[2].strip() for row in ran.summary] == results
    assert ran.text.count("::error title=Certificate::") == sum(result != "passed" for result in results)


def test_inputs_become_options(home: Path) -> None:
    inputs = {
        "base": "b",
        "adapters": "one=0.7\n two\n",
        "template": "chatml",
        "eval": "c.jsonl",
        "strict": "true",
    }
    run_step(home, gguf="good.gguf", reference="-odd $(touch x)", verify="full", **inputs)
    said = (home / "said").read_text().splitlines()
    assert said == [
        *(str(FOLDER / "../../.." / "scripts/export_gguf.py"), "certify", "--reference", "-odd $(touch x)"),
        *("--verify", "full", "--base", "b", "--template", "chatml", "--eval", "c.jsonl", "--strict"),
        *("--adapter", "one=0.7", "--adapter", "two"),
        *("--out", "certificates/good.gguf.json", "--", "good.gguf", "token=none"),
    ]
    assert not (home / "x").exists()


def test_all_shards_of_a_file_on_the_hub_are_fetched(home: Path) -> None:
    ran = run_step(
        home, gguf="me/model/m-00001-of-00002.gguf", reference="b", revision="v1", hf_token="s3cret"
    )
    said = (home / "said").read_text().splitlines()
    assert said[:7] == [
        *("download", "me/model", "--include", "m-?????-of-00002.gguf", "--revision", "v1", "--local-dir"),
    ]
    assert said[-1] == "token=s3cret" and "s3cret" not in ran.text
    assert (home / "certificates" / "me_model_m-00001-of-00002.gguf.json").is_file()


def test_a_name_with_brackets_is_that_file(home: Path) -> None:
    run_step(home, gguf="me/model/m[1]-00001-of-00002.gguf", reference="b")
    said = (home / "said").read_text().splitlines()
    assert said[:4] == ["download", "me/model", "--include", "m[[]1]-?????-of-00002.gguf"]


def test_each_file_has_a_certificate_of_its_own(home: Path) -> None:
    for name in ("a/good.gguf", "a_good.gguf", "a good.gguf"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()
    ran = run_step(home, gguf="a/good.gguf\na_good.gguf\na good.gguf", reference="b")
    assert ran.code == 0
    names = sorted(path.name for path in (home / "certificates").iterdir())
    assert names == ["a_good.gguf.json", "a_good.gguf_.json", "a_good.gguf__.json"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"gguf": " \n ", "reference": "b"}, "error: gguf names no file"),
        (
            {"gguf": "good.gguf", "reference": "b", "strict": "yes"},
            "error: strict is yes: write true or false",
        ),
        ({"gguf": "good.gguf", "reference": " "}, "error: reference is empty"),
        ({"gguf": "good.gguf", "reference": "b", "out": "good.gguf/x"}, "good.gguf/x cannot be made"),
    ],
)
def test_an_input_without_which_nothing_can_be_done(inputs: dict[str, str], says: str, home: Path) -> None:
    ran = run_step(home, **inputs)
    assert (ran.code, ran.status) == (2, "error") and says in ran.text


def test_what_a_model_writes_is_no_command_to_the_runner(home: Path) -> None:
    (tool := home / VENV / "bin" / "python").write_text("#!/bin/sh\necho '::error::from the model'\n")
    tool.chmod(0o755)
    lines = run_step(home, gguf="good.gguf", reference="b").text.splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    assert len(token) == 32 and lines[1] == "::error::from the model" and lines[3] == f"::{token}::"


def test_the_action_is_whole() -> None:
    used = {name for step in ACTION["runs"]["steps"] for name in re.findall(r"inputs\.([\w-]+)", str(step))}
    assert used == ACTION["inputs"].keys()
    pinned = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert pinned and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name) for name in pinned)
    (install,) = [step for step in ACTION["runs"]["steps"] if "make -C" in step.get("run", "")]
    assert f"$HOME/{VENV}" in install["run"] and f"$HOME/{VENV}" in STEPS["certify"]["run"]
    assert STEPS["cache"]["with"]["path"] == f"~/{VENV}"


@pytest.mark.slow
def test_a_sound_file_passes_and_a_spoiled_one_fails(tmp_path: Path, python: str) -> None:
    base = make_base(tmp_path / "base")
    complete_tokenizer(base)
    good = tmp_path / "good.gguf"
    convert_all(
        [ConvertJob(base_source(str(base)), (), "f16", good, "good", ensure_toolchain(), 1)], ROOT, python
    )
    rewrite(good, tmp_path / "spoiled.gguf", {"llama.rope.freq_base": 10.0})
    (tmp_path / VENV).parent.mkdir(parents=True)
    (tmp_path / VENV).symlink_to(sys.prefix)
    ran = run_step(tmp_path, gguf="good.gguf", reference="base")
    assert (ran.code, ran.status) == (0, "pass"), ran.text
    ran = run_step(tmp_path, gguf="spoiled.gguf", reference="base")
    assert (ran.code, ran.status) == (1, "fail"), ran.text
    found = json.loads((tmp_path / "certificates" / "spoiled.gguf.json").read_text())["findings"]
    assert [one["name"] for one in found if one["status"] == "fail"] == ["settings.rope"]
