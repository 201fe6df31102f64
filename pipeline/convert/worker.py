"""The converter's child process: llama.cpp's model classes, with merged tensors slipped under them.

Run by convert.py as `python -m pipeline.convert.job.worker`. The toolchain's `conversion` and
`gguf` packages are importable here and nowhere else.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import MissingPackage
from common.worker_process import Message, send, serve
from pipeline.errors import InputError
from pipeline.merge.prefetch import MergePrefetcher
from pipeline.quantize.types import TensorTypes
from pipeline.sources.adapter import Adapter, read_adapter
from pipeline.sources.model_source import Source
from pipeline.tokenizers.reference import ask_tokenizer
from pipeline.tokenizers.select import stage_checkpoint

if TYPE_CHECKING:
    from pipeline.merge.merger import Merger


Thunk = Callable[[], Any]
"""llama.cpp's converter keeps a tensor as a function that returns it, lazily."""


def convert(request: Message) -> Message:
    """Convert as the request of convert.py says, and count what was written."""
    toolchain = Path(request["toolchain"])
    sys.path[:0] = [str(toolchain), str(toolchain / "gguf-py")]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed lies in the base's folder
    logging.basicConfig(level=logging.WARNING)
    if not request["qlora_base"]:  # PEFT would import it without need, which takes most of a second
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment] # Python's way to say that it is not there
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch") from error
    torch.set_num_threads(request["threads"])
    _give_memory_back()
    base = Source.of_request(request["base"])
    adapters = [read_adapter(Source.of_request(fields), weight) for *fields, weight in request["adapters"]]
    target = Path(request["target"])
    with torch.inference_mode(), tempfile.TemporaryDirectory(dir=target.parent, prefix="read-") as scratch:
        merger = _merger(base, adapters, request["qlora_base"])
        read = stage_checkpoint(base, adapters, merger.settings if merger else {}, Path(scratch))
        model = _converter(base, read.folder, merger, request)
        _write(model, base, TensorTypes.of_request(request["types"]))
        if request["tokenizer_reference"]:
            _ask_tokenizer(read.folder, request)
    if merger is not None:
        merger.finish()
    tensors = [info for shard in model.gguf_writer.tensors for info in shard.values()]
    return {
        "tensors": len(tensors),
        "parameters": sum(math.prod(info.shape) for info in tensors),
        "merged": len(merger.changed) if merger else 0,
        "notes": read.notes,
        "settings": merger.settings if merger else {},
    }


def _ask_tokenizer(folder: Path, request: Message) -> None:
    """Write down for the certificate what transformers says of the tokenizer, since it is loaded here."""
    evaluation = Path(request["evaluation"]) if request["evaluation"] else None
    try:
        ask_tokenizer(folder, evaluation).save(Path(request["tokenizer_reference"]))
    except InputError:
        return  # the certificate says so


def _give_memory_back() -> None:
    """Have glibc map each tensor for itself: its heap, once fragmented, kept up to a whole model's worth."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**20)  # M_MMAP_THRESHOLD, in bytes


def _merger(base: Source, adapters: list[Adapter], qlora_base: str | None) -> Merger | None:
    if not adapters:
        return None
    from pipeline.merge.merger import merge_in_sequence

    return merge_in_sequence(base, adapters, qlora_base)


def _converter(base: Source, folder: Path, merger: Merger | None, request: Message) -> Any:
    """llama.cpp's model class for the model in `folder`, whose base tensors are merged as they are read."""
    try:
        import conversion
        import gguf

        hparams = conversion.ModelBase.load_hparams(folder, False)
        architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
        plain = conversion.get_model_class(architecture)
    except ImportError as error:
        raise MissingPackage(error.name or "gguf") from error
    except NotImplementedError:
        raise InputError(
            f"the base model {base.spec!r} has the architecture {architecture}, which llama.cpp's converter "
            "does not know: use a base that it knows, or a newer llama-cpp-python"
        ) from None
    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    model_class = plain if merger is None else _merging(plain, merger, base)
    return model_class(
        folder, file_types[request["outtype"]], Path(request["target"]), model_name=request["name"]
    )


def _merging(plain: Any, merger: Merger, base: Source) -> Any:
    """A subclass of the converter's model class that sees merged tensors instead of the base's.

    Every tensor of the checkpoint goes through `filter_tensors` under its own name, before the
    converter renames, splits, permutes or fuses anything.
    """
    if plain.__name__ == "BitnetModel":
        raise InputError(
            f"the base model {base.spec!r} is a BitNet: its GGUF rounds every weight to three values, and an "
            "adapter's changes would be lost; run the base's GGUF and the adapter side by side instead"
        )
    ahead = MergePrefetcher(merger)

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
            if name in merger.changed:
                item = (name, lambda: _merged(ahead, name, merger.shapes[name]))
            return super().filter_tensors(item)

    return Merging


def _merged(ahead: MergePrefetcher, name: str, shape: tuple[int, ...]) -> Any:
    """A lazy merged tensor: nothing is read before the converter wants it."""
    import torch
    from conversion.base import LazyTorchTensor

    ahead.expect(name)
    meta = LazyTorchTensor.meta_with_dtype_and_shape(torch.float32, shape)
    return LazyTorchTensor(meta=meta, func=lambda: ahead.take(name))


def _write(model: Any, base: Source, types: TensorTypes) -> None:
    """The steps of llama.cpp's ModelBase.write, with the input's own faults told apart."""
    try:
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
    except NotImplementedError as error:
        raise InputError(
            f"llama.cpp's converter cannot handle the base model {base.spec!r}: {error} "
            "(its tokenizer or its layout is unknown to it: use the tokenizer files of the original model)"
        ) from None
    except FileNotFoundError as error:
        raise InputError(f"the base model in {base.folder} lacks a tokenizer file: {error}") from None
    writer = model.gguf_writer
    tensors = {name: info for shard in writer.tensors for name, info in shard.items()}
    types.check({name: info.shape[-1] for name, info in tensors.items() if len(info.shape) > 1})
    send({"bytes": sum(info.nbytes for info in tensors.values())})
    writer.write_header_to_file(path=model.fname_out)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    serve(convert)
