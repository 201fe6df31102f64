"""Chat templates by name: llama.cpp's built-in ones as Jinja, Alpaca's, and the option --template.

Each NAME.jinja renders the same text as llama_chat_apply_template does for that name. llama.cpp trims ASCII
white space only, hence `strip` with its characters in place of Jinja's `trim`. It has none for Alpaca's
prompt, so `alpaca` is this project's own. None of them writes a BOS: tokenizers that use one add it.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from common.errors import InputError
from common.paths import expanded

OPTION = "--template"
_EARLIER = "chat-template"

OWN_NAMES = ("alpaca",)
ADVICE = f"give one with {OPTION} FILE|NAME"
OTHER_ADVICE = f"give another one with {OPTION} FILE|NAME"
_FOLDER = Path(__file__).parent
_SUFFIX = ".jinja"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class GivenTemplate:
    """A chat template that the user chose: its Jinja `source`, and where it came from, in words.

    One that `is_named`, here or in a file that holds only the name, writes no BOS.
    """

    source: str
    origin: str
    is_named: bool = False


def current_option(name: str) -> str:
    """Return an option's name, without its dashes: --chat-template is still taken for --template.

    It is for click's `token_normalize_func`, which keeps the earlier name out of --help.
    """
    return OPTION.removeprefix("--") if name == _EARLIER else name


@cache
def template_names() -> tuple[str, ...]:
    """Return all names, sorted: those of llama.cpp's built-in templates, and OWN_NAMES."""
    return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}")))


def builtin_names() -> tuple[str, ...]:
    """Return the names of llama.cpp's built-in templates, sorted."""
    return tuple(name for name in template_names() if name not in OWN_NAMES)


def owner(name: str) -> str:
    """Return whose the template of that name is, in words."""
    return "GGUF Chat's own" if name in OWN_NAMES else "llama.cpp's built-in"


def expand_name(source: str) -> str:
    """Return the template of that name; any other text is returned unchanged.

    Raises InputError for a single word that is no name: it would render as itself.
    """
    name = source.strip()
    if not is_name(name):
        return source
    if name not in template_names():
        raise InputError(
            f"the chat template {name[:80]!r} is neither Jinja nor one of the known names: use one of "
            f"{', '.join(template_names())}"
        )
    return (_FOLDER / f"{name}{_SUFFIX}").read_text(encoding="utf-8").rstrip("\n")


def is_name(source: str) -> bool:
    """Return whether a chat template is a single word, such as "chatml", and no Jinja."""
    return len(source.split()) == 1 and not any(mark in source for mark in ("{{", "{%", "{#"))


def read_template(option: str) -> GivenTemplate:
    """Return the template of the option's value: an existing file's, else the one of that name.

    Raises InputError for an unknown name, and for a file that is no text, is empty, or is a pipe, which could
    be read only once.
    """
    path = expanded(option)
    if option and _exists(path):
        if not path.is_file() and not path.is_dir():
            raise InputError(f"{OPTION} {option!r} is a pipe or a device: store the template in a file")
        content = _read(path)
        return GivenTemplate(expand_name(content), f"the file {path.name}", is_name(content))
    if option in template_names():
        return GivenTemplate(expand_name(option), f"{owner(option)} {option!r}", is_named=True)
    if option == "-":
        raise InputError(
            f"{OPTION} - would be standard input, which is not read: store the template in a file"
        )
    if "{{" in option or "{%" in option:
        raise InputError(f"{OPTION} {option[:40]!r} is Jinja itself: store the template in a file")
    near = get_close_matches(option, template_names())
    known = f"did you mean {', '.join(near)}? All: " if near else "use one of "
    raise InputError(
        f"{OPTION} {option[:80]!r} is neither an existing file nor one of the known names: {known}"
        f"{', '.join(template_names())}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that no file can be named by
        return False


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{OPTION} {str(path)!r} has more than a MiB: give a file with a Jinja template")
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{OPTION} {str(path)!r} is no text in UTF-8: give a Jinja template") from None
    except OSError as error:
        raise InputError(f"{OPTION} {str(path)!r} cannot be read: {error.strerror or error}") from None
    if not source.strip():
        raise InputError(f"{OPTION} {str(path)!r} is empty: give a file with a Jinja template")
    return source
