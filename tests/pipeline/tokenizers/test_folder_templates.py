"""Chat templates in their several forms, as AutoTokenizer reads them and the converter carries them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import SpecialVocab
from transformers import AutoTokenizer

from common.chat_templates import GivenTemplate, expand_name
from pipeline.data.chat_template import set_template
from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.tokenizers.folder_templates import read_templates
from pipeline.tokenizers.select import (
    StagedCheckpoint,
    choose_tokenizer,
    reject_unknown_name,
    stage_checkpoint,
    stage_template,
)
from tests.pipeline.chatml import CHATML, byte_tokenizer

MINE = "{% for m in messages %}[[{{ m.role }}]] {{ m.content }}{% endfor %}"
TOOLS = MINE + "{# tools #}"
LIST = [{"name": "default", "template": MINE}, {"name": "tool_use", "template": TOOLS}]


def write(folder: Path, config: Any = None, files: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        path = folder / "tokenizer_config.json"
        old = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**old, "chat_template": config}))
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_name_that_llama_cpp_lacks_is_refused_unless_another_source_has_a_template(tmp_path: Path) -> None:
    unknown, known, jinja, without = (
        Source(name, write(tmp_path / name, text), None)
        for name, text in (("unknown", " lama3\n"), ("known", "llama3"), ("jinja", MINE), ("without", None))
    )
    for sources in ([known], [jinja], [without], [unknown, jinja], [unknown, known, without]):
        reject_unknown_name(sources)
    for sources in ([unknown], [unknown, without], [jinja, unknown]):
        with pytest.raises(InputError, match=r"^'unknown': the chat template 'lama3' .*, with --template"):
            reject_unknown_name(sources)


@pytest.mark.parametrize("form", ["text", "list", "files", "processor"])
def test_a_given_template_is_the_only_one_of_a_reference(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "reference"
    byte_tokenizer().save_pretrained(folder)
    processor = {"chat_template.json": json.dumps({"chat_template": MINE})}
    write(folder, *FORMS.get(form, (None, processor)))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    stage_template(folder, GivenTemplate(CHATML, "the file chatml.jinja"), tmp_path / "staged")
    assert read_templates(tmp_path / "staged").default == CHATML
    assert not read_templates(tmp_path / "staged").named
    assert AutoTokenizer.from_pretrained(tmp_path / "staged").chat_template == CHATML
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


FORMS: dict[str, tuple[Any, dict[str, str]]] = {
    "text": (MINE, {}),
    "list": (LIST, {}),
    "object": ({"default": MINE, "tool_use": TOOLS}, {}),
    "file": (None, {"chat_template.jinja": MINE}),
    "file before text": (TOOLS, {"chat_template.jinja": MINE}),
    "files": (
        None,
        {"chat_template.jinja": MINE, "additional_chat_templates/tool_use.jinja": TOOLS},
    ),
    "files before list": (
        [{"name": "rag", "template": TOOLS}],
        {"chat_template.jinja": MINE, "additional_chat_templates/tool_use.jinja": TOOLS},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_template_is_that_of_transformers(form: str, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    read = read_templates(write(tmp_path, *FORMS[form]))
    own = AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert {"default": read.default, **dict(read.named)} == (
        own if isinstance(own, dict) else {"default": own}
    )
    assert read.default == MINE


def test_a_processors_template_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path, None, {"chat_template.json": json.dumps({"chat_template": MINE})})
    assert read_templates(tmp_path).default == MINE
    assert read_templates(write(tmp_path, TOOLS)).default == TOOLS


@pytest.mark.parametrize(
    "config",
    [
        5,
        [MINE],
        [{"name": "default"}],
        {"default": 5},
        [{"name": name, "template": ""} for name in ("a b", "a-b")],
    ],
)
def test_another_form_is_refused_by_name(config: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(transformers cannot read|'a_b': give each)"):
        read_templates(write(tmp_path, config))


def staged(
    tmp_path: Path,
    adapter: tuple[Any, dict[str, str]] | None,
    given: GivenTemplate | None = None,
    base: Any = CHATML,
) -> StagedCheckpoint:
    (tmp_path / "base").mkdir()
    byte_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    (tmp_path / "base" / "config.json").write_text("{}")
    write(tmp_path / "base", base)
    adapters = []
    if adapter is not None:
        adapters = [Adapter(Source("mine", write(tmp_path / "mine", *adapter), None), {}, {})]
    (tmp_path / "scratch").mkdir()
    return stage_checkpoint(
        Source("base", tmp_path / "base", None), adapters, {}, tmp_path / "scratch", given
    )


@pytest.mark.parametrize("form", FORMS)
def test_an_adapters_template_reaches_the_converter_and_the_certificate(form: str, tmp_path: Path) -> None:
    checkpoint = staged(tmp_path, FORMS[form])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    set_template(tokenizer)
    assert tokenizer.chat_template == MINE
    carried = SpecialVocab(checkpoint.folder).chat_template
    has_named = bool(read_templates(tmp_path / "mine").named)
    assert carried == (LIST if has_named else MINE)
    assert checkpoint.template_origin == "the adapter's"
    assert checkpoint.notes[0] == "the chat template is the adapter's ('mine'), which differs from the base's"
    carried_note = "the adapter's chat templates tool_use ('mine') are carried under their names"
    assert (carried_note in checkpoint.notes) == has_named


def test_a_template_that_is_given_goes_before_all_others(tmp_path: Path) -> None:
    given = GivenTemplate(TOOLS, "the file x.jinja")
    checkpoint = staged(tmp_path, FORMS["list"], given)
    assert SpecialVocab(checkpoint.folder).chat_template == TOOLS
    assert checkpoint.template_origin == "the file x.jinja"
    assert checkpoint.notes[-1] == (
        "the chat template is the file x.jinja (--template), in place of the model's own, "
        "and the templates tool_use are not carried"
    )


def test_a_base_without_any_tokenizer_settings_gets_a_given_one(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    base = Source("base", tmp_path / "base", None)
    (tmp_path / "scratch").mkdir()
    folder = stage_checkpoint(base, (), {}, tmp_path / "scratch", GivenTemplate(MINE, "x")).folder
    assert SpecialVocab(folder).chat_template == MINE
    assert not (base.folder / "tokenizer_config.json").exists()


@pytest.mark.parametrize("base", [LIST, {"default": MINE}, "chatml"])
def test_a_bases_own_form_becomes_one_that_everything_reads(base: Any, tmp_path: Path) -> None:
    checkpoint = staged(tmp_path, None, base=base)
    expected = {str: expand_name("chatml"), list: LIST, dict: MINE}[type(base)]
    assert SpecialVocab(checkpoint.folder).chat_template == expected
    assert (checkpoint.folder == tmp_path / "base") == isinstance(base, list), "copied only where it must be"
    named = "the chat template of 'base' is the name 'chatml': llama.cpp's built-in one is carried"
    assert checkpoint.notes == ((named,) if base == "chatml" else ())


def test_an_adapter_with_named_templates_only_is_told(tmp_path: Path) -> None:
    adapter = Adapter(Source("mine", write(tmp_path / "mine", LIST[1:]), None), {}, {})
    chosen = choose_tokenizer(Source("base", write(tmp_path / "base", MINE), None), [adapter], None)
    assert chosen.template is None and chosen.named == (("tool_use", TOOLS),)
    assert "has no chat template of the name default: give one by --template" in "\n".join(chosen.notes)
