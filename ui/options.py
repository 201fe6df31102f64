"""The command-line options of scripts/chat.py that the page has too, and how a wrong one is said."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from engine.settings import EngineSettings, KvType
from ui import option_texts

DEFAULTS = EngineSettings()

running = partial(typer.Option, rich_help_panel="Running")

Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        envvar="GGUF_CHAT_MODEL",
        help=option_texts.MODEL,
    ),
]
ContextSize = Annotated[
    int,
    running(
        "--context",
        "--ctx",
        metavar="N",
        envvar=["GGUF_CHAT_CONTEXT", "GGUF_CHAT_CTX"],
        help=option_texts.CONTEXT,
    ),
]
Threads = Annotated[
    int | None,
    running(metavar="N", envvar="GGUF_CHAT_THREADS", help=option_texts.THREADS),
]
KvCacheType = Annotated[
    KvType,
    running(
        metavar="TYPE",
        envvar="GGUF_CHAT_KV_TYPE",
        help=option_texts.KV_TYPE,
    ),
]
Speculation = Annotated[
    bool,
    running(
        envvar="GGUF_CHAT_SPECULATION",
        help=option_texts.SPECULATION,
    ),
]


def run_cli(cli: typer.Typer) -> NoReturn:
    """Run the command; options that cannot be used are said in one line on stderr, with exit code 2."""
    try:
        code = cli(standalone_mode=False)
    except typer.TyperException as error:  # typer itself would draw a box of six lines
        said = " ".join(error.format_message().split())
        hint = ": put a question behind --prompt" if said.startswith("Got unexpected extra argument") else ""
        print(f"error: {said}{hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(code)
