"""Choose the tokenizer and chat template of a GGUF: the adapter's if it has its own, else the base's.

Differences between the two are reported as notes, which are shown and stored in manifest.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from common.text import and_more, first_line, pluralize
from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source, read_json

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_FILES = (
    *_VOCABULARY_FILES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
Tokens = dict[str, int]


@dataclass(frozen=True)
class TokenizerChoice:
    """The files of a tokenizer, its chat template, and notes for the user.

    `template` is None when neither the adapters nor the base have one.
    """

    files: dict[str, Path]
    template: str | None
    notes: tuple[str, ...]


def choose_tokenizer(base: Source, adapters: Sequence[Adapter], rows: int | None) -> TokenizerChoice:
    """Return the tokenizer of the last adapter that has one, else the base's.

    `rows` is the height of the embedding matrix: a tokenizer with ids beyond it is not used. None skips that.
    """
    files = {path.name: path for path in base.files() if path.name in _FILES}
    template: str | None = None
    notes: list[str] = []
    for adapter in adapters:
        own = {name: adapter.folder / name for name in _FILES if (adapter.folder / name).is_file()}
        if set(own) & set(_VOCABULARY_FILES):
            files, lines = _with_adapter_files(files, own, adapter, rows)
            notes += lines
        adapter_template = _template(adapter.folder)
        if adapter_template is not None:
            if adapter_template != (_template(base.folder) if template is None else template):
                notes.append(
                    f"the chat template is the adapter's ({adapter.spec!r}), which differs from the base's"
                )
            template = adapter_template
    return TokenizerChoice(files, template if template is not None else _template(base.folder), tuple(notes))


def _with_adapter_files(
    files: dict[str, Path], own: dict[str, Path], adapter: Adapter, rows: int | None
) -> tuple[dict[str, Path], list[str]]:
    """Replace `files` by the adapter's `own`, unless the embeddings have no rows for its tokens."""
    before, after = _tokens(files), _tokens(own)
    beyond = [token for token, number in after.items() if rows is not None and number >= rows]
    if beyond:
        line = (
            f"the tokenizer is the base's: the adapter's ({adapter.spec!r}) has {beyond[0]!r}"
            f"{and_more(len(beyond) - 1, 'token')}, for which the {rows} rows of the embeddings leave no room"
        )
        return files, [line]
    notes = [*_token_notes(before, after, adapter), *_role_notes(files, own, adapter)]
    if before == after and not notes:
        return files, []
    moved = any(after.get(token, number) != number for token, number in before.items())
    # The base's tokenizer.model next to the adapter's tokenizer.json holds the same vocabulary, in the form
    # that llama.cpp's converter prefers; when tokens moved it is a different vocabulary.
    return ({} if moved else files) | own, notes


def _token_notes(before: Tokens, after: Tokens, adapter: Adapter) -> list[str]:
    notes = []
    added = sorted(after.keys() - before.keys(), key=lambda token: after[token])
    if before and added:
        notes.append(
            f"the adapter's tokenizer ({adapter.spec!r}) adds {pluralize(len(added), 'token')}, "
            f"{added[0]!r} first"
        )
    moved = [token for token in before if after.get(token, before[token]) != before[token]]
    if moved:
        notes.append(
            f"the adapter's tokenizer ({adapter.spec!r}) gives "
            f"{moved[0]!r}{and_more(len(moved) - 1, 'token')} other numbers "
            f"than the base's ({after[moved[0]]}, not {before[moved[0]]})"
        )
    return notes


def _role_notes(files: dict[str, Path], own: dict[str, Path], adapter: Adapter) -> list[str]:
    before, after = _config(files), _config(own)
    notes = []
    for role in _ROLES:
        old, new = _text(before.get(role)), _text(after.get(role))
        if old and new and old != new:
            notes.append(f"{role} is the adapter's ({adapter.spec!r}): {new!r}, not the base's {old!r}")
    return notes


def _text(token: Any) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _config(files: dict[str, Path]) -> dict[str, Any]:
    return read_json(files[CONFIG], "the tokenizer") if CONFIG in files else {}


def _template(folder: Path) -> str | None:
    """Read a folder's chat template as transformers does; None when it has none."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    if (folder / CONFIG).is_file():
        template = read_json(folder / CONFIG, "the tokenizer").get("chat_template")
        if not isinstance(template, str):
            return None
        if any("\ud800" <= letter <= "\udfff" for letter in template):
            raise InputError(
                f"{folder / CONFIG} has a chat_template that is no text: it holds half a character"
            )
        return template
    return None


def _tokens(files: dict[str, Path]) -> Tokens:
    """Return token -> id from the first vocabulary file there is; empty when there is none.

    Raises InputError for files that no tokenizer has.
    """
    try:
        tokens = _read_tokens(files)
        odd = next((token for token, number in tokens.items() if type(number) is not int), None)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        odd = f"{type(error).__name__}: {first_line(error)}"
    if odd is not None:
        folder = next(iter(files.values())).parent
        raise InputError(f"the tokenizer's files in {folder} are damaged ({odd!s:.80}): download them again")
    return tokens


def tokens_of(folder: Path) -> Tokens:
    """Return token -> id of the tokenizer in a folder. Raises InputError for files that no tokenizer has."""
    return _tokens({name: folder / name for name in _FILES if (folder / name).is_file()})


def _read_tokens(files: dict[str, Path]) -> Tokens:
    if "tokenizer.json" in files:
        content = read_json(files["tokenizer.json"], "the tokenizer")
        vocabulary = content.get("model", {}).get("vocab", {})
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score
            vocabulary = {pair[0]: number for number, pair in enumerate(vocabulary)}
        return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
    tokens: Tokens = {}
    if "tokenizer.model" in files:
        tokens.update(_pieces(files["tokenizer.model"]))
    elif "vocab.json" in files:
        tokens.update(read_json(files["vocab.json"], "the tokenizer"))
    if "added_tokens.json" in files:
        tokens.update(read_json(files["added_tokens.json"], "the tokenizer"))
    for number, token in _config(files).get("added_tokens_decoder", {}).items():
        tokens[_text(token)] = int(number)
    return tokens


def _pieces(path: Path) -> Tokens:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MissingPackage("sentencepiece") from error
    model = SentencePieceProcessor(model_file=str(path))
    return {model.id_to_piece(number): number for number in range(model.get_piece_size())}


def write_tokenizer(tokenizer: TokenizerChoice, folder: Path) -> None:
    """Link the tokenizer's files into `folder`, replacing the base's."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name, path in tokenizer.files.items():
        (folder / name).symlink_to(path)
    if tokenizer.template is not None:
        config = _config(tokenizer.files)
        config.pop("chat_template", None)
        replace_file(folder / CONFIG, json.dumps(config))
        replace_file(folder / TEMPLATE, tokenizer.template)


def replace_file(path: Path, content: str) -> None:
    """Write a file; a symbolic link at `path` is replaced, not followed."""
    path.unlink(missing_ok=True)
    path.write_text(content, encoding="utf-8")


@dataclass(frozen=True)
class StagedCheckpoint:
    """The folder that the converter reads, and notes about it for the user."""

    folder: Path
    notes: tuple[str, ...]


def stage_checkpoint(
    base: Source, adapters: Sequence[Adapter], settings: Mapping[str, object], scratch: Path
) -> StagedCheckpoint:
    """Return the base's folder if nothing differs from it, else a folder of links inside `scratch`.

    `settings` replace those of config.json.
    """
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    changed = _with_settings(config, settings)
    tokenizer = choose_tokenizer(base, adapters, (changed.get("text_config") or changed).get("vocab_size"))
    if not settings and tokenizer == choose_tokenizer(base, (), None):
        return StagedCheckpoint(base.folder, tokenizer.notes)
    folder = scratch / base.folder.name  # the converter derives the GGUF's general.name from it
    folder.mkdir()
    for path in base.files():
        (folder / path.name).symlink_to(path)
    replace_file(folder / "config.json", json.dumps(changed))
    write_tokenizer(tokenizer, folder)
    return StagedCheckpoint(folder, tokenizer.notes)


def _with_settings(config: dict[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
    text = {"text_config": {**config["text_config"], **settings}} if config.get("text_config") else {}
    return {**config, **settings, **text}
