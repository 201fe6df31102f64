"""The command-line options that app.py and scripts/chat.py share, and how a wrong one is said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from engine.settings import EngineSettings, KvType

DEFAULTS = EngineSettings()
MIB = 1 << 20

Model = Annotated[
    Path | None,
    typer.Argument(
        envvar="GGUF_CHAT_MODEL",
        help="A .gguf file, its folder, or owner/name/file.gguf on the Hub. Default: the embedded model.",
    ),
]
ContextSize = Annotated[
    int, typer.Option(envvar="GGUF_CHAT_CONTEXT", help="Tokens that one conversation may hold.")
]
Threads = Annotated[
    int | None,
    typer.Option(envvar="GGUF_CHAT_THREADS", help="CPU threads. Default: the cores that are really yours."),
]
KvCacheType = Annotated[
    KvType,
    typer.Option(
        envvar="GGUF_CHAT_KV_TYPE",
        help="How a conversation is kept in memory: q8_0 takes half, q4_0 a quarter and loses precision.",
    ),
]
Speculation = Annotated[
    bool,
    typer.Option(
        envvar="GGUF_CHAT_SPECULATION",
        help="Guess what repeats the conversation, and check it in one go, where measured to be faster.",
    ),
]


def run_cli(cli: typer.Typer) -> NoReturn:
    """Run the command; options that cannot be used are said in one line on stderr, with exit code 2."""
    try:
        code = cli(standalone_mode=False)
    except typer.TyperException as error:  # typer itself would draw a box of six lines
        print(f"error: {' '.join(error.format_message().split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(code)
