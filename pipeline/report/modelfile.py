"""A Modelfile for `ollama create`: the file, its chat template in Go's words, and where an answer ends.

See github.com/ollama/ollama, docs/modelfile.md and docs/template.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.report.turns import Turns

_PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


def modelfile(file: str, turns: Turns | None, ends: Sequence[str], recommended: Mapping[str, float]) -> str:
    """The text of a Modelfile for a GGUF that lies beside it.

    `ends` are the spellings of the tokens that end an answer. Without `turns`, Ollama is left to recognize
    the template that the GGUF carries.
    """
    lines = [f"FROM ./{Path(file).name}"]
    lines += [f'TEMPLATE """{go_template(turns)}"""'] if turns else []
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends]
    lines += [
        f"PARAMETER {_PARAMETERS[name]} {value:g}"
        for name, value in recommended.items()
        if name in _PARAMETERS
    ]
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """The strings as a template over Ollama's `.System` and `.Messages`.

    All text stands in quoted strings, as `{{-` would eat white space beside it.
    """
    say = {name: _quoted(value) for name, value in vars(turns).items()}
    return (
        f"{{{{- if .System }}}}{say['before_system']}{{{{ .System }}}}{say['after_system']}"
        f"{{{{- else }}}}{say['alone']}{{{{- end }}}}"
        '{{- range .Messages }}{{- if eq .Role "user" }}{{ .Content }}'
        f"{say['after_user']}"
        '{{- else if eq .Role "assistant" }}{{ .Content }}'
        f"{say['after_assistant']}"
        "{{- end }}{{- end }}"
    )


def _quoted(text: str) -> str:
    """A string of Go's inside an action; Go reads JSON's escapes; `"` thrice would end the TEMPLATE."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
