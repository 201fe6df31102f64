"""Load the base and its tokenizer: in its type or in 4 bits, with an adapter injected or all trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.chat_templates import GivenTemplate
from common.files import load_json
from pipeline.data.chat_template import no_template, set_template
from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter, is_lora, read_adapter
from pipeline.sources.model_source import Source, adapter_source, tensors_of
from pipeline.sources.reading import reading
from pipeline.sources.ternary import TernaryFormat, ternary_format
from pipeline.tokenizers.diagnose import read_tokenizer
from pipeline.tokenizers.folder_templates import read_templates
from pipeline.tokenizers.stop_tokens import training_template
from pipeline.training.config import ALL_LINEAR, FinetuneConfig
from pipeline.training.memory import TYPICAL_TOKENS, require_memory

if TYPE_CHECKING:
    from pipeline.merge.checkpoint import Tensors

TYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of the types in a safetensors header."""


def load_tokenizer(source: Source, given: GivenTemplate | None = None, *, needs_template: bool = True) -> Any:
    """Load the base's tokenizer, with the user's chat template in place of its own if one is given.

    Raises InputError when it is unreadable, or has no chat template and needs one.
    """
    tokenizer = read_tokenizer(source.folder, f"the base {source.spec!r}")
    set_template(tokenizer, training_template(tokenizer, given) if given else None)
    if needs_template and not tokenizer.chat_template:
        raise no_template(source.spec)
    return tokenizer


def own_template(adapter: Path) -> GivenTemplate | None:
    """Return the chat template that an adapter's folder brings; None without one."""
    found = read_templates(adapter).default
    return GivenTemplate(found, "the adapter's own") if found else None


def load_model(
    config: FinetuneConfig, source: Source, row_tokens: int = TYPICAL_TOKENS, *, rounded: bool = False
) -> Any:
    """Load the base with an adapter injected, or whole for --full; its trained weights are float32.

    `row_tokens` is the usual length of a row; `rounded` counts the memory of RoundedBase too. Raises
    InputError, also where the training does not fit into the memory.
    """
    from transformers import set_seed

    from pipeline.merge.base_check import check_base
    from pipeline.merge.meta_model import build_base
    from pipeline.merge.ternary import base_tensors

    shape = build_base(source, {})
    checkpoint = base_tensors(source)
    check_base(source, shape, checkpoint)
    adapter = _adapter_to_go_on_from(config, shape, checkpoint)
    require_head(source, shape)
    require_memory(config, source, shape, frozen_type(config, source), row_tokens, rounded=rounded)
    set_seed(config.seed)  # before lora_A is initialized below
    model = _load_base(config, source)
    if config.checkpointing:
        model.config.use_cache = False
    if config.full:
        return model
    if config.qlora or config.checkpointing:
        _prepare_frozen(model)
    return _with_adapter(config, source, model, adapter)


def require_head(source: Source, shape: Any) -> None:
    """Raise InputError unless the model says which module makes its logits: the loss is measured there."""
    if shape.get_output_embeddings() is None:
        raise InputError(
            f"the base {source.spec!r} ({type(shape).__name__}) names no output embeddings, without which "
            "it cannot be trained here: choose another base"
        )


def frozen_type(config: FinetuneConfig, source: Source) -> str:
    """Return the type of the weights in memory, such as "float32".

    Trained weights are float32. A frozen base stays in its stored type if products are computed in it, where
    autocast would round it to that type anyway, and on a GPU in the type of the products.
    """
    if config.full or config.precision == "float32":
        return "float32"
    if config.device != "cpu":
        return str(config.precision)
    return str(config.precision) if _stored_types(source) == {config.precision} else "float32"


def qlora_record(config: FinetuneConfig, source: Source) -> dict[str, Any] | None:
    """Return how the base was rounded, for training.json: an export must merge into that very base."""
    if config.qlora is None:
        return None
    return {
        "quant_type": config.qlora,
        "double_quant": True,
        "dtype": frozen_type(config, source),
        "compute_dtype": config.precision,
    }


def _stored_types(source: Source) -> set[str]:
    return {TYPE_NAMES.get(info.dtype, info.dtype) for info in tensors_of(source).values()}


def _load_base(config: FinetuneConfig, source: Source) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    if config.ternary:
        from pipeline.training.ternary import load_for_training

        return load_for_training(source)
    if (stored := ternary_format(source)) is not None:
        return _load_three_values(config, source, stored)
    options: dict[str, Any] = {}
    if config.qlora:
        options["quantization_config"] = _four_bits(config)
        options["device_map"] = {"": config.device}
    dtype = getattr(torch, frozen_type(config, source))
    what = f"the base {source.spec!r} cannot be loaded"
    with reading(what, "download it again, or correct its config.json"):
        model = AutoModelForCausalLM.from_pretrained(
            source.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
        )
    if config.qlora:
        from pipeline.merge.nf4 import multiply_exactly

        multiply_exactly(model)  # as the export dequantizes
    return model


def _load_three_values(config: FinetuneConfig, source: Source, stored: TernaryFormat) -> Any:
    """Load a ternary base for an adapter beside it. Raises InputError for what would end its three values."""
    from pipeline.merge.checkpoint import Checkpoint
    from pipeline.merge.ternary import TernaryTensors, load_ternary

    if config.full or config.qlora:
        option = "--full" if config.full else f"--qlora {config.qlora}"
        raise InputError(
            f"{option} would end the three values of the ternary base {source.spec!r}: use --ternary, or "
            "train an adapter and keep it apart"
        )
    return load_ternary(source, TernaryTensors(source, Checkpoint(source.weight_files()), stored))


def _four_bits(config: FinetuneConfig) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.qlora,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, str(config.precision)),
    )


def _prepare_frozen(model: Any) -> None:
    """Freeze the base, and let gradients pass its embeddings, as checkpointing needs."""
    for weight in model.parameters():
        weight.requires_grad_(requires_grad=False)
    model.enable_input_require_grads()


def _with_adapter(config: FinetuneConfig, source: Source, model: Any, adapter: Adapter | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if adapter is not None:
        with reading(f"the adapter {adapter.spec!r} does not fit the base {source.spec!r}", "give its base"):
            return PeftModel.from_pretrained(model, str(adapter.folder), is_trainable=True)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if config.targets == (ALL_LINEAR,) else list(config.targets),
        use_rslora=config.rslora,
        use_dora=config.dora,
        task_type="CAUSAL_LM",
    )
    with reading(f"PEFT cannot tune the base {source.spec!r}", "name its layers with --target"):
        return get_peft_model(model, lora)


def _adapter_to_go_on_from(config: FinetuneConfig, shape: Any, base: Tensors) -> Adapter | None:
    """Return the adapter of --adapter, checked against the base's shapes. Raises InputError."""
    from pipeline.merge.meta_model import AdapterWeights, inject_adapter

    if config.adapter is None:
        return None
    adapter = read_adapter(adapter_source(config.adapter))
    if not is_lora(adapter.config) or adapter.config.get("modules_to_save"):
        raise InputError(
            f"--adapter {config.adapter!r} is {adapter.kind} or brings whole modules, and training goes on "
            "from a LoRA only: train a new adapter, or give a LoRA"
        )
    record = load_json(adapter.folder / "training.json") or {}
    if bool(record.get("options", {}).get("qlora")) != bool(config.qlora):
        fix = "leave out --qlora" if config.qlora else "give --qlora nf4 too"
        raise InputError(f"--adapter {config.adapter!r} was trained on another base, in 4 bits or not: {fix}")
    AdapterWeights(inject_adapter(shape, adapter), adapter, dict(base.shapes))
    return adapter
