"""The locks that `make setup` installs hold what the requirements files pin, by hash."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.ui.app_process import ROOT

SETS = ("requirements", "requirements-pipeline", "requirements-dev")
_OPTIONS = re.compile(r"--config-settings=\"[^\"]*\"")


def requirements(name: str) -> list[str]:
    """Return the lines of a requirements file, each with its continuation, without comments."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
    return [line.partition("  #")[0] for line in text.splitlines() if line and not line.startswith("#")]


def pin(line: str) -> tuple[str, str]:
    """Return the package and the version, or "" for a range."""
    name, _, version = _OPTIONS.sub("", line).partition(";")[0].strip().partition("==")
    return re.split(r"[<>=\[ ]", name)[0].lower().replace("_", "-"), version.split()[0] if version else ""


@pytest.mark.parametrize("name", SETS)
def test_a_lock_has_each_pin_and_its_build_options(name: str) -> None:
    wanted = [line for line in requirements(f"{name}.txt") if pin(line)[0] != "torch"]
    locked = requirements(f"{name}.lock.txt")
    known = {pin(line) for line in locked}
    assert len(wanted) > 5
    for line in wanted:
        package, version = pin(line)
        assert (package, version) in known if version else package in {name for name, _ in known}, line
    assert sorted(filter(None, map(_OPTIONS.findall, wanted))) == sorted(
        filter(None, map(_OPTIONS.findall, locked))
    )


@pytest.mark.parametrize("name", SETS)
def test_a_lock_has_a_hash_for_everything_and_names_no_place(name: str) -> None:
    text = (ROOT / f"{name}.lock.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|--(index|extra-index|find-links|trusted)|(^| )/", text, re.MULTILINE)
    for line in requirements(f"{name}.lock.txt"):
        assert pin(line)[1] and re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line


def test_all_sets_agree_on_a_version_in_each_environment() -> None:
    versions: dict[tuple[str, str], str] = {}
    for name in SETS:
        for line in requirements(f"{name}.lock.txt"):
            package, version = pin(line)
            marker = _OPTIONS.sub("", line).partition("--hash")[0].partition(";")[2].strip()
            assert versions.setdefault((package, marker), version) == version, line


@pytest.mark.parametrize("target", ["setup", "test"])
def test_make_installs_the_locks_by_their_hashes(target: str) -> None:
    words = ["make", "-n", "VENV=none", target]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line.split("install ", 1)[1] for line in printed.splitlines() if " install " in line]
    wanted = [name for name in SETS if target == "test" or name != "requirements-dev"]
    locked = [line for line in installs if "--require-hashes" in line]
    assert [line.split("-r ")[1] for line in locked] == [f"{name}.lock.txt" for name in wanted]
    assert [line.split("-r ")[1] for line in installs if line not in locked] == ["requirements-pipeline.txt"]
