"""A user's own presets in the settings: kept in the browser by name, applied, exported and imported there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.i18n.words import translations, translator
from ui.static import STATIC

_KEYS = (
    *("label", "list", "none", "remove", "name", "save"),
    *("import", "export", "kept", "not_kept", "read", "not_read"),
)
_IN_BROWSER: dict[str, Any] = {"fn": None, "api_visibility": "private"}


class Presets:
    """The component; `wire` connects it to the settings."""

    def __init__(self) -> None:
        self._box = gr.HTML(
            None,
            html_template=(STATIC / "presets.html").read_text(encoding="utf-8"),
            js_on_load=(STATIC / "presets.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="presets",
        )

    def wire(
        self,
        page: gr.Blocks,
        names: Sequence[str],
        controls: Sequence[gr.components.Component],
        outputs: Sequence[gr.components.Component],
        restored: str,
    ) -> Any:
        """Connect the events; return the one that applies a preset.

        `names` are the settings' names in the order of `controls`. `outputs` are the preset's choice and the
        controls, for the values of `restored`: a JS function (values by name) -> values for the outputs.
        """
        named = f"Object.fromEntries({list(names)}.map((name, i) => [name, values[i]]))"
        kept = f"(...values) => {{ window.ggufChatPresets.keep({named}); return []; }}"
        self._box.keep(inputs=list(controls), js=kept, **_IN_BROWSER)
        chosen = f"() => ({restored})(window.ggufChatPresets.chosen())"
        page.load(_texts, None, [self._box], queue=False, show_progress="hidden", api_visibility="private")
        return self._box.apply(outputs=list(outputs), js=chosen, **_IN_BROWSER)


def _texts(request: gr.Request) -> dict[str, str]:
    texts = translations(translator(request).language)
    return {key: texts[f"presets.{key}"] for key in _KEYS}
