from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.tiny_gguf import write_model
from engine.llama.model import Model
from pipeline.certificate.checks.template import compare_templates
from pipeline.tokenizers.reference import TokenizerReference

REFERENCE = TokenizerReference([], {}, False, (), (), True, (), None)
PARTS = "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text }}{% endfor %}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path: Path = write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    with closing(Model(path, vocab_only=True)) as model:
        yield model


def test_words_that_do_not_reach_the_prompt_fail(model: Model) -> None:
    (found,) = compare_templates(REFERENCE, "{{ messages[0].role }}", model.vocab, "the base's")
    assert (found.name, found.status) == ("template.words", "fail")
    assert found.figures == {"lost": ["assistant", "user"], "origin": "the base's"}
    assert found.summary.startswith(
        "what the user says does not reach the prompt, nor what the assistant says: "
    )
    assert "--template FILE|NAME" in found.cause


@pytest.mark.parametrize(("source", "parts"), [("chatml", []), (PARTS, ["assistant", "system", "user"])])
def test_whose_template_it_is_and_how_it_takes_messages(model: Model, source: str, parts: list[str]) -> None:
    origin = "llama.cpp's built-in 'chatml'"
    found = next(iter(compare_templates(REFERENCE, source, model.vocab, origin)))
    assert (found.name, found.status) == ("template.words", "pass")
    assert found.figures == {"lost": [], "parts": parts, "system": "anywhere", "origin": origin}
    assert found.summary.endswith("The template is llama.cpp's built-in 'chatml'.")
