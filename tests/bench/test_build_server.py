from __future__ import annotations

from pathlib import Path

import pytest

from bench import build_server
from pipeline.convert.toolchain import ensure_sources
from pipeline.errors import InputError, PipelineError

pytestmark = pytest.mark.slow


def test_the_real_sources_hold_the_server(root: Path) -> None:
    folder = ensure_sources()
    assert (folder / "CMakeLists.txt").is_file()
    assert (folder / "tools" / "server" / "CMakeLists.txt").is_file()
    assert not (folder / "conversion").exists()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cmake that does nothing and a ninja that writes the binary; each notes its arguments."""
    for name, rest in {
        "cmake": "true",
        "ninja": 'mkdir -p "$2/bin" && echo built > "$2/bin/llama-server"',
    }.items():
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/called\n{rest}\n')
        script.chmod(0o755)
    monkeypatch.setattr(build_server, "_tool", lambda name: str(tmp_path / name))
    monkeypatch.setattr(build_server, "ensure_sources", lambda: tmp_path / "llama-1")
    monkeypatch.setenv("GGUF_CHAT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_it_is_built_once_and_appears_whole(tools: Path) -> None:
    binary = build_server.build_llama_server()
    assert binary == tools / "cache" / "llama-server" / "llama-1" / "llama-server"
    assert binary.read_text() == "built\n"
    assert build_server.build_llama_server() == binary
    configured, built = (tools / "called").read_text().splitlines()
    assert "-DGGML_CPU=OFF" in configured and "-DLLAMA_USE_PREBUILT_UI=OFF" in configured
    assert built.endswith("llama-server")


def test_a_failed_build_leaves_nothing(tools: Path) -> None:
    (tools / "ninja").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(PipelineError, match="ninja failed"):
        build_server.build_llama_server()
    assert list((tools / "cache" / "llama-server").iterdir()) == []


def test_without_cmake_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_server.shutil, "which", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"cmake is not installed.*requirements-dev"):
        build_server._tool("cmake")
