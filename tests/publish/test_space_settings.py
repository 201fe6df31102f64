"""The variables and secrets of a Space: which are taken, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from publish.space_settings import read_secrets, read_variables


def test_a_path_of_this_machine_is_no_setting_of_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jinja", "mine.gguf"):
        (tmp_path / name).write_text("{{ messages }}")
    for text in ("TEMPLATE=mine.jinja", "MODELS=you/bob,Mine=mine.gguf::lora.gguf"):
        with pytest.raises(InputError, match="is a path here, and the Space has no such file"):
            read_variables([f"GGUF_CHAT_{text}"])
    assert read_variables(["GGUF_CHAT_TEMPLATE=chatml", "GGUF_CHAT_MODELS=you/bob,Bob=you/bob/b.gguf,"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("GGUF_CHAT_SLOTS=0", "--variable GGUF_CHAT_SLOTS: use 1 to 64, not '0'"),
        ("GGUF_CHAT_SLOT=2", "--variable GGUF_CHAT_SLOT is no setting of the app"),
        ("gguf_chat_slots=2", "write the name of a setting in capitals, GGUF_CHAT_SLOTS"),
        ("gguf_chat_auth=a:canary", "use --secret gguf_chat_auth"),
        ("Gguf_Chat_Port=80", "looks for it at 7860"),
        ("GGUF_CHAT_MODEL=x", "is what --model sets"),
        ("GGUF_CHAT_PORT=80", "looks for it at 7860"),
        ("HF_TOKEN=hf_canary", "use --secret HF_TOKEN"),
        ("NOTE=ask hf_canary", "use --secret NOTE"),
        (f"NOTE=hf_canary{'a' * 30}", "use --secret NOTE"),
        ("GGUF_CHAT_AUTH=a:canary", "use --secret GGUF_CHAT_AUTH"),
        ("A-B=1", "--variable 'A-B' does not begin with a name"),
        ("hf_canary", "--variable has no value"),
    ],
)
def test_a_variable_with_which_the_app_would_not_start_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        read_variables([text], ["hf_canary"])
    assert wanted in str(caught.value) and "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("GGUF_CHAT_AUTH=canary", "--secret GGUF_CHAT_AUTH: login 1 is not NAME:PASSWORD"),
        ("GGUF_CHAT_API_KEY", "--secret 'GGUF_CHAT_API_KEY' has no value"),
        ("GGUF_CHAT_API_KEY= ", "--secret 'GGUF_CHAT_API_KEY' has no value"),
        ("gguf_chat_api_key=canary", "in capitals, GGUF_CHAT_API_KEY"),
        ("hf_canary", "--secret has no value"),
        ("hf-canary", "--secret does not begin with a name"),
    ],
)
def test_a_secret_that_is_wrong_is_not_shown(text: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        read_secrets([text], {}, None)
    assert wanted in str(caught.value) and "canary" not in str(caught.value)


def test_secrets_come_from_the_environment_and_the_token_from_the_login() -> None:
    environment = {"GGUF_CHAT_AUTH": "anna:x"}
    assert read_secrets(["GGUF_CHAT_AUTH", "HF_TOKEN", "KEY=a=b"], environment, "hf_login") == {
        "GGUF_CHAT_AUTH": "anna:x",
        "HF_TOKEN": "hf_login",
        "KEY": "a=b",
    }
