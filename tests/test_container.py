"""The container's files, without a builder: what is copied, what compose.yaml says, its health check."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from publish.space_files import PACKAGES, SINGLE_FILES
from tests.conftest import ROOT
from ui.settings import ENV_PREFIX, OTHER_VARIABLES, AppSettings

DOCKERFILE = Path("docker/Dockerfile")
# Not imported: an installed package may have the folder's name.
problem: Callable[[int], str | None] = runpy.run_path(str(ROOT / "docker" / "health.py"))["problem"]
shrink: Callable[[Path], None] = runpy.run_path(str(ROOT / "docker" / "shrink.py"))["shrink"]
OWN_VARIABLES = {ENV_PREFIX + name.upper() for name in AppSettings.model_fields} | set(OTHER_VARIABLES)


def instructions(root: Path, name: str) -> list[str]:
    """Return the arguments of a Dockerfile's instructions of that name, with continued lines joined."""
    text = (root / DOCKERFILE).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


def copied(root: Path) -> set[str]:
    """Return what is copied out of the context."""
    sources = [line.split()[:-1] for line in instructions(root, "COPY") if "--from" not in line]
    return {source for line in sources for source in line}


def imported(file: Path) -> set[str]:
    """Return the top-level names of a file's imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_all_that_the_app_imports_is_copied(root: Path) -> None:
    own = {path.name.removesuffix(".py") for path in root.iterdir() if (path / "__init__.py").is_file()}
    own |= {path.stem for path in root.glob("*.py")}
    files = [root / "app.py", *(file for name in copied(root) & own for file in (root / name).rglob("*.py"))]
    needed = {name for file in files for name in imported(file)} & own
    assert needed == set(PACKAGES) <= copied(root)


def test_the_image_and_a_space_have_the_same_files_of_the_app(root: Path) -> None:
    of_the_image = {"requirements.lock.txt", "docker/health.py", "docker/shrink.py"}
    assert copied(root) == {*PACKAGES, *SINGLE_FILES} | of_the_image


def test_the_builder_is_sent_what_is_copied_and_no_more(root: Path) -> None:
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {line.removeprefix("!") for line in patterns if line.startswith("!")} == copied(root)
    assert all((root / source).exists() for source in copied(root))


def test_the_image_runs_as_a_user_with_all_it_writes_in_data(root: Path) -> None:
    assert instructions(root, "USER") == ["1000:1000"]
    assert instructions(root, "VOLUME") == ["/data"]
    assert instructions(root, "HEALTHCHECK")[0].endswith('["/opt/venv/bin/python", "health.py"]')
    variables = dict(pair.split("=", 1) for line in instructions(root, "ENV") for pair in line.split())
    assert {name for name in variables if name.startswith(ENV_PREFIX)} <= OWN_VARIABLES
    assert variables["GGUF_CHAT_HOST"] == "0.0.0.0"
    assert instructions(root, "EXPOSE") == [variables["GGUF_CHAT_PORT"]] == ["7860"]
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert variables[name].startswith("/data")


def test_compose(root: Path) -> None:
    compose: dict[str, Any] = yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))
    chat = compose["services"]["chat"]
    assert (root / chat["build"]["context"] / chat["build"]["dockerfile"]).is_file()
    assert chat["environment"].keys() <= OWN_VARIABLES | {"HF_TOKEN"}
    for name, value in chat["environment"].items():
        default = "/models" if name == "GGUF_CHAT_MODELS" else ""
        assert value == f"${{{name}:-{default}}}"  # no secret stands here; an empty one counts as none
    assert chat["read_only"] is True and chat["tmpfs"][0].startswith("/tmp")
    assert chat["cap_drop"] == ["ALL"] and chat["security_opt"] == ["no-new-privileges:true"]
    assert chat["volumes"] == ["./models:/models:ro", "data:/data"] and "data" in compose["volumes"]
    assert {"mem_limit", "cpus", "pids_limit"} <= chat.keys()
    assert chat["ports"] == ["127.0.0.1:7860:7860"]


@pytest.fixture
def server() -> Iterator[tuple[int, list[int]]]:
    """Return the port of a server that answers /health with the status in the list."""
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = status[0] if self.path == "/health" else 404
            self.send_response(found)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}' if found == 200 else b'{"status": "loading"}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served.server_port, status
        served.shutdown()


def test_the_health_check_needs_a_model_that_answers(server: tuple[int, list[int]]) -> None:
    port, status = server
    assert problem(port) is None
    status[0] = 503
    assert problem(port) == '/health says 503: {"status": "loading"}'


def test_the_health_check_of_a_server_that_is_gone() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        port = gone.server_port
    found = problem(port)
    assert found is not None and re.match(rf"/health on port {port} does not answer: .*refused", found)


def test_only_what_no_server_reads_is_removed(tmp_path: Path) -> None:
    kept = ["pandas/core/frame.py", "gradio/tests/__init__.py", "llama_cpp/lib/libllama.txt", "pipx/x.py"]
    gone = ["pandas/tests/a.py", "pip/x.py", "pip-25.dist-info/RECORD", "numpy/linalg/tests/b.py"]
    gone += ["distutils-precedence.pth", "llama_cpp/lib/libggml.a", "llama_cpp/include/llama.h"]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shrink(tmp_path)
    assert sorted(kept) == sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("tools", "code", "says"),
    [
        (
            {"podman": 0, "docker": 0},
            0,
            "podman build --format docker --file docker/Dockerfile --tag me/x -q .",
        ),
        ({"docker": 0}, 0, "docker build --file docker/Dockerfile --tag me/x -q ."),
        ({"docker": 1}, 2, "error: docker is here, but its daemon does not answer: start it, or"),
        ({}, 2, "error: no builder of images is here: install podman or docker"),
    ],
)
def test_make_image_takes_the_builder_that_is_there(
    tools: dict[str, int], code: int, says: str, root: Path, tmp_path: Path
) -> None:
    for name, result in tools.items():
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\n[ "$1" = info ] && exit {result}\necho {name} "$@"\n')
        tool.chmod(0o755)
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    done = subprocess.run(
        ["/bin/sh", root / "scripts" / "build_image.sh", "me/x", "-q"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code and says in done.stdout + done.stderr
