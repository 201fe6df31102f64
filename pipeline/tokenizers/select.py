"""Choose the tokenizer and chat template of a GGUF: the adapter's if it has its own, else the base's.

Differences between the two are reported as notes, which are shown and stored in manifest.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.chat_templates import OPTION, GivenTemplate, expand_name, owner
from common.errors import MissingPackage
from common.text import and_more, first_line, pluralize
from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source, read_json
from pipeline.tokenizers.folder_templates import (
    CONFIG,
    PROCESSOR,
    TEMPLATE,
    FolderTemplates,
    as_config,
    read_templates,
)

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_FILES = (
    *_VOCABULARY_FILES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
Tokens = dict[str, int]


@dataclass(frozen=True)
class TokenizerChoice:
    """The files of a tokenizer, its chat template, and notes for the user.

    `template` is None when neither the adapters nor the base have one; `named` are others by name, which the
    GGUF carries too. `origin` says whose the template is.
    """

    files: dict[str, Path]
    template: str | None
    notes: tuple[str, ...]
    named: tuple[tuple[str, str], ...] = ()
    origin: str = "the base's"


def choose_tokenizer(
    base: Source, adapters: Sequence[Adapter], rows: int | None, given: GivenTemplate | None = None
) -> TokenizerChoice:
    """Return the tokenizer of the last adapter that has one, else the base's.

    So is the chat template, unless the user gives one. `rows` is the height of the embedding matrix: a
    tokenizer with ids beyond it is not used. None skips that.
    """
    files = {path.name: path for path in base.files() if path.name in _FILES}
    templates, origin = read_templates(base.folder), "the base's"
    notes = [_name_note(base.spec, templates)] if templates.name else []
    for adapter in adapters:
        own = {name: adapter.folder / name for name in _FILES if (adapter.folder / name).is_file()}
        if set(own) & set(_VOCABULARY_FILES):
            files, lines = _with_adapter_files(files, own, adapter, rows)
            notes += lines
        own_templates = read_templates(adapter.folder)
        if own_templates.default is not None or own_templates.named:
            notes += _template_notes(templates, own_templates, adapter)
            if own_templates != templates:
                templates, origin = own_templates, "the adapter's"
    if given is not None:
        notes.append(_given_note(given, templates))
        templates, origin = FolderTemplates(given.source), given.origin
    return TokenizerChoice(files, templates.default, tuple(notes), templates.named, origin)


def reject_unknown_name(sources: Sequence[Source]) -> None:
    """Raise InputError if the template of the last source that has one is a name that llama.cpp lacks."""
    for source in reversed(sources):
        templates = read_templates(source.folder)
        if templates.default is None and not templates.named:
            continue
        try:
            expand_name(templates.default or "")
        except InputError as error:
            raise InputError(f"{source.spec!r}: {error}, with {OPTION}") from None
        return


def _template_notes(before: FolderTemplates, after: FolderTemplates, adapter: Adapter) -> Iterator[str]:
    if after.default != before.default:
        yield f"the chat template is the adapter's ({adapter.spec!r}), which differs from the base's"
    if after.default is None:
        yield f"the adapter ({adapter.spec!r}) has no chat template of the name default: give one by {OPTION}"
    if after.name:
        yield _name_note(adapter.spec, after)
    if after.named:
        yield f"the adapter's chat templates {after.names} ({adapter.spec!r}) are carried under their names"
    elif before.named:
        yield f"the base's chat templates {before.names} are not carried: the adapter has its own"


def _name_note(spec: str, templates: FolderTemplates) -> str:
    name = templates.name or ""
    return f"the chat template of {spec!r} is the name {name!r}: {owner(name)} one is carried"


def _given_note(given: GivenTemplate, before: FolderTemplates) -> str:
    others = f", and the templates {before.names} are not carried" if before.named else ""
    instead = ", in place of the model's own" if before.default not in (None, given.source) else ""
    return f"the chat template is {given.origin} ({OPTION}){instead}{others}"


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
    if tokenizer.template is None and not tokenizer.named:
        return
    named = as_config(tokenizer.template, tokenizer.named) if tokenizer.named else None
    (folder / TEMPLATE).unlink(missing_ok=True)
    # Both the converter and transformers read this; the converter reads no template beside an empty file.
    config = {**_config(tokenizer.files), "chat_template": named or tokenizer.template}
    replace_file(folder / CONFIG, json.dumps(config))


def replace_file(path: Path, content: str) -> None:
    """Write a file; a symbolic link at `path` is replaced, not followed."""
    path.unlink(missing_ok=True)
    path.write_text(content, encoding="utf-8")


def stage_template(folder: Path, given: GivenTemplate, target: Path) -> None:
    """Make `target` a folder of links to the files of `folder`, with the given chat template as the only."""
    target.mkdir()
    source = Source(folder.name, folder, None)
    for path in source.files():
        (target / path.name).symlink_to(path.resolve())
    (target / PROCESSOR).unlink(missing_ok=True)
    write_tokenizer(choose_tokenizer(source, (), None, given), target)


@dataclass(frozen=True)
class StagedCheckpoint:
    """The folder that the converter reads, notes about it for the user, and whose its template is."""

    folder: Path
    notes: tuple[str, ...]
    template_origin: str = "the base's"


def stage_checkpoint(
    base: Source,
    adapters: Sequence[Adapter],
    settings: Mapping[str, object],
    scratch: Path,
    given: GivenTemplate | None = None,
) -> StagedCheckpoint:
    """Return the base's folder if nothing differs from it, else a folder of links inside `scratch`.

    `settings` replace those of config.json, and a `given` chat template all others.
    """
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    changed = _with_settings(config, settings)
    rows = (changed.get("text_config") or changed).get("vocab_size")
    tokenizer = choose_tokenizer(base, adapters, rows, given)
    unchanged = tokenizer == choose_tokenizer(base, (), None) and read_templates(base.folder).plain
    if not settings and unchanged:
        return StagedCheckpoint(base.folder, tokenizer.notes, tokenizer.origin)
    folder = scratch / base.folder.name  # the converter derives the GGUF's general.name from it
    folder.mkdir()
    for path in base.files():
        (folder / path.name).symlink_to(path)
    replace_file(folder / "config.json", json.dumps(changed))
    write_tokenizer(tokenizer, folder)
    return StagedCheckpoint(folder, tokenizer.notes, tokenizer.origin)


def _with_settings(config: dict[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
    text = {"text_config": {**config["text_config"], **settings}} if config.get("text_config") else {}
    return {**config, **settings, **text}
