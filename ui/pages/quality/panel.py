"""The page /quality: the certificate of a model, and a look into its file."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from common.certificate import NAME, Certificate, load_certificate
from common.errors import InputError, UserError
from engine.errors import ModelError
from ggufio.shards import whole_name
from ui.auth.identity import on_own_machine
from ui.i18n.words import Translator, text, translator
from ui.models.registry import Models
from ui.models.weights_hash import cached_hashes
from ui.pages.inspect.panel import ONE_AT_A_TIME, InspectPanel, Updates
from ui.pages.quality import view
from ui.pages.quality.view import charts
from ui.render.status import error_line, line
from ui.render.tables import paragraph


class QualityPanel:
    """The page's components and events."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._kept = gr.BrowserState(None, storage_key="gguf-chat.model", secret="gguf-chat")
        self._model = gr.Dropdown(
            models.catalog.choices(own_machine=False),
            value=models.pool.default,
            label=text("models.label"),
            elem_id="quality-model",
        )
        self._note = gr.HTML(line(""), padding=False, elem_id="status")
        with gr.Tabs(elem_id="quality-tabs"):
            with gr.Tab(text("quality.tab")):
                self._verdict = gr.HTML(padding=False, elem_id="quality-verdict")
                self._files = gr.HTML(padding=False, elem_id="quality-files")
            with gr.Tab(text("inspect.tab")):
                self._inspect = InspectPanel()
        own = [self._model, self._note, self._verdict, self._files]
        self._outputs = [*own, *self._inspect.outputs]

    def wire(self, page: gr.Blocks) -> None:
        """Connect the events; the page begins with the model that this browser last chose in the chat."""
        page.load(self._opened, [self._kept], self._outputs, **ONE_AT_A_TIME)
        self._model.input(self._show, [self._model], self._outputs, **ONE_AT_A_TIME)
        self._inspect.wire(self._model, self._file)

    def _opened(self, request: gr.Request, kept: object) -> Updates:
        own = on_own_machine(request)
        key = kept if self._models.catalog.allows(kept, own) else self._models.pool.default
        choices = self._models.catalog.choices(own)
        return self._show(request, key) | {self._model: gr.update(choices=choices, value=key)}

    def _show(self, request: gr.Request, key: object) -> Updates:
        t = translator(request)
        try:
            path = self._file(request, key)
            seen = self._inspect.updates(path, t)
        except UserError as error:
            nothing = self._without_figures("") | self._inspect.empty()
            return nothing | {self._note: error_line(error, t=t)}
        return {self._note: line(""), **self._certified(path, t), **seen}

    def _file(self, request: gr.Request, key: object) -> Path:
        """Return the file of a model that this visitor may use. Raises ModelError."""
        if not self._models.catalog.allows(key, on_own_machine(request)):
            raise ModelError(f"model {str(key)[:80]!r} is not offered here: choose one of the list")
        path = self._models.file(str(key))
        if path is None:
            raise ModelError(translator(request)("quality.remote"))
        return path

    def _certified(self, path: Path, t: Translator) -> Updates:
        """Show the certificate beside the file, or why there is none."""
        try:
            certificate = load_certificate(path.with_name(NAME), strict=False)
        except InputError as error:
            broken = paragraph(t("quality.broken", reason=error), "verdict warn")
            return self._without_figures(broken + view.how(path.name, t))
        if certificate is None:
            return self._without_figures(paragraph(t("quality.none"), "verdict") + view.how(path.name, t))
        about = view.verdict(path.name, certificate, _hashes(path, certificate), t)
        if certificate.entry(path.name) is None:
            return self._without_figures(about)
        figures = view.file_figures(certificate, path.parent)
        return {
            self._verdict: about + view.findings(certificate.about(path.name), t),
            self._files: view.files_table(figures, t)
            + view.advice(certificate, path.parent, t)
            + charts(figures, whole_name(path.name), t)
            + view.tried_charts(certificate, t),
        }

    def _without_figures(self, why: str) -> Updates:
        return {self._verdict: why, self._files: ""}


def _hashes(path: Path, certificate: Certificate) -> dict[str, str]:
    """Return the SHA-256 of each of the model's files; {} when the certificate is about other files."""
    if certificate.entry(path.name) is None:
        return {}
    try:
        return cached_hashes(path)
    except OSError:
        return {}
