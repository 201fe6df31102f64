"""The converter's worker process: llama.cpp's model classes, given merged tensors in place of the base's.

job.py runs it as `python -m pipeline.convert.worker`. The toolchain's packages `conversion` and `gguf` are
importable only here.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from common.dataclass_json import from_json, to_json
from common.errors import MissingPackage
from common.worker_process import Message, send, serve
from pipeline.convert.job import Converted, ConvertJob
from pipeline.convert.metadata_check import check_metadata
from pipeline.convert.process import prepare_process
from pipeline.convert.stop_token import add_stop_token
from pipeline.errors import InputError
from pipeline.merge.prefetch import MergePrefetcher
from pipeline.quantize.types import TensorTypes
from pipeline.sources.model_source import Source
from pipeline.sources.reading import reading, reason
from pipeline.sources.ternary import ternary_format
from pipeline.tokenizers.diagnose import tokenizer_message, unknown_to_converter
from pipeline.tokenizers.reference import ask_tokenizer, load_tokenizer, turn_end
from pipeline.tokenizers.select import stage_checkpoint

if TYPE_CHECKING:
    from pipeline.merge.nf4 import RoundedBase
    from pipeline.merge.tensor_merger import TensorMerger
    from pipeline.merge.ternary import TernaryTensors

Changed = Union["TensorMerger", "RoundedBase", "TernaryTensors"]
"""What gives the converter other tensors than the base's files."""

Thunk = Callable[[], Any]
"""A tensor in llama.cpp's converter: a function that loads it."""


def convert(request: Message) -> Message:
    """Run a ConvertJob; return a Converted."""
    job = from_json(ConvertJob, request)
    sys.path[:0] = [str(job.toolchain), str(job.toolchain / "gguf-py")]
    prepare_process(job.threads, in_four_bits=job.rounding is not None)
    import torch

    send({"note": "reading the base"})
    folder = job.target.parent
    with torch.inference_mode(), tempfile.TemporaryDirectory(dir=folder, prefix="read-") as scratch:
        with reading(*_about_base(job.base), diagnose=lambda error: _fault(job.base, error)):
            _require_known(job.base)
        merger = _merger(job)
        if not job.merged and job.rounding is None:
            _check_base(job.base, merger)
        settings = merger.settings if merger else {}
        staged = stage_checkpoint(job.base, job.adapters, settings, Path(scratch), job.chat_template)
        with reading(*_about_base(job.base), diagnose=lambda error: _fault(job.base, error)):
            model = _converter(job, staged.folder, merger)
        tokenizer = _tokenizer(staged.folder)
        _write(model, job.base, job.types, None if tokenizer is None else turn_end(tokenizer))
        if job.tokenizer_reference and tokenizer is not None:
            ask_tokenizer(tokenizer, job.evaluation).save(job.tokenizer_reference)
    if merger is not None:
        merger.finish()
    tensors = [info for shard in model.gguf_writer.tensors for info in shard.values()]
    parameters = sum(math.prod(info.shape) for info in tensors)
    merged = len(merger.changed) if merger and job.merged else 0
    return to_json(
        Converted(len(tensors), parameters, merged, staged.notes, settings, staged.template_origin)
    )


def _tokenizer(folder: Path) -> Any | None:
    """Return transformers' tokenizer; None when it does not load, which the certificate reports."""
    with suppress(InputError):
        return load_tokenizer(folder)
    return None


def _merger(job: ConvertJob) -> Changed | None:
    """Return what changes the base's tensors; None if nothing does."""
    if job.merged:
        from pipeline.merge.merger import merge_in_sequence

        return merge_in_sequence(job.base, job.merged, job.rounding)
    if job.rounding is not None:
        from pipeline.merge.checkpoint import Checkpoint
        from pipeline.merge.nf4 import RoundedBase

        return RoundedBase(job.base, Checkpoint(job.base.weight_files()), job.rounding)
    if (stored := ternary_format(job.base)) is not None:
        from pipeline.merge.checkpoint import Checkpoint
        from pipeline.merge.ternary import TernaryTensors

        return TernaryTensors(job.base, Checkpoint(job.base.weight_files()), stored)
    return None


def _check_base(base: Source, changed: Changed | None) -> None:
    """Raise InputError for tensors that do not fit config.json, if transformers knows the model."""
    from pipeline.merge.base_check import check_base
    from pipeline.merge.checkpoint import Checkpoint
    from pipeline.merge.meta_model import build_base

    try:
        model = build_base(base, {})
    except InputError:  # llama.cpp's converter also knows models that transformers does not
        return
    check_base(base, model, changed or Checkpoint(base.weight_files()))


def _about_base(base: Source) -> tuple[str, str]:
    """Return what is being read, and the fix, for pipeline.sources.reading."""
    return (
        f"llama.cpp's converter cannot read the base model {base.spec!r}",
        "download it again, or correct it",
    )


def _fault(base: Source, error: BaseException) -> str | None:
    """Return the message for an error of llama.cpp's converter; None where the file at fault is unknown."""
    from pipeline.merge.meta_model import build_base
    from pipeline.merge.model_class import missing_class

    if type(error).__module__.partition(".")[0] == "yaml":
        card = base.folder / "README.md"
        return f"{card} has a head that is no YAML ({reason(error)}): correct it, or remove it"
    index = base.folder / "model.safetensors.index.json"
    if "tensors: [" in str(error) and index.is_file():
        return f"{index} does not list the tensors of its files ({reason(error)}): download both again"
    if isinstance(error, NotImplementedError | RecursionError):  # both are the converter's own
        return unknown_to_converter(base, error)
    if missing_class(base) is not None:
        return None
    try:
        build_base(base, {})
    except InputError as refusal:
        return str(refusal)
    return None


def _require_known(base: Source) -> None:
    """Raise InputError for an architecture that neither transformers nor llama.cpp's converter knows."""
    from pipeline.merge.model_class import missing_class

    if missing_class(base) is not None:
        _model_class(base, base.folder)


def _model_class(base: Source, folder: Path) -> Any:
    """Return the converter's class for the model in `folder`. Raises InputError when there is none."""
    try:
        import conversion

        hparams = conversion.ModelBase.load_hparams(folder, False)
        architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
        return conversion.get_model_class(architecture)
    except ImportError as error:
        raise MissingPackage(error.name or "gguf") from error
    except NotImplementedError:
        raise InputError(
            f"the base model {base.spec!r} has the architecture {architecture}, which llama.cpp's "
            "converter does not know: use a base that it knows, or a newer llama-cpp-python"
        ) from None


def _converter(job: ConvertJob, folder: Path, merger: Changed | None) -> Any:
    """Return llama.cpp's converter for the model in `folder`, which merges the base's tensors as it reads."""
    plain = _model_class(job.base, folder)
    import gguf

    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    model_class = plain if merger is None else _merging(plain, merger)
    if plain.__name__ == "BitnetModel":
        model_class = _bitnet(model_class)
    return model_class(folder, file_types[job.outtype], job.target, model_name=job.name)


_SUB_NORMS = {".attn_sub_norm.": ".inner_attn_ln.", ".ffn_sub_norm.": ".ffn_layernorm."}
"""transformers' names of BitNet's norms, and those that the converter knows."""


def _bitnet(plain: Any) -> Any:
    """Return a subclass of the converter's BitNet that takes transformers' names and values as they are."""

    class Bitnet(plain):  # type: ignore[misc] # llama.cpp's classes are untyped
        model_arch = plain.model_arch

        @classmethod
        def filter_tensors(cls, item: tuple[str, Thunk]) -> Any:
            if (found := super().filter_tensors(item)) is None:
                return None
            name, tensor = found
            for one, other in _SUB_NORMS.items():
                name = name.replace(one, other)
            return name, tensor

        def weight_quant(self, weight: Any) -> Any:
            return weight  # rounding three values again would make them smaller

    return Bitnet


def _merging(plain: Any, merger: Changed) -> Any:
    """Return a subclass of the converter's model class that reads merged tensors instead of the base's.

    Every tensor of the checkpoint passes `filter_tensors` under its original name, before the converter
    renames, splits, permutes or fuses anything.
    """
    dropped: frozenset[str] = getattr(merger, "dropped", frozenset())
    prefetcher = MergePrefetcher(merger)

    class Merging(plain):  # type: ignore[misc] # llama.cpp's classes are untyped
        model_arch = plain.model_arch

        def index_tensors(self, *args: Any, **options: Any) -> dict[str, Thunk]:
            tensors: dict[str, Thunk] = super().index_tensors(*args, **options)
            for name in sorted(merger.added):  # an output matrix that was tied to the embeddings
                item = self.filter_tensors((name, lambda: None))
                tensors.update([item] if item else [])
            return tensors

        @classmethod
        def filter_tensors(cls, item: tuple[str, Thunk]) -> Any:
            name, _ = item
            if name in dropped:
                return None
            if name in merger.changed:
                item = (name, lambda: _merged(prefetcher, name, merger.shapes[name]))
            return super().filter_tensors(item)

    return Merging


def _merged(prefetcher: MergePrefetcher, name: str, shape: tuple[int, ...]) -> Any:
    """Return a lazy merged tensor: nothing is read before the converter evaluates it."""
    import torch
    from conversion.base import LazyTorchTensor

    prefetcher.expect(name)
    meta = LazyTorchTensor.meta_with_dtype_and_shape(torch.float32, shape)
    return LazyTorchTensor(meta=meta, func=lambda: prefetcher.take(name))


def _write(model: Any, base: Source, types: TensorTypes, stop: int | None) -> None:
    """Run the steps of llama.cpp's ModelBase.write. Raises InputError for faults of the input.

    The token `stop` ends an answer in every program that reads the file, although it may not be the EOS.
    """
    read_tokenizer = model.set_vocab

    def set_vocab() -> None:
        folder = model.dir_model
        with reading("", "", diagnose=lambda error: tokenizer_message(base, folder, error)):
            read_tokenizer()

    model.set_vocab = set_vocab
    with reading(*_about_base(base), diagnose=lambda error: _fault(base, error)):
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
    writer = model.gguf_writer
    if stop is not None:
        add_stop_token(writer, stop)
    tensors = {name: info for shard in writer.tensors for name, info in shard.items()}
    types.check({name: info.shape[-1] for name, info in tensors.items() if len(info.shape) > 1})
    check_metadata(writer, base, model.dir_model)
    send({"bytes": sum(info.nbytes for info in tensors.values())})
    writer.write_header_to_file(path=model.fname_out)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    serve(convert)
