"""AppSettings: all that can be set about the app, by flags and by GGUF_CHAT_* in the environment.

A field's name is its flag's and its variable's: `max_seconds`, --max-seconds, GGUF_CHAT_MAX_SECONDS. A flag
goes before the environment. ui/cli.py reads both. Never imports gradio, so that --help answers soon.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common import paths as places
from engine.config import EngineConfig, KvType
from engine.errors import SettingsError

MODEL = (
    "A .gguf file, its folder, or owner/name/file.gguf on the Hub, and ::ADAPTER.gguf after it for a LoRA "
    "adapter. Default: the embedded model."
)
CONTEXT = "Tokens that one conversation may hold."
THREADS = "CPU threads. Default: the cores that are really yours."
KV_TYPE = "How a conversation is kept in memory: q8_0 takes half, q4_0 a quarter and loses precision."
SPECULATION = "Guess what repeats the conversation, and check it in one go, where measured to be faster."
ENV_PREFIX = "GGUF_CHAT_"
OTHER_VARIABLES = ("GGUF_CHAT_CACHE",)  # read elsewhere: see common/paths.py
OFF = "off"
MIB = 1 << 20
_ENGINE = EngineConfig()
_ENGINE_LIMITS = ("max_prompt_tokens", "max_new_tokens", "max_seconds")
Group = Literal["Serving", "Models", "Engine", "Limits", "Access"]


def on_a_space() -> bool:
    """Whether this is a Hugging Face Space, which sets the variable; its proxy reaches 0.0.0.0 alone."""
    return "SPACE_ID" in os.environ


def parse_logins(auth: SecretStr) -> Mapping[str, str]:
    """ "anna:secret,bert:other" -> names and passwords. The ValueError of a wrong one tells no password."""
    logins: dict[str, str] = {}
    for number, pair in enumerate(filter(None, auth.get_secret_value().split(",")), start=1):
        name, _, password = pair.partition(":")
        if not name.strip() or not password:
            raise ValueError(f"login {number} is not NAME:PASSWORD: write anna:secret,bert:other")
        if name.strip() in logins:
            raise ValueError(f"the name {name.strip()!r} is there twice: give each a login of their own")
        logins[name.strip()] = password
    return logins


def _listed(value: object) -> object:
    """Flags that were repeated, or one text with commas, as a tuple of names."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    return tuple(name.strip() for text in texts for name in str(text).split(",") if name.strip())


def _checked(auth: SecretStr) -> SecretStr:
    parse_logins(auth)
    return auth


def _option(group: Group, text: str, default: Any = None, **more: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"group": group}, **more)


def _by_place(group: Group, text: str, space: Any, laptop: Any, **more: Any) -> Any:
    """An option whose default is another one on a Space."""

    def default() -> Any:
        return space if on_a_space() else laptop

    return Field(default_factory=default, description=text, json_schema_extra={"group": group}, **more)


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


class AppSettings(BaseSettings):
    """Chat with a GGUF model in the browser, on this machine's CPU."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid")

    model: Path | None = _option("Serving", MODEL)
    host: str = _by_place("Serving", "0.0.0.0 lets other machines in.", "0.0.0.0", "127.0.0.1")
    port: int = _option("Serving", "0 takes any free one.", 7860, ge=0, le=65535)
    hosts: Names = _option(
        "Serving", "More names that this server is known by, behind a proxy for instance.", ()
    )
    history: Path | None = _option(
        "Serving",
        "File that keeps the conversations, or off. Default: in your data folder, on a Space /data.",
    )

    models: Names = _option(
        "Models", "More to choose from: folders, files, NAME=FILE, FILE::ADAPTER.gguf, Hub names.", ()
    )
    max_loaded: int = _option("Models", "Models that are kept in memory at the same time.", 2, ge=1)

    context: int = _option("Engine", CONTEXT, _ENGINE.context)
    slots: int = _option("Engine", "Answers that are written at the same time.", _ENGINE.slots)
    queue: int = _option("Engine", "How many may wait for a slot; others are told so.", _ENGINE.queue)
    threads: int | None = _option("Engine", THREADS)
    kv_type: KvType = _option("Engine", KV_TYPE, _ENGINE.kv_type)
    cache_ram: int = _option(
        "Engine", "MiB for conversations that lost their slot; 0 is off.", _ENGINE.cache_ram // MIB, ge=0
    )
    speculation: bool = _option("Engine", SPECULATION, _ENGINE.speculation)

    max_prompt_tokens: int | None = _option(
        "Limits", "A longer conversation loses its oldest turns. Default: what the context leaves."
    )
    max_new_tokens: int | None = _option(
        "Limits", "Where any answer is cut, whatever its reader asks for. Default: no limit."
    )
    max_seconds: float | None = _option(
        "Limits", "How long one answer may take, without its time in the queue. Default: no limit."
    )
    requests_per_minute: int = _by_place("Limits", "For each user; 0 is no limit.", 20, 0, ge=0)
    answers_at_once: int = _by_place("Limits", "For each user; 0 is no limit.", 2, 0, ge=0)

    auth: Annotated[SecretStr, AfterValidator(_checked)] = _option(
        "Access", "Logins for the page and for /v1: anna:secret,bert:other", SecretStr("")
    )
    api_key: SecretStr = _option("Access", "What callers of /v1 send as a Bearer token.", SecretStr(""))

    @field_validator("context", "slots", "queue", "threads", *_ENGINE_LIMITS)
    @classmethod
    def _in_the_engines_range(cls, value: float | None, field: ValidationInfo) -> float | None:
        try:
            EngineConfig(**{str(field.field_name): value})  # type: ignore[arg-type]
        except SettingsError as error:
            raise ValueError(str(error).partition(": ")[2]) from error
        return value

    def engine(self) -> EngineConfig:
        """The engine's part."""
        return EngineConfig(
            context=self.context,
            slots=self.slots,
            queue=self.queue,
            threads=self.threads,
            kv_type=self.kv_type,
            cache_ram=self.cache_ram * MIB,
            speculation=self.speculation,
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_new_tokens,
            max_seconds=self.max_seconds,
        )

    @property
    def logins(self) -> Mapping[str, str]:
        """Names and passwords."""
        return parse_logins(self.auth)

    @property
    def known_as(self) -> tuple[str, ...]:
        """The names of this server, with the one that a Space has on the web."""
        return (*self.hosts, *filter(None, [os.environ.get("SPACE_HOST")]))


SPACE_DISK = Path("/data")  # a Space's persistent storage, where it has one
FILE = "history.sqlite"


def history_file(named: Path | None) -> Path | None:
    """The file, or None to keep them in memory alone, until the app ends."""
    if named is not None:
        return None if str(named) == OFF else named.expanduser()
    if not on_a_space():
        return places.data_folder() / FILE
    return SPACE_DISK / FILE if SPACE_DISK.is_dir() and os.access(SPACE_DISK, os.W_OK) else None


def storage_note(file: Path | None) -> str:
    """What is said about it at the start."""
    return "Conversations are kept " + (f"in {file}" if file else "in memory, until the app ends")
