"""The base and the tuned model, checked by their files' headers first and loaded one at a time in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.chat_templates import read_template
from common.errors import MissingPackage
from common.files import load_json
from common.system import free_memory
from pipeline.data.chat_template import no_template, set_template
from pipeline.errors import InputError
from pipeline.evaluation.config import EvaluateConfig, Kind
from pipeline.merge.base_check import check_base
from pipeline.merge.checkpoint import Tensors
from pipeline.merge.merger import merge_in_sequence
from pipeline.merge.meta_model import build_base, suppress_warnings
from pipeline.merge.model_class import require_class
from pipeline.merge.ternary import TernaryTensors, base_tensors, quantize_activations
from pipeline.sources.adapter import Adapter, parse_adapter, read_adapter
from pipeline.sources.adapter_base import base_mismatch_notes
from pipeline.sources.model_source import Source, adapter_source, base_source
from pipeline.sources.reading import reading
from pipeline.sources.trained_base import Nf4Rounding, trained_rounding
from pipeline.tokenizers.diagnose import read_tokenizer
from pipeline.tokenizers.select import stage_checkpoint
from pipeline.tokenizers.stop_tokens import training_template

try:
    import torch
except ImportError as error:
    raise MissingPackage("torch") from error

RECORD = "training.json"
"""The record that our training writes into an adapter."""

_BYTES = 6  # a weight: 4 in float32, and what reading and merging it takes


@dataclass(frozen=True)
class TorchModel:
    """A checkpoint whose weights are `tensors`, checked but not loaded."""

    name: str
    kind: Kind
    source: Source
    tensors: Tensors

    def load(self) -> Any:
        """Load it in float32. Raises InputError when it does not fit into the memory or is damaged."""
        _require_memory(self)
        shape = build_base(self.source, self.tensors.settings)
        # transformers maps the checkpoint's names, ties weights and computes buffers, as for a folder.
        state = {name: self.tensors.read(name).float() for name in self.tensors.shapes}
        state |= {name: self.tensors.read(name).float() for name in self.tensors.added - state.keys()}
        what = f"transformers cannot load {self.source.spec!r}"
        with reading(what, "download it again, or correct its config.json"), suppress_warnings():
            model = type(shape).from_pretrained(
                None, config=shape.config, state_dict=state, dtype=torch.float32
            )
        if isinstance(self.tensors, TernaryTensors):
            quantize_activations(model, self.tensors.modules)
        return model.eval()


@dataclass(frozen=True)
class Models:
    """The models to evaluate, with what belongs to the tuned one: its tokenizer and its training's record.

    `notes` are for the user.
    """

    checkpoints: tuple[TorchModel, ...]
    adapters: tuple[Adapter, ...]
    training: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def tuned(self) -> TorchModel:
        """The last of the models: the tuned one if there is one, else the base."""
        return self.checkpoints[-1]


def find_models(config: EvaluateConfig) -> Models:
    """Find the checkpoints and check them, their adapters included. Raises InputError; loads no weights."""
    checkpoints = []
    adapters = tuple(_adapter(text) for text in config.adapters)
    training = _training(adapters)
    base = None
    if config.base:
        base = _source(config.base)
        rounded = trained_rounding(config.qlora_base, adapters)
        tensors = _checked(base) if rounded is None else _nf4(base, rounded)
        checkpoints.append(TorchModel("base (NF4)" if rounded else "base", "base", base, tensors))
        if adapters:
            checkpoints.append(tuned_checkpoint(base, adapters, rounded))
    if config.model:
        model = _source(config.model)
        checkpoints.append(TorchModel("tuned", "tuned", model, _checked(model)))
    notes = base_mismatch_notes(base, adapters) if base else []
    return Models(tuple(checkpoints), adapters, training, tuple(notes))


def tuned_checkpoint(base: Source, adapters: Sequence[Adapter], rounding: Nf4Rounding | None) -> TorchModel:
    """Return the base, which transformers has a class for, with the adapters merged in. Raises InputError."""
    tensors = merge_in_sequence(base, adapters, rounding) if adapters else _checked(base)
    return TorchModel("tuned", "tuned", base, tensors)


def load_tokenizer(models: Models, config: EvaluateConfig, scratch: Path) -> Any:
    """Return the tuned model's tokenizer, as an export would take it. Raises InputError.

    `scratch` is an empty folder for links to its files.
    """
    source, given = models.tuned.source, None
    if config.chat_template is not None:
        given = read_template(config.chat_template)
    staged = stage_checkpoint(source, models.adapters, models.tuned.tensors.settings, scratch, given)

    tokenizer = read_tokenizer(staged.folder, repr(source.spec))
    set_template(tokenizer, training_template(tokenizer, given) if given else None)
    if not tokenizer.chat_template and config.data_options.text is None:
        raise no_template(source.spec)
    return tokenizer


def vocabulary(tokenizer: Any) -> list[str | None]:
    """Return the tokenizer's tokens by id, None for an id without one."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    return [by_id.get(number) for number in range(max(by_id) + 1)]


def _source(spec: str) -> Source:
    source = base_source(spec)
    require_class(source, "an evaluation", "evaluate its GGUF files where the model's own code runs")
    return source


def _checked(source: Source) -> Tensors:
    tensors = base_tensors(source)
    check_base(source, build_base(source, {}), tensors)
    return tensors


def _adapter(text: str) -> Adapter:
    spec, weight = parse_adapter(text)
    return read_adapter(adapter_source(spec), weight)


def _training(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Return the options of the training that made the one adapter, if it is ours; else none."""
    if len(adapters) != 1:
        return {}
    record = load_json(adapters[0].folder / RECORD)
    options = record.get("options") if isinstance(record, dict) else None
    return options if isinstance(options, dict) else {}


def _nf4(base: Source, rounding: Nf4Rounding) -> Tensors:
    from pipeline.merge.nf4 import Nf4Base

    return Nf4Base(base, _checked(base), rounding)


def _require_memory(model: TorchModel) -> None:
    needed = _BYTES * sum(math.prod(shape) for shape in model.tensors.shapes.values())
    free = free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"{model.source.spec!r} needs {needed / 2**30:.1f} GiB in float32, and {free / 2**30:.1f} GiB "
            "are free: close other programs, or evaluate it where there is more memory"
        )
