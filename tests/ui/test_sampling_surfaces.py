"""Each row of the table of sampling parameters reaches every surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gradio_client import Client
from starlette.testclient import TestClient
from typer.testing import CliRunner

from engine.config import SAMPLING_FIELDS, SamplingField, SamplingParams
from engine.serving.backend import LlamaBackend
from tests.ui.conftest import FakeSite
from tests.ui.fake_backend import INFO, FakeBackend
from tests.ui.openai.test_openai_api import HELLO, URL, service
from ui.generation.answering import start_generation
from ui.i18n.words import LANGUAGES, translations
from ui.pages.settings_panel import NAMES, SettingsPanel, built
from ui.sampling import ModelSettings
from ui.terminal import cli as chat
from ui.terminal.chat import changed

rows = pytest.mark.parametrize("row", SAMPLING_FIELDS, ids=lambda row: row.name)


def another(row: SamplingField) -> Any:
    """Return a valid value that is not the default."""
    return row.type(row.low if row.low != row.default else row.high)


@rows
def test_the_page_has_a_control_that_the_browser_remembers(row: SamplingField) -> None:
    first = ModelSettings(4096)
    assert row.name in [field["name"] for field in built(NAMES, first)["fields"]]
    values = {**first.defaults(), row.name: another(row)}
    _, sampling = SettingsPanel.read([values[name] for name in NAMES])
    assert sampling == SamplingParams(**{row.name: another(row)})


@rows
def test_the_page_names_it_in_every_language(row: SamplingField) -> None:
    for language in LANGUAGES:
        assert {f"settings.{row.name}", f"settings.{row.name}.info"} <= set(translations(language))


@rows
def test_presets_set_it_unless_its_row_says_otherwise(row: SamplingField) -> None:
    for recommended in ({}, {"temperature": 0.5}):
        for values in ModelSettings(4096, recommended).presets().values():
            assert (row.name in values) is row.in_presets


@rows
def test_openais_api_takes_it(row: SamplingField) -> None:
    backend = FakeBackend()
    body = {"messages": HELLO, "max_tokens": 100, row.name: another(row)}
    assert TestClient(service(backend)).post(URL, json=body).status_code == 200
    assert backend.asked[0][1] == SamplingParams(**{"max_tokens": 100, row.name: another(row)})


def test_gradios_api_takes_all_and_appends_new_ones(fake_site: Callable[..., FakeSite]) -> None:
    site = fake_site(FakeBackend())
    client = Client(site.url, verbose=False)
    endpoint = client.view_api(return_format="dict")["named_endpoints"]["/chat"]
    names = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
    before = ["message", "history", "system_prompt", "temperature", "max_tokens", "repeat_penalty"]
    before += ["top_p", "top_k", "min_p", "seed"]
    assert names[: len(before)] == before
    assert names[3:] == [row.name for row in SAMPLING_FIELDS]
    for row in SAMPLING_FIELDS:
        client.predict("hello", **{row.name: another(row)}, api_name="/chat")
        assert site.backend.asked[-1][1] == SamplingParams(**{row.name: another(row)})


@rows
def test_the_terminal_sets_it(row: SamplingField, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    monkeypatch.setattr(LlamaBackend, "open", lambda *_: backend)
    option = f"--{row.name.replace('_', '-')}"
    done = CliRunner().invoke(chat.cli, ["-p", "hello", option, str(another(row))])
    assert done.exit_code == 0, done.stderr
    expected = SamplingParams(**{row.name: another(row)})
    assert backend.asked[0][1] == expected
    assert changed(SamplingParams(), row.name, str(another(row))) == expected


@rows
def test_a_message_records_it(row: SamplingField) -> None:
    made = start_generation(INFO, "", SamplingParams(**{row.name: another(row)}))
    assert made.sampling[row.name] == another(row)
