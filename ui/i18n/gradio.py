"""Texts of components, which Gradio translates in the browser: a component is built once for all visitors.

Gradio looks at strings alone that reach a component as label, info, placeholder, value, submit_btn or as the
words of a choice, and at one text in each. The examples of a Chatbot and the page's title are not looked at:
what they say is sent by an event (`page.load`) with the `words` of its request.
"""

from __future__ import annotations

import gradio as gr
from gradio.i18n import I18nData

from ui.i18n.words import LANGUAGES, translations

I18N = gr.I18n(**{language: dict(translations(language)) for language in LANGUAGES})


def text(key: str) -> I18nData:
    """The text of a component. An unknown key is a KeyError, and nothing that a visitor sees."""
    if key not in translations("en"):
        raise KeyError(key)
    return I18N(key)
