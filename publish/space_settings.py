"""A Space's variables and secrets: read from the command line, checked as the app will, set one by one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from common.chat_templates import template_names
from common.shard_names import ADAPTER_SEPARATOR
from publish.refusals import PublishError
from ui.cli import ALIASES
from ui.settings import ENV_PREFIX, OTHER_VARIABLES, AppSettings

if TYPE_CHECKING:
    from huggingface_hub import HfApi, SpaceVariable

MODEL = f"{ENV_PREFIX}MODEL"
TOKEN = "HF_TOKEN"
MARK = "Set by gguf-chat publish space"
"""The description of the variables that were set here, and which alone are removed again."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_OURS = {
    MODEL: "is what --model sets",
    f"{ENV_PREFIX}HOST": "would hide the app from the Space",
    f"{ENV_PREFIX}PORT": "would hide the app from the Space, which looks for it at 7860",
}
_FIELDS = AppSettings.model_fields
_SECRETS = {TOKEN, *(f"{ENV_PREFIX}{n.upper()}" for n, f in _FIELDS.items() if f.annotation is SecretStr)}


class _OfTheSpace(AppSettings):
    """The app's settings, without what this machine's environment says of them."""

    model_config = SettingsConfigDict(env_prefix="GGUF_CHAT_OF_NO_ENVIRONMENT_")


def read_variables(texts: Sequence[str], secrets: Collection[str] = ()) -> dict[str, str]:
    """Return the variables of "NAME=VALUE" texts.

    Raises PublishError for one that the app would refuse, and for one with a token or one of `secrets` in it.
    """
    variables: dict[str, str] = {}
    for text in texts:
        name, is_given, value = text.partition("=")
        if not is_given:
            raise PublishError(f"--variable{_shown(text)} has no value: write NAME=VALUE")
        _check_name("--variable", name, variables)
        if (
            name.upper() in _SECRETS
            or "TOKEN" in name.upper()
            or _HUB_TOKEN.search(value)
            or any(secret in value for secret in secrets)
        ):
            raise PublishError(
                f"--variable {name}: everybody can read a Space's variables, use --secret {name}"
            )
        if reason := _OURS.get(name.upper()):
            raise PublishError(f"--variable {name} {reason}: leave it out")
        _check_setting(f"--variable {name}", name, value)
        variables[name] = value
    return variables


def read_secrets(texts: Sequence[str], environment: Mapping[str, str], token: str | None) -> dict[str, str]:
    """Return the secrets of "NAME=VALUE" texts, or of "NAME" with the environment's value.

    HF_TOKEN without a value is `token`, that of the login. Raises PublishError, with no value in its message.
    """
    secrets: dict[str, str] = {}
    for text in texts:
        name, is_given, value = text.partition("=")
        _check_name("--secret", name if is_given or _NAME.fullmatch(name) else "", secrets)
        if not is_given:
            value = environment.get(name) or (token or "" if name == TOKEN else "")
        if not value.strip():
            raise PublishError(
                f"--secret{_shown(name)} has no value: set the variable of that name here, where it is read"
            )
        _check_setting(f"--secret {name}", name, value)
        secrets[name] = value
    return secrets


def _check_name(option: str, name: str, before: Mapping[str, str]) -> None:
    if not _NAME.fullmatch(name):
        raise PublishError(
            f"{option}{_shown(name)} does not begin with a name: use letters, digits and _, as in NAME=VALUE"
        )
    if name in before:
        raise PublishError(f"{option} {name} is there twice: give it once")


def _shown(name: str) -> str:
    """Return a text of the command line after a space; nothing of a token that stands where a name should."""
    return f" {name!r}" if name and not name.startswith("hf_") else ""


def _check_setting(option: str, name: str, value: str) -> None:
    """Refuse a GGUF_CHAT_* variable with which the app in the Space would not start."""
    if not name.upper().startswith(ENV_PREFIX) or name in OTHER_VARIABLES:
        return
    if name != name.upper():
        raise PublishError(f"{option}: write the name of a setting in capitals, {name.upper()}")
    field = name.removeprefix(ENV_PREFIX).lower()
    field = ALIASES.get(field, field)
    if field not in _FIELDS:
        raise PublishError(f"{option} is no setting of the app: `python app.py --help` lists them")
    if not value:
        return  # as if it were not set
    if _is_here(field, value):
        raise PublishError(f"{option}: {value!r} is a path here, and the Space has no such file")
    try:
        _OfTheSpace.model_validate({field: value})
    except ValidationError as error:
        reason = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
        shown = "" if name in _SECRETS else f", not {value!r}"
        raise PublishError(f"{option}: {reason.removeprefix('Value error, ')}{shown}") from None


def _is_here(field: str, value: str) -> bool:
    """Return whether a setting names a file of this machine."""
    if field == "template":
        return value.strip() not in template_names() and Path(value).exists()
    paths = (part.rpartition("=")[2].partition(ADAPTER_SEPARATOR)[0].strip() for part in value.split(","))
    return field == "models" and any(path and Path(path).exists() for path in paths)


def set_variables(api: HfApi, repository: str, wanted: Mapping[str, str]) -> list[str]:
    """Set what differs and remove what was set here before and is not wanted. Returns a line for each change.

    Each change restarts a Space that runs. Raises the Hub's errors.
    """
    return _change_variables(api, repository, {name: (value, MARK) for name, value in wanted.items()})


def restore_variables(api: HfApi, repository: str, before: Mapping[str, SpaceVariable]) -> list[str]:
    """Undo `set_variables`, given what was there. Returns a line for each change. Raises the Hub's errors."""
    wanted = {name: (variable.value, variable.description) for name, variable in before.items()}
    return _change_variables(api, repository, wanted)


def _change_variables(api: HfApi, repository: str, wanted: Mapping[str, tuple[str, str | None]]) -> list[str]:
    """Set values with their descriptions, and remove variables with our description that are not wanted."""
    present = api.get_space_variables(repository)
    changes = []
    for name, (value, description) in wanted.items():
        if name not in present or present[name].value != value:
            api.add_space_variable(repository, name, value, description=description)
            changes.append(f"variable {name} = {value}")
    for name, variable in present.items():
        if name not in wanted and variable.description == MARK:
            api.delete_space_variable(repository, name)
            changes.append(f"variable {name} removed")
    return changes


def set_secrets(api: HfApi, repository: str, wanted: Mapping[str, str]) -> list[str]:
    """Set secrets, whose present values nobody can read, and return a line for each, without its value.

    Raises the Hub's errors.
    """
    for name, value in wanted.items():
        api.add_space_secret(repository, name, value, description=MARK)
    return [f"secret {name} set" for name in wanted]


def secret_names(api: HfApi, repository: str) -> set[str]:
    """Return the names of a Space's secrets. Raises the Hub's errors."""
    return set(api.get_space_secrets(repository))
