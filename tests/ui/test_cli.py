"""Flags and GGUF_CHAT_* variables -> AppSettings, and the errors for invalid values."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from engine.config import EngineConfig
from ui.cli import read_settings
from ui.settings import AppSettings, history_file, storage_note


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line of the error."""
    with pytest.raises(SystemExit) as ended:
        read_settings(arguments)
    output = capsys.readouterr().err
    assert ended.value.code == 2 and output.count("\n") == 1 and output.startswith("error: ")
    return output


def test_every_setting_of_the_engine_comes_from_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_CHAT_SPECULATION", "0")
    options = "--context 100 --slots 2 --queue 3 --threads 1 --kv-type q8_0 --cache-ram 5"
    limits = "--max-prompt-tokens 60 --max-new-tokens 7 --max-seconds 1.5"
    assert read_settings(f"{options} {limits}".split()).engine() == EngineConfig(
        context=100,
        slots=2,
        queue=3,
        threads=1,
        kv_type="q8_0",
        cache_ram=5 << 20,
        speculation=False,
        max_prompt_tokens=60,
        max_new_tokens=7,
        max_seconds=1.5,
    )
    assert read_settings([]).engine() == EngineConfig(speculation=False)


def test_a_chat_template_is_a_file_or_a_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (path := tmp_path / "mine.jinja").write_text("{{ messages }}")
    assert read_settings(["--template", str(path)]).template_source == "{{ messages }}"
    assert "<|im_start|>" in read_settings(["--template", "chatml"]).template_source
    assert read_settings([]).template_source == ""
    line = refused(capsys, "--template", "lama3")
    assert line.startswith("error: --template 'lama3' is neither an existing file nor") and "llama3," in line
    assert "### Response:" in read_settings(["--chat-template", "alpaca"]).template_source
    monkeypatch.setenv("GGUF_CHAT_CHAT_TEMPLATE", "zephyr")
    assert "<|endoftext|>" in read_settings([]).template_source
    monkeypatch.setenv("GGUF_CHAT_TEMPLATE", "alpaca")
    assert "### Response:" in read_settings([]).template_source


def test_proxies_are_addresses_and_networks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_settings([]).trusted_proxy == ()
    named = read_settings(["--trusted-proxy", "10.0.0.2", "--trusted-proxy", "fd00::1/8,127.0.0.1"])
    assert named.trusted_proxy == ("10.0.0.2/32", "fd00::/8", "127.0.0.1/32")
    assert "--trusted-proxy" in refused(capsys, "--trusted-proxy", "nginx")
    monkeypatch.setenv("GGUF_CHAT_TRUSTED_PROXY", "10.1.0.0/16")
    assert read_settings([]).trusted_proxy == ("10.1.0.0/16",)
    monkeypatch.setenv("GGUF_CHAT_TRUSTED_PROXY", "*")
    assert "such as 10.0.0.2 or 10.0.0.0/8" in refused(capsys)


def test_a_root_path_is_a_path_or_a_url(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_settings([]).root_path == ""
    for root in ("/chat", "/a/b.c_d~e-f", "https://example.org:8443/chat", "https://example.org"):
        assert read_settings(["--root-path", root]).root_path == root
    assert read_settings(["--root-path", "/"]).root_path == ""
    for root in (
        "chat",
        "/chat/",
        "//a",
        "/a//b",
        "/a b",
        "/a?b",
        "/..",
        "/é",
        "https:///chat",
        "https://a/b?c",
    ):
        line = refused(capsys, "--root-path", root)
        assert line.startswith("error: --root-path (or GGUF_CHAT_ROOT_PATH): write a ") and root in line
    assert "/v1 is a path of the server itself" in refused(capsys, "--root-path", "/v1")
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/gradio/")  # Gradio's own variable takes a slash at the end
    assert read_settings([]).root_path == "/gradio"
    monkeypatch.setenv("GGUF_CHAT_ROOT_PATH", "/ours")
    assert read_settings([]).root_path == "/ours"
    assert read_settings(["--root-path", "/flag"]).root_path == "/flag"


def test_every_option_is_a_variable_and_a_flag_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "MODEL": "a.gguf",
        "CTX": "512",
        "SLOTS": "2",
        "MODELS": "b.gguf, c.gguf",
        "AUTH": "anna:s:x,bert:y",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"GGUF_CHAT_{name}", value)
    settings = read_settings(["--slots", "3", "--hosts", "one", "--hosts", "two"])
    assert (settings.model, settings.context, settings.slots) == (Path("a.gguf"), 512, 3)
    assert settings.models == ("b.gguf", "c.gguf") and settings.hosts == ("one", "two")
    assert settings.logins == {"anna": "s:x", "bert": "y"}
    assert "s:x" not in repr(settings)
    assert read_settings(["--ctx", "256"]).context == 256
    monkeypatch.setenv("GGUF_CHAT_CONTEXT", "128")
    assert read_settings([]).context == 128


def test_help_reads_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    with pytest.raises(SystemExit) as ended:
        read_settings(["--help"])
    output = capsys.readouterr().out
    assert ended.value.code == 0 and max(map(len, output.splitlines())) < 140
    for name in AppSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in output or f"GGUF_CHAT_{name.upper()}" in output, name
    assert "--port N                    0 takes any free one. [7860]" in output
    assert "f16|q8_0|q4_0" in output and "--no-speculation" in output


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("GGUF_CHAT_PROT", "1", "GGUF_CHAT_PROT is no setting: did you mean GGUF_CHAT_PORT?"),
        ("GGUF_CHAT_PORT", "x", "(or GGUF_CHAT_PORT)"),
        ("GGUF_CHAT_CTX", "x", "--context"),
        ("GGUF_CHAT_AUTH", "anna:hunter,bert", "login 2 is not NAME:PASSWORD"),
        ("GGUF_CHAT_AUTH", "anna:hunter,anna:other", "'anna' is there twice"),
    ],
)
def test_a_wrong_variable_is_named_and_no_secret_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    output = refused(capsys)
    assert named in output and "hunter" not in output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prot", "1"], "--prot is no option: did you mean --port?"),
        (["--chat"], "--chat is no option here: for a chat in the terminal run scripts/chat.py"),
        (
            ["a.gguf", "-p", "Who are you?"],
            "-p is no option here: for a chat in the terminal run scripts/chat.py",
        ),
        (["--port", "70000"], "65535, not '70000'"),
        (["--slots", "0"], "--slots (or GGUF_CHAT_SLOTS): use 1 to 64, not '0'"),
        (["--port"], "--port: expected one argument"),
        (["a.gguf", "b.gguf"], "b.gguf"),
        (["--auth", "anna:x"], "--auth is no option"),
    ],
)
def test_a_wrong_flag_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    assert named in refused(capsys, *arguments)


def test_a_space_has_limits_and_an_open_address(monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = read_settings([])
    assert (laptop.host, laptop.requests_per_minute, laptop.answers_at_once) == ("127.0.0.1", 0, 0)
    monkeypatch.setenv("SPACE_ID", "someone/space")
    monkeypatch.setenv("SPACE_HOST", "someone-space.hf.space")
    space = read_settings([])
    assert (space.host, space.requests_per_minute, space.answers_at_once) == ("0.0.0.0", 20, 2)
    assert space.known_as == ("someone-space.hf.space",)


def test_how_long_an_answer_goes_on_without_a_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    default = read_settings([])
    assert (default.detached(own_machine=True), default.detached(own_machine=False)) == (math.inf, 30.0)
    for given, seconds in (("0", 0.0), ("1.5", 1.5), ("inf", math.inf)):
        found = read_settings(["--detached-seconds", given])
        assert found.detached(own_machine=True) == found.detached(own_machine=False) == seconds
    monkeypatch.setenv("GGUF_CHAT_DETACHED_SECONDS", "60")
    assert read_settings([]).detached(own_machine=True) == 60.0
    for wrong in ("-1", "nan", "-inf", "soon"):
        line = refused(capsys, f"--detached-seconds={wrong}")
        assert "--detached-seconds (or GGUF_CHAT_DETACHED_SECONDS)" in line and repr(wrong) in line


def test_without_a_home_conversations_are_in_memory_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    memory, fix = (
        "Conversations are kept in memory, until the app ends, as",
        "set HOME, or name a file with --history",
    )
    assert history_file(None) is None
    assert storage_note(None) == f"{memory} there is no home folder: {fix}"
    assert "there is no such home folder: set HOME" in refused(capsys, "--history", "~/mine.sqlite")
    (file := tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(file))
    assert history_file(None) is None
    assert storage_note(None) == f"{memory} {file}/.local/share/gguf-chat cannot be written: {fix}"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_settings(["--history", "~/mine.sqlite"]).history == Path("~/mine.sqlite")
    assert history_file(Path("~/mine.sqlite")) == tmp_path / "mine.sqlite"
    (folder := tmp_path / ".local/share/gguf-chat").mkdir(parents=True)
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.F_OK and Path(path).exists())
    assert history_file(None) is None
    (folder / "history.sqlite").touch()  # then it is there, and a failure to write it an error
    assert history_file(None) == folder / "history.sqlite"


def test_where_conversations_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert history_file(Path("off")) is None
    assert history_file(tmp_path / "mine.sqlite") == tmp_path / "mine.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history_file(None) == tmp_path / "gguf-chat" / "history.sqlite"
    assert storage_note(None) == f"Conversations are kept in {tmp_path}/gguf-chat/history.sqlite"
    assert storage_note(Path("off")) == "Conversations are kept in memory, until the app ends"
    monkeypatch.setenv("SPACE_ID", "someone/space")
    monkeypatch.setattr("ui.settings.SPACE_DISK", tmp_path)
    assert history_file(None) == tmp_path / "history.sqlite"
    monkeypatch.setattr("ui.settings.SPACE_DISK", tmp_path / "none")
    assert history_file(None) is None
