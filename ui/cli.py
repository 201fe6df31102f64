"""Command line of the web application: flags and environment -> AppSettings, and the address to serve at.

Errors are one line, with the most similar valid name. The other commands use typer; here argparse, which
pydantic-settings imports anyway, since --help made by typer without rich takes 8 % longer (0.22 s and 0.24 s,
the median of 21 alternating pairs on two cores), most of it typer's import.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, NoReturn, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from common.terminal import say_error
from ui.settings import ENV_PREFIX, OTHER_VARIABLES, AppSettings, Group

ALIASES = {"ctx": "context", "chat_template": "template"}  # of flags and variables
_TERMINAL_FLAGS = ("--chat", "--prompt", "-p", "--prompt-file", "--system")  # those of scripts/chat.py
_FIELDS = AppSettings.model_fields
_SECRETS = "By the environment alone, since others on this machine can read a command line:\n"
_END = """\
Each option is an environment variable too: --max-seconds is GGUF_CHAT_MAX_SECONDS,
and MODEL is GGUF_CHAT_MODEL. A flag goes before its variable.
"""


def read_settings(arguments: Sequence[str], prog_name: str | None = None) -> AppSettings:
    """Return the settings. Exits after --help, and with code 2 for an invalid flag or variable."""
    given = vars(_parser(prog_name).parse_args(arguments))
    _refuse_unknown(os.environ)
    try:
        return AppSettings(**(_from_aliases(os.environ) | given))
    except ValidationError as error:
        fail(_error_text(error))


def fail(message: str) -> NoReturn:
    """Print an error and exit with code 2."""
    say_error(message)
    sys.exit(2)


class _Parser(argparse.ArgumentParser):
    """argparse with our error messages."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        flag = unknown.partition("=")[0]
        if message.startswith("unrecognized") and flag in _TERMINAL_FLAGS:
            fail(f"{flag} is no option here: for a chat in the terminal run scripts/chat.py")
        if message.startswith("unrecognized") and unknown.startswith("--"):
            fail(f"{flag} is no option{_nearest(flag, list(self._option_string_actions))}")
        fail(message.removeprefix("argument "))


def _parser(prog_name: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog_name,
        usage="%(prog)s [MODEL] [OPTIONS]",
        description=AppSettings.__doc__,
        epilog=_END,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_FIELDS["model"].description)
    for group in get_args(Group):
        fields = {name: field for name, field in _FIELDS.items() if _group(field) == group}
        secrets = {name: field for name, field in fields.items() if field.annotation is SecretStr}
        listed = "".join(f"  {_variable(name):26}{field.description}\n" for name, field in secrets.items())
        section = parser.add_argument_group(group.lower(), _SECRETS + listed if secrets else None)
        for name, field in fields.items():
            if name != "model" and name not in secrets:
                _add_option(section, name, field)
    return parser


def _add_option(section: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    """Add a field's option. AppSettings parses its text, like a variable's."""
    flags = [_flag(name), *(_flag(alias) for alias, target in ALIASES.items() if target == name)]
    text = f"{field.description}{_default_text(field)}".replace("%", "%%")
    if field.annotation is bool:
        section.add_argument(*flags, dest=name, help=text, action=argparse.BooleanOptionalAction)
    else:
        action = "append" if get_origin(field.annotation) is tuple else "store"
        section.add_argument(*flags, dest=name, help=text, metavar=_metavar(field), action=action)


def _default_text(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, bool):
        value = "on" if value else "off"
    return "" if value in (None, ()) else f" [{value}]"


def _metavar(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    is_number = {int, float} & {annotation, *get_args(annotation)}
    return "N" if is_number else "A,B" if get_origin(annotation) is tuple else "TEXT"


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """Fail on an unknown GGUF_CHAT_* variable, which may be mistyped."""
    known = sorted({*map(_variable, (*_FIELDS, *ALIASES)), *OTHER_VARIABLES})
    for variable in environment:
        if variable.startswith(ENV_PREFIX) and variable not in known:
            fail(f"{variable} is no setting{_nearest(variable, known)}")


def _from_aliases(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that the environment sets only by an alias."""
    given = {field: environment.get(_variable(alias)) for alias, field in ALIASES.items()}
    return {field: value for field, value in given.items() if value and not environment.get(_variable(field))}


def _error_text(error: ValidationError) -> str:
    """Return the first error, without a secret's value."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    message = first["msg"].removeprefix("Value error, ")
    if _FIELDS[name].annotation is SecretStr:
        return f"{_variable(name)}: {message}"
    if message.startswith(_flag(name)):
        return message
    return f"{_flag(name)} (or {_variable(name)}): {message}, not {first['input']!r}"


def _group(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["group"]) if isinstance(extra, dict) else ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}{name.upper()}"


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else ": --help lists them"


class ServeError(Exception):
    """The server cannot listen: the address is in use or is not this machine's."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; port 0 is any free one. Raises ServeError."""
    try:
        family, socket_type, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket_type, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise ServeError(f"cannot serve at {host}:{port} ({error}): {_fix(error, port)}") from error
    return bound


def _fix(error: Exception, port: int) -> str:
    """Return what to do about an address that cannot be bound."""
    if isinstance(error, PermissionError):
        return "choose a port above 1023, such as --port 7860"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return "use --host 127.0.0.1, or 0.0.0.0 to let other machines in"
    return f"choose another one, such as --port {port + 1 if 0 < port < 65535 else 7861}"


def address_of(bound: socket.socket) -> str:
    """Return the URL for a browser on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Return whether only this machine can reach the address."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback
