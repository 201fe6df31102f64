"""The token that ends a turn ends an answer in llama.cpp and in the engine, although it is not the EOS."""

from __future__ import annotations

import copy
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.config import EngineConfig
from engine.llama.model import Model
from engine.serving.backend import LlamaBackend
from ggufio.summary import summarize
from pipeline.convert.stop_token import add_stop_token
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from tests.engine.helpers import ask, user
from tests.pipeline.convert.tiny_folders import FILES, TOKENS, base_tensors

DONE = len(TOKENS) - 1
TEMPLATE = (
    "{% for m in messages %}{{ m.role + ':' + m.content + '<|done|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that answers "Yes" and the token <|done|>, of which llama.cpp knows nothing."""
    folder = tmp_path_factory.mktemp("stops") / "chain"
    folder.mkdir()
    files = copy.deepcopy(FILES)
    vocabulary = files["base/tokenizer.json"]["model"]["vocab"]
    del vocabulary[TOKENS[DONE]]
    vocabulary["<|done|>"] = DONE
    done = {**files["base/tokenizer.json"]["added_tokens"][2], "id": DONE, "content": "<|done|>"}
    files["base/tokenizer.json"]["added_tokens"].append(done)
    files["base/tokenizer_config.json"].pop("chat_template")
    files["base/tokenizer_config.json"]["added_tokens_decoder"][str(DONE)] = done
    for name, content in files.items():
        if name.startswith("base/"):
            (folder / name.removeprefix("base/")).write_text(json.dumps(content))
    save_file(_weights([*map(TOKENS.index, ":Yes"), DONE]), folder / "model.safetensors")
    return folder


def _weights(chain: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    """Return weights that only look at the last token: each of the chain is followed by the next one."""
    tensors = base_tensors()
    random = np.random.default_rng(0)
    width = tensors["model.norm.weight"].size
    embeddings = random.choice([-1.0, 1.0], (DONE + 1, width)).astype(np.float32)
    head = np.zeros_like(embeddings)
    for here, following in zip(chain, [*chain[1:], chain[1]], strict=True):
        head[following] += embeddings[here]
    for name, value in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value[:] = 0
    return {**tensors, "model.embed_tokens.weight": embeddings, "lm_head.weight": head}


@pytest.mark.slow
def test_an_answer_ends_at_the_templates_own_token(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    template = str(tmp_path / "mine.jinja")
    config = ExportConfig(
        str(base), tmp_path / "chain", quants=(), keep_f16=True, verify="off", chat_template=template
    )
    file = export(config).paths[0]
    summary = summarize(file)
    assert summary is not None
    assert summary.metadata["tokenizer.ggml.eos_token_id"] == 2
    assert summary.metadata["tokenizer.ggml.eot_token_id"] == DONE
    with closing(Model(file, vocab_only=True)) as model:
        assert model.vocab.is_eog(DONE)
        assert model.vocab.is_eog(2)
    with LlamaBackend.open(file, EngineConfig(context=128, slots=1)) as backend:
        text, finished = ask(backend, user("Well?"))
    assert (text, finished.reason) == ("Yes", "stop")


class Writer:
    """Records metadata as gguf's GGUFWriter does."""

    def __init__(self, **values: int) -> None:
        names = {f"tokenizer.ggml.{name}": number for name, number in {"tokens": 0, **values}.items()}
        self.kv_data = [{key: _Value(number) for key, number in names.items()}]
        self.written: dict[str, int] = {}

    def add_uint32(self, key: str, number: int) -> None:
        self.written[key] = number


class _Value:
    def __init__(self, value: int) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("known", "written"),
    [
        ({"eos_token_id": 2}, {"tokenizer.ggml.eot_token_id": 7}),
        ({}, {"tokenizer.ggml.eot_token_id": 7}),
        ({"eos_token_id": 7}, {}),
        ({"eos_token_id": 2, "eot_token_id": 7}, {}),
        ({"eos_token_id": 2, "eom_token_id": 7}, {}),
        ({"eos_token_id": 2, "eot_token_id": 5}, {"tokenizer.ggml.eom_token_id": 7}),
        ({"eot_token_id": 5, "eom_token_id": 6}, {"tokenizer.ggml.eot_token_id": 7}),
    ],
)
def test_the_stop_token_is_written_where_no_other_end_is_it(
    known: dict[str, int], written: dict[str, int]
) -> None:
    add_stop_token(writer := Writer(**known), 7)
    assert writer.written == written


def test_a_file_without_a_vocabulary_gets_no_stop_token() -> None:
    writer = Writer()
    writer.kv_data = [{}]
    add_stop_token(writer, 7)
    assert not writer.written
