"""The shield beside the model's name: how much of the tuning its certificate says was kept."""

from __future__ import annotations

from common.certificate import NAME, load_certificate
from common.errors import InputError
from ui.i18n.words import Translator
from ui.models.registry import Models
from ui.render.html import html
from ui.render.tables import percent


def shield(models: Models, key: str, t: Translator, *, adapter: bool = False) -> str:
    """Render the shield, a link to /quality; "" without a certificate that has measured this very model.

    With an `adapter` it is another model than its file, and a file that has changed is not the measured one.
    """
    path = models.file(key)
    if path is None or adapter or models.change(key) is not None:
        return ""
    try:
        certificate = load_certificate(path.with_name(NAME), strict=False)
    except (InputError, OSError):
        return ""
    entry = certificate.entry(path.name) if certificate else None
    found = certificate.finding("survival", path.name) if certificate else None
    kept = found.figure("kept", "value") if found else None
    if entry is None or kept is None:
        return ""
    share = percent(kept, t)
    before, _, after = t("shield.kept", share="\n").partition("\n")
    return html(
        "<a class='shield {{ status }}' href='quality' title='{{ title }}' aria-label='{{ words }}'>"
        "<span><span class='words'>{{ before }}</span>{{ share }}"
        "<span class='words'>{{ after }}</span></span></a>",
        status=entry.status,
        title=t("shield.title"),
        words=t("shield.kept", share=share),
        before=before,
        share=share,
        after=after,
    )
