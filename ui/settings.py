"""AppSettings: the app's options, read from flags and GGUF_CHAT_* environment variables by ui/cli.py.

Each field has a flag, which takes precedence, and a variable: --max-seconds, GGUF_CHAT_MAX_SECONDS.
Never imports gradio, so that --help is fast.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common import paths
from common.chat_templates import read_template
from common.errors import InputError
from engine.config import EngineConfig, KvType
from engine.errors import SettingsError
from ui.i18n.words import (
    CONTEXT_HELP,
    KV_TYPE_HELP,
    MODEL_HELP,
    SPECULATION_HELP,
    TEMPLATE_HELP,
    THREADS_HELP,
)

ENV_PREFIX = "GGUF_CHAT_"
GRADIO_ROOT_PATH = "GRADIO_ROOT_PATH"  # Gradio's own variable, where --root-path is not given
OTHER_VARIABLES = ("GGUF_CHAT_CACHE",)  # read by common/paths.py
OFF = "off"  # for --history: keep conversations only in memory
MIB = 1 << 20
SPACE_PROXIES = (  # addresses of a Space's proxies, as seen by the Space
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "::1/128",
)
DETACHED_SECONDS = 30.0  # where other people's answers go on without them
SPACE_DISK = Path("/data")  # a Space's persistent storage, if it has one
HISTORY_FILE = "history.sqlite"
# First parts of the server's own paths: below such a root path, a proxy that strips it and one that does not
# could not be told apart.
_OWN_PATHS = (
    *("v1", "health", "metrics", "compare", "quality", "login", "logout", "gradio_api"),
    *("assets", "static", "theme.css", "config", "svelte"),
)
_ROOT_PATH = re.compile(r"(/[\w.~-]+)+", re.ASCII)
_ENGINE = EngineConfig()
_ENGINE_RANGES = (
    "context",
    "slots",
    "queue",
    "threads",
    "max_prompt_tokens",
    "max_new_tokens",
    "max_seconds",
)
Group = Literal["Serving", "Models", "Engine", "Limits", "Access"]


def on_a_space() -> bool:
    """Return whether this runs in a Hugging Face Space, whose proxy needs the host 0.0.0.0."""
    return "SPACE_ID" in os.environ


def parse_logins(auth: SecretStr) -> Mapping[str, str]:
    """Return the passwords by name of "anna:secret,bert:other".

    Raises ValueError, with no password in its message.
    """
    logins: dict[str, str] = {}
    for number, pair in enumerate(filter(None, auth.get_secret_value().split(",")), start=1):
        name, _, password = pair.partition(":")
        if not name.strip() or not password:
            raise ValueError(f"login {number} is not NAME:PASSWORD: write anna:secret,bert:other")
        if name.strip() in logins:
            raise ValueError(f"the name {name.strip()!r} is there twice: give each a login of their own")
        logins[name.strip()] = password
    return logins


def _split_names(value: object) -> object:
    """Return the values of a repeated flag, or of one text with commas, as a tuple of names."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    return tuple(name.strip() for text in texts for name in str(text).split(",") if name.strip())


def _check_networks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses as networks. Raises ValueError."""
    try:
        return tuple(str(ip_network(name, strict=False)) for name in names)
    except ValueError as error:
        raise ValueError("write an address or a network, such as 10.0.0.2 or 10.0.0.0/8") from error


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def checked_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Return origins as browsers send them. Raises ValueError for what is no origin."""
    return tuple(map(_checked_origin, origins))


def _checked_origin(text: str) -> str:
    origin = text.strip().lower().removesuffix("/")
    parts = urlsplit(origin)
    whole = f"{parts.scheme}://{parts.netloc}" == origin and parts.netloc and "@" not in origin
    if not whole or "*" in origin:
        raise ValueError(
            f"{text!r} is no origin: use SCHEME://HOST or SCHEME://HOST:PORT, as http://localhost:3000 or "
            "app://obsidian.md; no path, no wildcard"
        )
    return origin.removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))


def _check_logins(auth: SecretStr) -> SecretStr:
    parse_logins(auth)
    return auth


def _check_template(option: str | None) -> str | None:
    """Return the option --template. Raises ValueError for one that is no template."""
    if option is not None:
        try:
            read_template(option)
        except InputError as error:
            raise ValueError(str(error)) from error
    return option


def _check_history(file: Path | None) -> Path | None:
    """Return the option --history. Raises ValueError for one in a home that nobody knows."""
    if file is not None and paths.is_homeless(file):
        raise ValueError("there is no such home folder: set HOME, or write the whole path")
    return file


def check_root_path(root: str) -> str:
    """Return a path before the server's own, or a URL that ends with one; "" for /. Raises ValueError."""
    if root.startswith(("http://", "https://")):
        check_prefix(urlsplit(root).path)
        if not urlsplit(root).netloc or "?" in root or "#" in root:
            raise ValueError("write a URL without a query, such as https://example.org/chat")
        return root.removesuffix("/")
    return check_prefix(root)


def check_prefix(path: str) -> str:
    """Return a path before the server's own; "" for /. Raises ValueError."""
    if path in ("", "/"):
        return ""
    if not _ROOT_PATH.fullmatch(path) or {".", ".."} & {*path.split("/")}:
        raise ValueError("write a path that begins with / and does not end with it, such as /chat")
    if (first := path.split("/")[1]) in _OWN_PATHS:
        raise ValueError(f"/{first} is a path of the server itself: take another, such as /chat")
    return path


def _option(group: Group, text: str, default: Any = None, **constraints: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"group": group}, **constraints)


def _space_option(group: Group, text: str, *, on_space: Any, elsewhere: Any, **constraints: Any) -> Any:
    """Return an option whose default on a Space differs."""

    def default() -> Any:
        return on_space if on_a_space() else elsewhere

    return Field(default_factory=default, description=text, json_schema_extra={"group": group}, **constraints)


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names)]


class AppSettings(BaseSettings):
    """Chat with a GGUF model in the browser, on this machine's CPU."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid")

    model: Path | None = _option("Serving", MODEL_HELP)
    host: str = _space_option(
        "Serving", "0.0.0.0 lets other machines in.", on_space="0.0.0.0", elsewhere="127.0.0.1"
    )
    port: int = _option("Serving", "0 takes any free one.", 7860, ge=0, le=65535)
    hosts: Names = _option(
        "Serving", "More names that this server is known by, behind a proxy for instance.", ()
    )
    root_path: Annotated[str, AfterValidator(check_root_path)] = Field(
        default_factory=lambda: os.environ.get(GRADIO_ROOT_PATH, "").rstrip("/"),
        validate_default=True,
        description="Path of a proxy that leads here, such as /chat. Default: its X-Forwarded-Prefix.",
        json_schema_extra={"group": "Serving"},
    )
    allow_origin: Annotated[Names, AfterValidator(checked_origins)] = _option(
        "Serving", "Pages that may use /v1 from a browser: app://obsidian.md, http://localhost:3000", ()
    )
    trusted_proxy: Annotated[Names, AfterValidator(_check_networks)] = _space_option(
        "Serving",
        "Proxy in front, whose X-Forwarded-* headers count: an address or network. Default: none.",
        on_space=SPACE_PROXIES,
        elsewhere=(),
    )
    history: Annotated[Path | None, AfterValidator(_check_history)] = _option(
        "Serving",
        "File that keeps the conversations, or off. Default: in your data folder, on a Space /data.",
    )

    models: Names = _option(
        "Models", "More to choose from: folders, files, NAME=FILE, FILE::ADAPTER.gguf, Hub names.", ()
    )
    template: Annotated[str | None, AfterValidator(_check_template)] = _option(
        "Models", f"{TEMPLATE_HELP} For MODEL and those of --models."
    )
    max_loaded: int = _option("Models", "Models that are kept in memory at the same time.", 2, ge=1)

    context: int = _option("Engine", CONTEXT_HELP, _ENGINE.context)
    slots: int = _option("Engine", "Answers that are written at the same time.", _ENGINE.slots)
    queue: int = _option("Engine", "How many may wait for a slot; others are told so.", _ENGINE.queue)
    threads: int | None = _option("Engine", THREADS_HELP)
    kv_type: KvType = _option("Engine", KV_TYPE_HELP, _ENGINE.kv_type)
    cache_ram: int = _option(
        "Engine", "MiB for conversations that lost their slot; 0 is off.", _ENGINE.cache_ram // MIB, ge=0
    )
    speculation: bool = _option("Engine", SPECULATION_HELP, _ENGINE.speculation)
    deterministic: bool = _option(
        "Engine", "The same request gives the same answer under load too; slower.", _ENGINE.deterministic
    )

    max_prompt_tokens: int | None = _option(
        "Limits", "A longer conversation loses its oldest turns. Default: what the context leaves."
    )
    max_new_tokens: int | None = _option(
        "Limits", "Where any answer is cut, whatever its reader asks for. Default: no limit."
    )
    max_seconds: float | None = _option(
        "Limits", "How long one answer may take, without its time in the queue. Default: no limit."
    )
    requests_per_minute: int = _space_option(
        "Limits", "For each user; 0 is no limit.", on_space=20, elsewhere=0, ge=0
    )
    answers_at_once: int = _space_option(
        "Limits", "For each user; 0 is no limit.", on_space=2, elsewhere=0, ge=0
    )
    detached_seconds: float | None = _option(
        "Limits",
        "How long an answer goes on that no page shows, or inf. Default: inf on your own machine, else 30.",
        ge=0,
    )

    auth: Annotated[SecretStr, AfterValidator(_check_logins)] = _option(
        "Access", "Logins for the page and for /v1: anna:secret,bert:other", SecretStr("")
    )
    api_key: SecretStr = _option("Access", "What callers of /v1 send as a Bearer token.", SecretStr(""))

    @field_validator(*_ENGINE_RANGES)
    @classmethod
    def _check_engine_range(cls, value: float | None, field: ValidationInfo) -> float | None:
        try:
            EngineConfig(**{str(field.field_name): value})  # type: ignore[arg-type]
        except SettingsError as error:
            raise ValueError(str(error).partition(": ")[2]) from error
        return value

    def engine(self) -> EngineConfig:
        """Return the engine's options."""
        return EngineConfig(
            context=self.context,
            slots=self.slots,
            queue=self.queue,
            threads=self.threads,
            kv_type=self.kv_type,
            cache_ram=self.cache_ram * MIB,
            speculation=self.speculation,
            deterministic=self.deterministic,
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_new_tokens,
            max_seconds=self.max_seconds,
        )

    def detached(self, *, own_machine: bool) -> float:
        """Return the seconds for which an answer goes on that no page shows."""
        if self.detached_seconds is not None:
            return self.detached_seconds
        return math.inf if own_machine else DETACHED_SECONDS

    @property
    def template_source(self) -> str:
        """The Jinja source of `template`, or ""."""
        return read_template(self.template).source if self.template else ""

    @property
    def logins(self) -> Mapping[str, str]:
        """Passwords by name."""
        return parse_logins(self.auth)

    @property
    def known_as(self) -> tuple[str, ...]:
        """The names of this server, including a Space's public one."""
        return (*self.hosts, *filter(None, [os.environ.get("SPACE_HOST")]))


def history_file(option: Path | None) -> Path | None:
    """Return the history's file for the option --history; None keeps conversations only in memory."""
    if option is not None:
        return None if str(option) == OFF else paths.expanded(option)
    if not on_a_space():
        return _own_history()
    return SPACE_DISK / HISTORY_FILE if SPACE_DISK.is_dir() and os.access(SPACE_DISK, os.W_OK) else None


def _own_history() -> Path | None:
    """Return the history in the user's data folder; None if it is not there and cannot be made."""
    folder = paths.data_folder()
    if folder is None or not (
        os.access(file := folder / HISTORY_FILE, os.F_OK) or paths.can_be_written(folder)
    ):
        return None
    return file


def storage_note(option: Path | None) -> str:
    """Return the line that the app prints about its history at the start, for the option --history."""
    if file := history_file(option):
        return f"Conversations are kept in {file}"
    note = "Conversations are kept in memory, until the app ends"
    if option is not None or on_a_space():
        return note
    folder = paths.data_folder()
    why = f"{folder} cannot be written" if folder else "there is no home folder"
    return f"{note}, as {why}: set HOME, or name a file with --history"
