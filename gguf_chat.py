"""The console command `gguf-chat`: one sub-command for each task, imported only when it is run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from common.terminal import say_error


class Command(NamedTuple):
    """A sub-command: `entry` is "module:name" of a callable that takes (arguments, prog_name=...)."""

    entry: str
    summary: str


COMMANDS = {
    "serve": Command("ui.server.launch:main", "Serve a GGUF to many people in the browser."),
    "chat": Command("ui.terminal.cli:main_chat", "Chat with a GGUF in the terminal."),
    "export": Command("pipeline.cli.export:app", "Merge a LoRA adapter, convert to GGUF, quantize, certify."),
    "certify": Command("pipeline.cli.export:certify_app", "Check a GGUF against the model it was made from."),
    "finetune": Command("pipeline.cli.finetune:app", "Fine-tune a LoRA adapter on chats."),
    "tune": Command("pipeline.cli.tune:app", "From a data set to a chat: split, finetune, export, evaluate."),
    "recover": Command("pipeline.cli.recover:app", "Train an adapter for the quantized file that ships."),
    "dataset": Command("pipeline.cli.dataset:app", "Inspect, convert and split data sets."),
    "evaluate": Command(
        "pipeline.cli.evaluate:run", "Compare base, tuned model and GGUF files on held-out data."
    ),
    "inspect": Command("pipeline.cli.inspect:app", "Show how tensors are stored and rounded."),
    "publish": Command("publish.cli.app:app", "Upload an export to the Hugging Face Hub."),
    "make-base": Command("pipeline.cli.make_base:app", "Write the demo's base model as a checkpoint folder."),
}


def usage() -> str:
    """Return the text of `gguf-chat --help`."""
    rows = "\n".join(f"  {name:12}{command.summary}" for name, command in COMMANDS.items())
    return f"Usage: gguf-chat COMMAND [OPTIONS]\n\n{rows}\n\nOptions of one: gguf-chat COMMAND --help"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sub-command named first in `arguments` (default: sys.argv). Exits with code 2 without one."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or [""]
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    if name not in COMMANDS:
        found = f"{name!r} is no command" if name else "a command is missing"
        say_error(f"{found}: use one of {', '.join(COMMANDS)}")
        raise SystemExit(2)
    module, _, attribute = COMMANDS[name].entry.partition(":")
    getattr(import_module(module), attribute)(rest, prog_name=f"gguf-chat {name}")


if __name__ == "__main__":
    main()
