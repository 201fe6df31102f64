"""Theme and scripts of the pages, and the script that downloads a file.

common/tokens.css has the colours, sizes and spacing; Gradio's variables are set to them in the theme. The
style sheets are in the head: see ui/static/look.py. accessibility_fixes.js adds what screen readers miss.
"""

from __future__ import annotations

import gradio as gr

from ui.static import STATIC

FIXES = STATIC / "accessibility_fixes.js"
SANS = ("Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_TEXT = ("12px", "12px", "13px", "15px", "16px", "24px", "24px")  # Gradio's seven steps, five of ours
_RADII = ("8px", "8px", "8px", "12px", "12px", "20px", "20px")
_STEPS = ("xxs", "xs", "sm", "md", "lg", "xl", "xxl")
_COLOURS = {
    "body_background_fill": "page",
    "background_fill_primary": "page",
    "background_fill_secondary": "rail",
    "body_text_color": "text",
    "body_text_color_subdued": "text-soft",
    "block_info_text_color": "text-soft",
    "block_label_text_color": "text-soft",
    "block_title_text_color": "text",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "border_color_accent_subdued": "line",
    "color_accent_soft": "bubble",
    "code_background_fill": "rail",
    "input_background_fill": "raised",
    "input_background_fill_focus": "raised",
    "input_border_color": "line",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "text-soft",
    "link_text_color": "accent",
    "link_text_color_hover": "accent-strong",
    "link_text_color_active": "accent",
    "link_text_color_visited": "accent",
    "slider_color": "accent",
    "checkbox_background_color": "raised",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "text-soft",
    "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "raised",
    "checkbox_label_background_fill_hover": "bubble",
    "checkbox_label_background_fill_selected": "bubble",
    "checkbox_label_border_color": "line",
    "checkbox_label_text_color_selected": "text",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent-strong",
    "button_primary_text_color": "on-accent",
    "button_secondary_background_fill": "raised",
    "button_secondary_background_fill_hover": "bubble",
    "button_secondary_border_color": "line",
    "button_secondary_border_color_hover": "line",
    "button_secondary_text_color": "text",
}
"""Gradio's variables and the tokens they take, in light and dark: a token has both colours."""


def theme() -> gr.themes.Base:
    """Return Gradio's base theme with our tokens. Plain `Font`s are never fetched, unlike Google's."""
    light = {name: f"var(--{token})" for name, token in _COLOURS.items()}
    built = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.Size(**dict(zip(_STEPS, _RADII, strict=True)), name="radius"),
        text_size=gr.themes.sizes.Size(**dict(zip(_STEPS, _TEXT, strict=True)), name="text"),
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    )
    return built.set(
        **light,
        **{f"{name}_dark": value for name, value in light.items() if hasattr(built, f"{name}_dark")},
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0px",
        block_shadow="none",
        block_label_text_size="*text_sm",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_xs",
        input_border_width="1px",
        button_border_width="1px",
    )


ADDRESS = "(window.ggufChatAddress ??= Object.fromEntries(new URLSearchParams(location.search)))"
"""In JavaScript: what the page's address asked for when it was opened: `chat`, `q`, `model`."""

File = dict[str, str]
"""A file's `name`, media `type` and `content`: the value of the hidden gr.JSON that `DOWNLOAD` reads."""


DOWNLOAD = "(file) => { if (file) window.ggufChat.download(file); return null; }"
