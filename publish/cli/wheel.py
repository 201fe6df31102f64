"""The command `publish wheel`: llama.cpp as it was compiled here, for other machines."""

from __future__ import annotations

from typing import Annotated

import typer

from common.terminal import say
from pipeline.cli.console import given_path
from publish.cli.console import publishing
from publish.files import file_size
from publish.llama_wheel import installed_build, write_wheel


def wheel(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to write it.")],
) -> None:
    """Write llama-cpp-python as it was compiled here as a wheel, for machines that shall not compile.

    Its name says which machines take it. `pip install --no-deps WHEEL` before the other requirements.
    """
    with publishing():
        path = write_wheel(installed_build(), given_path("FOLDER", folder))
        say(f"{path} ({file_size(path.stat().st_size)})")
