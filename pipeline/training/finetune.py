"""Supervised fine-tuning of a LoRA adapter on chats, on the CPU: TRL trains, PEFT holds the adapter.

The loss covers only the assistant's tokens, as rendered by the model's chat template (data/dataset.py).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.chat_templates import GivenTemplate, read_template
from common.errors import MissingPackage
from common.files import atomic_directory, sha256
from pipeline.data.chat_template import no_template, reject_lost_messages, set_template
from pipeline.data.dataset import Chat, Example, collect_errors, encode_chat, read_chats, split_chats
from pipeline.errors import InputError
from pipeline.merge.model_class import require_class
from pipeline.progress import NoProgress, StepProgress
from pipeline.report.model_card import CARD, adapter_card, own_card
from pipeline.sources.bundled import read_record
from pipeline.sources.model_source import Source, base_source
from pipeline.sources.reading import reading, reason
from pipeline.tokenizers.diagnose import tokenizer_fault
from pipeline.tokenizers.folder_templates import TEMPLATE
from pipeline.training.config import ALL_LINEAR, FinetuneConfig, FinetuneReport
from pipeline.training.trainer import faster_precision, load_model, train_adapter

__all__ = ["RECORD", "FinetuneConfig", "FinetuneReport", "finetune", "load_tokenizer"]
RECORD = "training.json"
"""Written last into an adapter: the options, the data's SHA-256, the versions and the FinetuneReport."""

_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate")


def finetune(config: FinetuneConfig, progress: StepProgress | None = None) -> Path:
    """Train an adapter, write it to `config.out` and return that folder.

    It contains adapter_model.safetensors, adapter_config.json, training.json (the options, the data's
    SHA-256, the versions and a FinetuneReport) and README.md; a README.md by the user is kept. The base's
    tokenizer and chat template are not copied; a chat template that was given is. Raises InputError for wrong
    input, before anything is loaded. An interruption leaves `out` unchanged.
    """
    progress = progress or NoProgress()
    _check_out(config)
    chats = read_chats(config.data)
    train_chats, held_chats = split_chats(chats, config.held_out, config.seed)
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package)
    source = base_source(config.base)
    require_class(
        source, "training", "train where the model's own code runs, and export the adapter with --adapter"
    )
    given = read_template(config.chat_template) if config.chat_template is not None else None
    tokenizer = load_tokenizer(source, given)
    reject_lost_messages(tokenizer, chats)
    train = _encode(tokenizer, train_chats, config.max_length)
    held = _encode(tokenizer, held_chats, config.max_length)
    if not train:
        raise InputError(
            f"--max-length {config.max_length} cuts off every answer in the data set: give more tokens"
        )
    _check_targets(config, source)
    if config.precision == "auto":
        config = replace(config, precision=faster_precision())  # so that it is recorded
    with atomic_directory(config.out) as folder:
        model = load_model(config, source)
        dropped = len(chats) - len(train) - len(held)
        report = train_adapter(
            config, model, tokenizer, train=train, held=held, dropped=dropped, progress=progress
        )
        _save(config, source, model, report, folder, given=given)
    return config.out


def load_tokenizer(source: Source, given: GivenTemplate | None = None) -> Any:
    """Load the base's tokenizer, with the user's chat template in place of its own if one is given.

    Raises InputError when it is unreadable or has no chat template.
    """
    from transformers import AutoTokenizer

    def fault(error: BaseException) -> str:
        found = tokenizer_fault(source.folder)
        return found or f"the base {source.spec!r} has no tokenizer that can be read: {reason(error)}"

    with reading("", "", fault):
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    set_template(tokenizer, given.source if given else None)
    if not tokenizer.chat_template:
        raise no_template(source.spec)
    return tokenizer


def _check_out(config: FinetuneConfig) -> None:
    out = config.out
    if not out.exists():
        return
    if not config.force:
        raise InputError(f"--out {str(out)!r} exists already: choose another, or give --force to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / "adapter_config.json").is_file()):
        raise InputError(
            f"--out {str(out)!r} is no adapter folder, so --force will not replace it: choose another"
        )


def _encode(tokenizer: Any, chats: list[Chat], max_length: int) -> list[Example]:
    examples = collect_errors(chats, lambda chat: encode_chat(tokenizer, chat, max_length))
    return [example for example in examples if example.answer_tokens]


def _check_targets(config: FinetuneConfig, source: Source) -> None:
    """Raise InputError unless every target is a linear layer of the base, built on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.targets == (ALL_LINEAR,):
        return
    what = f"the base {source.spec!r} is of no known architecture"
    with reading(what, "correct its config.json, or download it again"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        )
    head = model.get_output_embeddings()
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    for target in config.targets:
        if target not in linear:
            raise InputError(
                f"--target {target!r} is no linear layer of the base: use {', '.join(sorted(linear))}"
            )


def _save(
    config: FinetuneConfig,
    source: Source,
    model: Any,
    report: FinetuneReport,
    folder: Path,
    *,
    given: GivenTemplate | None,
) -> None:
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # Not model.save_pretrained: that stores float32, an empty model card and this machine's path to the base.
    dtype = getattr(torch, config.stored_type)
    state = {name: weight.to(dtype).contiguous() for name, weight in get_peft_model_state_dict(model).items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    lora = model.peft_config["default"]
    lora.base_model_name_or_path = _base_name(config, source)
    lora.target_modules = sorted(lora.target_modules)
    lora.inference_mode = True
    lora.save_pretrained(folder)
    if given is not None:  # an export takes the adapter's template
        (folder / TEMPLATE).write_text(given.source, encoding="utf-8")
    record = {"options": _options(config, source, given), "report": asdict(report), "versions": _versions()}
    card = own_card(config.out) or adapter_card(
        config.out.resolve().name, record["options"], record["report"]
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _base_name(config: FinetuneConfig, source: Source) -> str:
    if config.base_name:
        return config.base_name
    bundled = (read_record(source.folder) or {}).get("model")
    # Not the path, which is only valid on this machine.
    return str(bundled) if bundled else source.spec if source.revision else source.folder.name


def _options(config: FinetuneConfig, source: Source, given: GivenTemplate | None) -> dict[str, Any]:
    options = asdict(config)
    for name in ("force", "out"):
        del options[name]
    options |= {
        "base": _base_name(config, source),
        "base_revision": source.revision,
        "data": config.data.name,
        "chat_template": given.origin if given else None,
    }
    options["data_sha256"] = sha256(config.data)
    return options


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _PACKAGES}
