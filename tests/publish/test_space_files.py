"""The files of a Space: the app starts from them alone, and its configuration is what the Hub takes."""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.errors import InputError
from publish import space_files
from publish.llama_wheel import installed_build
from publish.space_files import SpaceFiles, app_files, pack, readme, requirements
from tests.publish.hub_card import card_errors
from tests.ui.app_process import running

SPACE = SpaceFiles("Captain Bob", "you/bob/bob-Q4_K_M.gguf", "cpu-basic", ("bob-Q4_K_M.gguf",), None)


def configuration(space: SpaceFiles) -> dict[str, object]:
    text = readme(space)
    assert card_errors(text) == ([], [])
    loaded = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.slow
def test_the_app_starts_from_the_files_alone_and_answers(tmp_path: Path) -> None:
    build = installed_build()
    for name, content in pack(replace(SPACE, llama=build)).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    as_a_space = {"SPACE_ID": "you/bob", "SPACE_HOST": "you-bob.hf.space", "PYTHONPATH": ""}
    options = ("--host", "127.0.0.1", "--port", "0", "--no-speculation", "--context", "512")
    with running(*options, env=as_a_space, cwd=tmp_path) as app:
        address = app.address()
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert json.load(answer)["status"] == "ok"
        question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"]
        assert f"{tmp_path}/llama_cpp/lib/libllama.so" in mapped_files(app.process.pid)


def mapped_files(parent: int) -> str:
    """Return what the processes that a process has started have mapped."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    threads = Path(f"/proc/{parent}/task").iterdir()
    children += [child for thread in threads for child in (thread / "children").read_text().split()]
    return "".join(Path(f"/proc/{child}/maps").read_text() for child in set(children))


def test_nothing_but_the_apps_own_files_leaves_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("app.py", "LICENSE", "ui/page.py", "ui/.env", "ui/__pycache__/page.pyc", "ui/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "cli.py").write_text("")
    monkeypatch.setattr(space_files, "ROOT", tmp_path)
    assert list(app_files()) == ["app.py", "LICENSE", "ui/page.py"]
    (tmp_path / "LICENSE").unlink()
    with pytest.raises(InputError, match=r"there is no LICENSE in .*: run this in a checkout"):
        list(app_files())


def test_every_kind_of_file_in_the_packages_is_on_the_list() -> None:
    """A new kind, such as a font, would be missing in the Space."""
    found = {
        path.suffix
        for package in space_files.PACKAGES
        for path in (space_files.ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == set(space_files.SUFFIXES)


def test_the_configuration_names_the_model_and_the_pinned_gradio() -> None:
    known = configuration(SPACE)
    pinned = re.search(r"^gradio==(\S+)$", requirements(SPACE), re.MULTILINE)
    assert pinned is not None
    assert known["sdk_version"] == pinned[1]
    assert known["python_version"] == "3.11" and known["app_file"] == "app.py"
    assert known["preload_from_hub"] == ["you/bob bob-Q4_K_M.gguf"]
    assert known["models"] == ["you/bob"] and known["title"] == "Captain Bob"
    assert known["suggested_hardware"] == "cpu-basic" and known["startup_duration_timeout"] == "1h"


def test_the_projects_own_readme_has_the_same_gradio() -> None:
    text = (space_files.ROOT / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["sdk_version"] == configuration(SPACE)["sdk_version"]


@pytest.mark.parametrize("title", ["yes", "a: b # c", "'", "Käpt'n ⚓", "[x", "x" * 200])
def test_any_title_is_a_text_in_the_configuration(title: str) -> None:
    known = configuration(replace(SPACE, title=title, preload=()))
    assert known["title"] == title
    assert len(str(known["short_description"])) <= 60
    assert "preload_from_hub" not in known


def test_requirements_have_the_build_flags_or_the_folders_requirements() -> None:
    compiled_there = requirements(SPACE)
    assert "-DGGML_CPU_ALL_VARIANTS=ON" in compiled_there and "numpy" not in compiled_there
    build = installed_build()
    prebuilt = requirements(replace(SPACE, llama=build))
    assert not re.search(r"^llama", prebuilt, re.MULTILINE) and ".whl" not in prebuilt
    assert set(build.requires) <= set(prebuilt.splitlines())


def test_no_requirement_brings_llama_cpp_to_be_compiled() -> None:
    """One that requires llama-cpp-python would have pip compile it, beside the folder that is there."""
    lines = requirements(replace(SPACE, llama=installed_build())).splitlines()
    waiting, reached = [line for line in lines if not line.startswith("#")], set[str]()
    while waiting:
        wanted = Requirement(waiting.pop())
        name = canonicalize_name(wanted.name)
        if name in reached or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        reached.add(name)
        waiting += metadata.requires(name) or []
    assert "gradio" in reached and "huggingface-hub" in reached
    assert "llama-cpp-python" not in reached


def test_zero_gpu_has_its_packages_and_its_python() -> None:
    space = replace(SPACE, hardware="zero-a10g")
    assert configuration(space)["python_version"] == "3.12.12"
    lines = requirements(space).splitlines()
    pipeline = (space_files.ROOT / "requirements-pipeline.txt").read_text().splitlines()
    assert set(space_files.ZERO_GPU_REQUIREMENTS) <= set(lines)
    assert space_files.ZERO_GPU_REQUIREMENTS[1] in pipeline
    assert not {line for line in requirements(SPACE).splitlines() if line.startswith(("torch", "spaces"))}
