"""Theme, style sheets and scripts of the pages, and the script that downloads a file.

The style sheets are style.css, conversation.css, figures.css and access.css in ui/static, and that of the
charts; the colours of Gradio's components are set in the theme. accessibility_fixes.js adds what screen
readers miss in them.
"""

from __future__ import annotations

import gradio as gr

from common.scatter import STYLE
from ui.static import STATIC

_SHEETS = ("style.css", "conversation.css", "figures.css", "access.css")
CSS = [*(STATIC / name for name in _SHEETS), STYLE]
FIXES = STATIC / "accessibility_fixes.js"
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Return Gradio's base theme with our colours. Plain `Font`s are never fetched, unlike Google's."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=[gr.themes.Font(name) for name in SANS],
        font_mono=[gr.themes.Font(name) for name in MONO],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary_dark="*neutral_900",
        body_text_color_subdued="*neutral_600",  # Gradio's own is too faint to read: 2.5:1
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0px",
        block_shadow="none",
        block_label_text_size="*text_sm",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_sm",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        input_border_color_dark="*neutral_700",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_950",
        border_color_accent_subdued="*primary_100",
        border_color_accent_subdued_dark="*primary_900",
    )


ADDRESS = "(window.ggufChatAddress ??= Object.fromEntries(new URLSearchParams(location.search)))"
"""In JavaScript: what the page's address asked for when it was opened: `chat`, `q`, `model`."""

File = dict[str, str]
"""A file's `name`, media `type` and `content`: the value of the hidden gr.JSON that `DOWNLOAD` reads."""


DOWNLOAD = """(file) => {
  if (!file) return null;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([file.content], {type: file.type}));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return null;
}"""
