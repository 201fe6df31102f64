"""The chat templates of a tokenizer's folder, read as transformers' AutoTokenizer reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

from common.chat_templates import expand_name, template_names
from common.errors import InputError
from pipeline.sources.model_source import read_json

CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
_MORE = "additional_chat_templates"
PROCESSOR = "chat_template.json"  # a processor's; llama.cpp's converter reads it, AutoTokenizer does not
_DEFAULT = "default"


@dataclass(frozen=True)
class FolderTemplates:
    """The chat templates of a folder: the default one, if any, and others by name, such as tool_use.

    `name` is the default's text where that is a mere name of llama.cpp's, else "". `plain` is False where
    llama.cpp's converter and AutoTokenizer read something else out of the folder.
    """

    default: str | None = None
    named: tuple[tuple[str, str], ...] = ()
    name: str = ""
    plain: bool = True

    @property
    def names(self) -> str:
        """The names of the other templates, for a message."""
        return ", ".join(name for name, _ in self.named)


def read_templates(folder: Path) -> FolderTemplates:
    """Read the templates of a folder. Raises InputError for a form that transformers does not know."""
    config = read_json(folder / CONFIG, "the tokenizer") if (folder / CONFIG).is_file() else {}
    given = config.get("chat_template")
    if files := _from_files(folder):
        return _templates(folder, files, plain=given is None and not (folder / PROCESSOR).is_file())
    if given is not None:
        plain = isinstance(given, (str, list))
        return _templates(folder, dict(_from_config(folder / CONFIG, given)), plain=plain)
    if (folder / PROCESSOR).is_file():
        given = read_json(folder / PROCESSOR, "the tokenizer").get("chat_template")
        if given is not None:
            return _templates(folder, dict(_from_config(folder / PROCESSOR, given)), plain=False)
    return FolderTemplates()


def additional_files(folder: Path) -> list[Path]:
    """Return the files of a folder's templates with other names, in order: they have their own folder."""
    return sorted((folder / _MORE).glob("*.jinja"))


def _from_files(folder: Path) -> dict[str, str]:
    found = {path.stem: _read(path) for path in additional_files(folder)}
    if (folder / TEMPLATE).is_file():
        found[_DEFAULT] = _read(folder / TEMPLATE)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8: write the chat template as a Jinja file") from None


def _from_config(path: Path, given: Any) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of a text, of a list of {"name", "template"}, or of an object."""
    if isinstance(given, str):
        given = {_DEFAULT: given}
    items: list[Any] = list(given.items()) if isinstance(given, dict) else []
    if isinstance(given, list):
        items = [(item.get("name"), item.get("template")) if isinstance(item, dict) else () for item in given]
    if not isinstance(given, (dict, list)) or not all(map(_is_pair, items)):
        raise InputError(
            f"{path} has a chat_template that transformers cannot read: write a text, or a list of "
            '{"name": ..., "template": ...}'
        )
    for item in items:
        if any("\ud800" <= letter <= "\udfff" for text in item for letter in text):
            raise InputError(f"{path} has a chat_template that is no text: it holds half a character")
        yield item


def _is_pair(item: tuple[Any, ...]) -> bool:
    return len(item) == 2 and all(isinstance(text, str) for text in item)


def _templates(folder: Path, found: Mapping[str, str], *, plain: bool) -> FolderTemplates:
    named: dict[str, str] = {}
    for name, text in found.items():
        if name == _DEFAULT:
            continue
        key = _key(name)
        if not key or key in named:
            raise InputError(
                f"the tokenizer in {folder} has a chat template of the name {name!r}, which GGUF keeps as "
                f"{key!r}: give each template a name of its own, of letters and digits"
            )
        named[key] = text
    default = found.get(_DEFAULT)
    if default is None or (name := default.strip()) not in template_names():
        return FolderTemplates(default, tuple(sorted(named.items())), plain=plain)
    return FolderTemplates(expand_name(name), tuple(sorted(named.items())), name, plain=False)


def _key(name: str) -> str:
    """Return a template's name as llama.cpp's converter writes it into a GGUF."""
    return "".join(letter if letter in ascii_letters + digits else "_" for letter in name)


def as_config(default: str | None, named: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    """Return templates as the list that tokenizer_config.json may hold."""
    texts = [*([(_DEFAULT, default)] if default is not None else []), *named]
    return [{"name": name, "template": text} for name, text in texts]
