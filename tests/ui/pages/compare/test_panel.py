"""The Compare page without a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr

from engine.serving.model_pool import ModelPool
from tests.ui.conftest import until
from tests.ui.fake_backend import INFO, FakeBackend
from ui.generation.sessions import ActiveStreams
from ui.generation.side_by_side import Column
from ui.i18n.words import ENGLISH
from ui.models.catalog import Catalog
from ui.models.files import catalog_entry
from ui.models.registry import Models
from ui.pages.compare.panel import ComparePanel
from ui.pages.settings_panel import SettingsPanel


def test_a_model_whose_file_changed_in_use_is_named_unless_the_comparison_is_blind(tmp_path: Path) -> None:
    files = [tmp_path / "bob-Q4_0.gguf", tmp_path / "eve-Q4_0.gguf"]
    for file in files:
        file.write_bytes(b"GGUF")
    catalog = Catalog([catalog_entry(file) for file in files])
    backends = {file.stem: FakeBackend(info=replace(INFO, path=str(file))) for file in files}
    models = Models(catalog, ModelPool(lambda key, _: backends[key], catalog.keys(), "bob-Q4_0"))
    with gr.Blocks():
        panel = ComparePanel(models, ActiveStreams(), SettingsPanel(2048))
    answers = [Column(key, stopped=True) for key in sorted(backends)]
    for answer in answers:
        with models.pool.use(answer.key) as backend:
            until(lambda backend=backend: models.hashes.of(backend))
    assert "eve" not in panel._shown(answers, blind=False, turns=False, t=ENGLISH)[2]
    files[1].write_bytes(b"GGUF of another model")
    assert "eve-Q4_0.gguf" in panel._shown(answers, blind=False, turns=False, t=ENGLISH)[2]
    assert "eve-Q4_0.gguf" not in panel._shown(answers, blind=True, turns=False, t=ENGLISH)[2]
