"""docs/training-examples.md: its commands run at small size, up to a GGUF like the trained model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from common.chat_templates import read_template
from engine.probe.cpu_backend import probe_model
from pipeline.certificate.scoring.samples import Sample
from pipeline.certificate.scoring.teacher_forcing import logits_of, open_model
from pipeline.cli import dataset, evaluate, export, finetune, tune
from pipeline.cli import make_base as make_base_command
from pipeline.data.encoding import encode_row
from pipeline.data.reader import load_data
from pipeline.data.rows import Chat
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export as export_model
from pipeline.merge.nf4 import multiply_exactly
from pipeline.sources.model_source import base_source
from pipeline.training.base_model import load_tokenizer
from pipeline.training.config import FinetuneConfig
from pipeline.training.finetune import RECORD
from pipeline.training.finetune import finetune as train
from tests.pipeline.data.seed_rows import Rows, english_quotes, guanaco_llama2, oasst1
from tests.pipeline.merge.test_nf4 import in_four_bits
from tests.pipeline.tiny import make_base
from ui.terminal.cli import cli as chat
from ui.terminal.raw import PLAIN_TEXT, has_no_template

pytestmark = pytest.mark.slow

PAGES = ("docs/training-examples.md", "docs/finetune.md", "docs/data.md", "docs/evaluate.md")
APPS: dict[str, typer.Typer] = {
    "scripts/finetune.py": finetune.app,
    "scripts/export_gguf.py": export.app,
    "scripts/evaluate.py": evaluate.app,
    "scripts/dataset.py": dataset.app,
    "scripts/chat.py": chat,
    "scripts/make_base.py": make_base_command.app,
    "scripts/tune.py": tune.app,
}
LLAMA2 = (
    "{%- for message in messages -%}{%- if message.role == 'user' -%}"
    "{{- bos_token + '[INST] ' + message.content + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + message.content + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}"
)
"""Llama 2 chat's own form of a conversation without a system message."""

PHI3_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SIZES = {"initializer_range": 0.2}  # so that an untrained model prefers some tokens
SHORT_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * pair for pair in range(8)],
    "long_factor": [1.0 + pair for pair in range(8)],
    "original_max_position_embeddings": 2048,
}
"""Phi-3.5's, whose short factors hold up to more tokens than the rows have."""


def commands(page: Path) -> list[list[str]]:
    """Return the words of each `python scripts/...` line of a page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python scripts/")]


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of a command as its parser reads them. Raises click's errors."""
    script, *given = words
    command: Any = typer.main.get_command(APPS[script])
    if hasattr(command, "commands"):
        command, given = command.commands[given[0]], given[1:]
    parameters: dict[str, Any] = command.make_context(script, given, **command.context_settings).params
    return parameters


def command_of(root: Path, script: str, word: str) -> list[str]:
    """Return the one command of the page with that word."""
    found = [one for one in commands(root / PAGES[0]) if one[0] == script and word in " ".join(one)]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_has_the_options_that_it_names(
    root: Path, page: str, tmp_path: Path
) -> None:
    (recipe := tmp_path / "recipe.yaml").write_text("base: models/smollm2-base\ndata: faq.csv\n")
    found = [
        [str(recipe) if word.endswith("recipe.yaml") else word for word in words]
        for words in commands(root / page)
    ]
    assert found
    for words in found:
        if words[:2] != ["scripts/evaluate.py", "tasks"]:
            assert parsed(words)


@dataclass(frozen=True)
class Tuned:
    """A walk at small size: the page's training, its adapter, and the exported files."""

    config: FinetuneConfig
    adapter: Path
    files: tuple[Path, ...]

    @property
    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.adapter / RECORD).read_text(encoding="utf-8"))
        return content

    def token_ids(self) -> list[int]:
        """Return a trained row."""
        rows = load_data(self.config.data, self.config.data_options).rows
        name = self.config.chat_template
        given = read_template(name) if name else None
        tokenizer = load_tokenizer(base_source(self.config.base), given, needs_template=False)
        return list(encode_row(tokenizer, rows[0], 128).input_ids)


def tuned(
    root: Path, base: Path, data: Path, name: str, *, quants: Sequence[str] = (), **changes: Any
) -> Tuned:
    """Run the page's training of models/NAME-lora at small size, and export it (also in `quants`)."""
    work = data.parent
    config = finetune.config_of(parsed(command_of(root, "scripts/finetune.py", f"{name}-lora")))
    small = {"steps": 2, "device": "cpu", "precision": "float32", "max_length": 128, "answers": 0}
    if config.optimizer.startswith("paged"):  # CUDA's
        small["optimizer"] = config.optimizer.removeprefix("paged-")
    here = {"base": str(base), "data": data, "out": work / f"{name}-lora"}
    config = replace(config, **{**small, **here, **changes})
    adapter = train(config)
    result = export_model(
        ExportConfig(str(base), work / name, (str(adapter),), tuple(quants), keep_f16=True, threads=2)
    )
    return Tuned(config, adapter, result.paths)


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def log_probabilities(file: Path, ids: list[int]) -> torch.Tensor:
    """Return what the engine predicts after each token but the last."""
    template = PLAIN_TEXT if has_no_template(file) else ""
    with open_model(file, probe_model(file, threads=1, chat_template=template).choice) as model:
        [rows] = logits_of(model, [Sample(0, "", tuple(ids[:1]), tuple(ids[1:]), own=True)], 1)
    return torch.from_numpy(rows).log_softmax(-1)


def trained_model(walk: Tuned) -> Any:
    """Return the model as PEFT has it after the training: the adapter beside its base, unmerged."""
    if walk.config.qlora:
        base = in_four_bits(Path(walk.config.base), torch.float32)
        multiply_exactly(base)
    else:
        base = AutoModelForCausalLM.from_pretrained(walk.config.base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(walk.adapter)).eval()


def divergence(walk: Tuned) -> float:
    """Return the mean KL from the trained model to the exported full-precision file, in nats a token."""
    ids = walk.token_ids()
    with torch.inference_mode():
        wanted = trained_model(walk)(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    found = log_probabilities(walk.files[0], ids)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return tmp_path_factory.mktemp


@pytest.fixture(scope="module")
def llama(folder: Callable[[str], Path]) -> Path:
    base = make_base(folder("llama") / "base", "llama", **SIZES)
    (base / "chat_template.jinja").write_text(LLAMA2)
    return base


def test_llama_2_learns_guanaco_in_four_bits(root: Path, llama: Path, tmp_path: Path) -> None:
    rows = guanaco_llama2()
    quants = parsed(command_of(root, "scripts/export_gguf.py", "guanaco-lora"))["quant"]
    walk = tuned(root, llama, write(tmp_path / "rows.jsonl", rows), "guanaco", quants=quants)
    options = walk.record["options"]
    assert (options["rank"], options["alpha"], options["dropout"]) == (64, 16, 0.1)
    assert options["qlora"] | {"quant_type": "nf4", "double_quant": True} == options["qlora"]
    names = json.loads((walk.adapter / "adapter_config.json").read_text())["target_modules"]
    assert names == ["q_proj", "v_proj"]
    assert [path.name for path in walk.files] == ["guanaco-F16.gguf", "guanaco-Q4_K_M.gguf"]
    assert divergence(walk) < 1e-4

    tokenizer = AutoTokenizer.from_pretrained(llama)
    for row, read in zip(rows, load_data(walk.config.data).rows, strict=True):
        assert isinstance(read, Chat)
        assert tokenizer.apply_chat_template(read.messages(), tokenize=False) == row["text"]


def test_gemma_without_a_template_learns_quotes(
    root: Path, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = make_base(folder("gemma") / "base", "gemma", **SIZES)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    walk = tuned(root, base, write(tmp_path / "rows.jsonl", english_quotes()), "quotes")
    assert walk.config.data_options.text == r"Quote: {quote}\nAuthor: {author}"
    ids = walk.token_ids()
    assert (ids[0], ids[-1]) == (1, 2)
    text = AutoTokenizer.from_pretrained(base).decode(ids[1:-1]).strip()
    assert text.startswith("Quote: “Wrap it in cloth")
    assert text.endswith("\nAuthor: Author No. 0")
    assert walk.record["report"]["trained_tokens"] > 0
    layers = json.loads((walk.adapter / "adapter_config.json").read_text())["target_modules"]
    assert len({name.rsplit(".", 1)[-1] for name in layers}) == 7
    assert divergence(walk) < 1e-4

    words = command_of(root, "scripts/chat.py", "models/quotes")
    given = [str(walk.files[0]) if word == "models/quotes" else word for word in words[1:]]
    result = CliRunner().invoke(chat, [*given, "--max-tokens", "4"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


def mixture(count: int) -> Iterator[dict[str, Any]]:
    """Yield chats of four sources, as a file of several data sets has them."""
    for number in range(count):
        source = ("code", "books", "web", "talk")[number % 4]
        turns = [("user", f"Say {number} of {source}."), ("assistant", f"{source} {number}")]
        messages = [{"role": role, "content": content} for role, content in turns]
        yield {"messages": messages, "source": source}


def test_a_mixture_is_split_by_ratios_and_measured_by_source(root: Path, llama: Path, tmp_path: Path) -> None:
    split = command_of(root, "scripts/dataset.py", "mixture.jsonl")
    paths = {
        "mixture.jsonl": str(write(tmp_path / "mixture.jsonl", list(mixture(14_000)))),
        "data/mixture": str(tmp_path / "parts"),
    }
    result = CliRunner().invoke(dataset.app, [paths.get(word, word) for word in split[1:]])
    assert result.exit_code == 0, result.output
    counts = json.loads((tmp_path / "parts" / "split.json").read_text())["outputs"]
    shares = {"books": 0.05, "code": 0.15, "talk": 0.4, "web": 0.4}
    for part, rows in (("train", 3750), ("valid", 1875), ("test", 1875)):
        found = counts[f"{part}.jsonl"]
        assert found["rows"] == rows
        for source, share in shares.items():
            assert abs(found["categories"][source] - share * rows) <= 1

    for part in ("train", "valid"):
        lines = (tmp_path / "parts" / f"{part}.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / f"{part}.jsonl").write_text("".join(lines[:24]))
    walk = tuned(
        root, llama, tmp_path / "train.jsonl", "mixture", valid=tmp_path / "valid.jsonl", eval_every=1
    )
    categories = walk.record["report"]["evaluation"]["categories"]
    assert set(categories) <= set(shares)
    assert len(categories) > 1
    assert divergence(walk) < 1e-4


def test_phi_3_learns_the_trees_of_oasst1(root: Path, folder: Callable[[str], Path], tmp_path: Path) -> None:
    length = {"original_max_position_embeddings": 2048, "max_position_embeddings": 4096}
    base = make_base(
        folder("phi") / "base", "phi3", vocab_size=32064, rope_parameters=SHORT_ROPE, **length, **SIZES
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(PHI3_TOKENS)})
    tokenizer.save_pretrained(base)
    data = write(tmp_path / "rows.jsonl", oasst1(40))
    walk = tuned(root, base, data, "oasst", chat_template="phi3", batch_size=2, accumulate=1)
    assert walk.record["report"]["train_chats"] + walk.record["report"]["held_out_chats"] == 8
    first = load_data(data).rows[0]
    assert isinstance(first, Chat)
    assert [turn.role for turn in first.turns] == ["user", "assistant"] * 2
    assert (walk.adapter / "chat_template.jinja").is_file()
    names = json.loads((walk.adapter / "adapter_config.json").read_text())["target_modules"]
    assert names == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
    assert divergence(walk) < 1e-4
