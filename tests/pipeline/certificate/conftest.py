"""Fixtures: the first layers of the real SmolLM2 and Captain Bob's adapter, and tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.certificate.subject import Subject
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.converting import convert_all
from tests.pipeline.tiny import make_adapter, make_base

LAYERS = 3
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
# Different adapters: plain LoRA, rsLoRA on some layers, DoRA, trained experts.
TINY = {
    "llama": {"use_rslora": True, "target_modules": ["q_proj", "k_proj", "down_proj"]},
    "phi3": {},
    "gemma2": {},
    "gemma3_text": {"use_dora": True},
    "qwen3": {},
    "mistral": {},
    "mixtral": {"target_modules": ["q_proj"]},
}


def _first_layers(name: str) -> bool:
    _, found, rest = name.partition("layers.")
    return not found or int(rest.partition(".")[0]) < LAYERS


def complete_tokenizer(base: Path) -> None:
    """Write the files that a model on the Hub has besides its vocabulary."""
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **roles}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "chat_template.jinja").write_text(TEMPLATE)


@pytest.fixture(scope="session")
def small_base(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "smollm2"
    folder.mkdir()
    for path in real_base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).symlink_to(path)
    config = json.loads((real_base / "config.json").read_text()) | {"num_hidden_layers": LAYERS}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(real_base / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if _first_layers(name)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def small_adapter(demo_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "bob"
    folder.mkdir()
    (folder / "adapter_config.json").symlink_to(demo_adapter / "adapter_config.json")
    tensors = load_file(demo_adapter / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if _first_layers(name)}
    save_file(kept, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def base_alone(subject: Subject) -> Path:
    """Return the path of the GGUF of the subject's base, without the adapter."""
    return subject.full.with_name(f"{subject.full.stem}-alone.gguf")


@pytest.fixture(scope="session")
def sound(
    small_base: Path, small_adapter: Path, tmp_path_factory: pytest.TempPathFactory, python: str, root: Path
) -> dict[str, Subject]:
    """Correct exports by name, of which "smollm2" is the real one; one process converts them all."""
    folder = tmp_path_factory.mktemp("sound")
    pairs = {"smollm2": (small_base, small_adapter)}
    for architecture, options in TINY.items():
        base = make_base(folder / f"{architecture}-base", architecture)
        complete_tokenizer(base)
        pairs[architecture] = (base, make_adapter(folder / f"{architecture}-lora", base, **options))
    subjects, jobs = {}, []
    for name, (base, adapter) in pairs.items():
        subject = Subject(
            reference=base,
            full=folder / f"{name}.gguf",
            scratch=folder / f"{name}-scratch",
            threads=2,
            base=base_source(str(base)),
            adapters=(read_adapter(adapter_source(str(adapter))),),
        )
        assert subject.base is not None
        job = ConvertJob(
            subject.base, subject.adapters, "f16", subject.full, "tiny", ensure_toolchain(), 2,
            tokenizer_reference=subject.tokenizer_reference,
        )  # fmt: skip
        subject.scratch.mkdir()
        jobs += [job, replace(job, adapters=(), target=base_alone(subject), tokenizer_reference=None)]
        subjects[name] = subject
    convert_all(jobs, root, python)
    return subjects


@pytest.fixture(scope="session")
def real(sound: dict[str, Subject]) -> Subject:
    return sound["smollm2"]
