"""Gradio is imported without generating its type stubs."""

from __future__ import annotations

from gradio import blocks_events, component_meta


def test_nothing_is_written_for_editors() -> None:
    assert component_meta.create_or_modify_pyi.__module__ == "ui.gradio_patches"
    assert blocks_events.create_or_modify_pyi is component_meta.create_or_modify_pyi
