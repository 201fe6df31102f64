"""Find the file, the key and the value at fault when a tokenizer cannot be read.

These checks run only after a failure: they refuse nothing that works.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError
from pydantic import Field as Limit

from common.files import load_json
from pipeline.errors import InputError
from pipeline.sources.model_source import Source, read_json
from pipeline.sources.reading import reading, reason, shown
from pipeline.tokenizers.select import tokens_of

_Id = Annotated[StrictInt, Limit(ge=0, lt=2**31)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class _AddedToken(_Loose):
    id: _Id
    content: StrictStr


class _SpecialToken(_Loose):
    content: StrictStr


class _Model(_Loose):
    type: StrictStr
    vocab: dict[str, _Id] | list[tuple[StrictStr, float]]
    merges: list[Any] = []


class _TokenizerJson(_Loose):
    """tokenizer.json of the package tokenizers."""

    model: _Model
    added_tokens: list[_AddedToken] = []


_Special = StrictStr | _SpecialToken | None


class _SpecialTokens(_Loose):
    """special_tokens_map.json, and the same keys of tokenizer_config.json."""

    bos_token: _Special = None
    eos_token: _Special = None
    unk_token: _Special = None
    pad_token: _Special = None


class _TokenizerConfig(_SpecialTokens):
    """tokenizer_config.json."""

    tokenizer_class: StrictStr | None = None
    added_tokens_decoder: dict[Annotated[str, Limit(pattern=r"^\d+$")], _SpecialToken] = {}


class _AddedTokens(_Loose):
    """added_tokens.json: ids by spelling."""

    __pydantic_extra__: dict[str, _Id]


_SCHEMAS: dict[str, type[BaseModel]] = {
    "tokenizer.json": _TokenizerJson,
    "tokenizer_config.json": _TokenizerConfig,
    "special_tokens_map.json": _SpecialTokens,
    "added_tokens.json": _AddedTokens,
}
_FIX = "take this file from the original model, or correct it"


def read_tokenizer(folder: Path, what: str) -> Any:
    """Load the tokenizer of a folder with transformers.

    Raises InputError with the fault in its files, or that `what`, such as "the base 'x'", has none.
    """
    from transformers import AutoTokenizer

    def fault(error: BaseException) -> str:
        return tokenizer_fault(folder) or f"{what} has no tokenizer that can be read: {reason(error)}"

    with reading("", "", fault):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def tokenizer_fault(folder: Path) -> str | None:
    """Return the message for the first file of a tokenizer that has a fault; None when none is found."""
    for name, schema in _SCHEMAS.items():
        if (folder / name).is_file() and (found := _schema_fault(folder / name, schema)):
            return found
    return next(_load_faults(folder), None)


def _schema_fault(path: Path, schema: type[BaseModel]) -> str | None:
    content = load_json(path)
    try:
        schema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(_steps(first["loc"], content))
        if first["type"] == "missing":
            return f"{path} lacks {place}: {_FIX}"
        if not place:
            return f"{path} holds no JSON object: {_FIX}"
        wrong = first["msg"].partition(" or instance of")[0]
        return f"{path} has {place} = {shown(first['input'])} ({wrong}): {_FIX}"
    return None


def _steps(loc: tuple[int | str, ...], content: Any) -> Iterator[str]:
    """Yield the keys of a place, without the names of pydantic's alternatives, which no file has."""
    for step in loc:
        if isinstance(content, dict):
            if step not in content and step != loc[-1]:
                continue
            content = content.get(step)
        elif isinstance(content, list) and isinstance(step, int) and step < len(content):
            content = content[step]
        elif step != loc[-1] or content is None or isinstance(content, str | int):
            continue
        yield str(step)


def _load_faults(folder: Path) -> Iterator[str]:
    """Yield the message of each file that its own library cannot load."""
    for name, load in (("tokenizer.json", _load_tokenizers), ("tokenizer.model", _load_sentencepiece)):
        if not (folder / name).is_file():
            continue
        try:
            load(folder / name)
        except BaseException as error:  # Rust's panics are no Exception
            if isinstance(error, KeyboardInterrupt | MemoryError):
                raise
            yield f"{folder / name} is damaged or of an unknown kind ({reason(error)}): {_FIX}"


def _load_tokenizers(path: Path) -> None:
    from tokenizers import Tokenizer

    Tokenizer.from_file(str(path))


def _load_sentencepiece(path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    SentencePieceProcessor(model_file=str(path))


def beyond_rows(base: Source, folder: Path) -> str | None:
    """Return the message for tokens in `folder` for which the embeddings have no rows; None without any."""
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    rows = text.get("vocab_size") if isinstance(text, dict) else None
    try:
        tokens = tokens_of(folder)
    except InputError as error:
        return str(error)
    beyond = [(number, token) for token, number in tokens.items() if isinstance(rows, int) and number >= rows]
    if not beyond:
        return None
    number, token = min(beyond)
    return (
        f"the tokenizer of the base model {base.spec!r} has {token!r} (id {number}), for which the {rows} "
        "rows of the embeddings leave no room: use the tokenizer from before that token was added, or call "
        "model.resize_token_embeddings(len(tokenizer)) where it was trained, and save the model again"
    )


def unknown_to_converter(base: Source, error: NotImplementedError | RecursionError) -> str:
    """Return the message for a base that llama.cpp's converter does not know, or for which it never ends."""
    why = (
        f"{error} (its tokenizer or its layout is unknown to it: use the tokenizer files of the original "
        "model)"
    )
    if isinstance(error, RecursionError):
        why = (
            "it calls itself without end for this architecture, a fault of this version: use another "
            "llama-cpp-python, or another base"
        )
    return f"llama.cpp's converter cannot handle the base model {base.spec!r}: {why}"


def tokenizer_message(base: Source, folder: Path, error: BaseException) -> str:
    """Return the whole message for a tokenizer in `folder` that llama.cpp's converter cannot read."""
    found = tokenizer_fault(folder) or beyond_rows(base, folder)
    if found is None and isinstance(error, NotImplementedError):  # an unknown pre-tokenizer
        found = unknown_to_converter(base, error)
    if found is None and isinstance(error, FileNotFoundError):
        found = f"the base model in {base.folder} lacks a tokenizer file: {error}"
    found = found or f"the tokenizer in {base.folder} cannot be converted ({reason(error)}): {_FIX}"
    return " ".join(found.replace(str(folder), str(base.folder)).split())
