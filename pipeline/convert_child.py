"""The converter's child process: llama.cpp's model classes, with merged tensors slipped under them.

Run by convert.py as `python -m pipeline.convert_child REQUEST`. The toolchain's `conversion` and
`gguf` packages are importable here and nowhere else.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.ahead import MergeAhead
from pipeline.child import Message, say, serve
from pipeline.errors import InputError, MissingPackage
from pipeline.source import Source

if TYPE_CHECKING:
    from pipeline.merge import Merger

Thunk = Callable[[], Any]
"""llama.cpp's converter keeps a tensor as a function that returns it, lazily."""


def convert(request: Message) -> Message:
    """Convert as the request of convert.py says, and count what was written."""
    toolchain = Path(request["toolchain"])
    sys.path[:0] = [str(toolchain), str(toolchain / "gguf-py")]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed lies in the base's folder
    logging.basicConfig(level=logging.WARNING)
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch") from error
    torch.set_num_threads(request["threads"])
    base = _source(request["base"])
    with torch.inference_mode():
        merger = _merger(base, request["adapter"])
        model = _converter(base, merger, request)
        _write(model, base)
    if merger is not None:
        merger.finish()
    tensors = [info for shard in model.gguf_writer.tensors for info in shard.values()]
    return {
        "tensors": len(tensors),
        "parameters": sum(math.prod(info.shape) for info in tensors),
        "merged": len(merger.targets) if merger else 0,
    }


def _source(fields: list[Any]) -> Source:
    spec, folder, revision = fields
    return Source(spec, Path(folder), revision)


def _merger(base: Source, adapter: list[Any] | None) -> Merger | None:
    if adapter is None:
        return None
    from pipeline.adapter import read_adapter
    from pipeline.merge import Merger

    return Merger(base, read_adapter(_source(adapter)))


def _converter(base: Source, merger: Merger | None, request: Message) -> Any:
    """llama.cpp's model class for this architecture, whose base tensors are merged as they are read."""
    try:
        import conversion
        import gguf

        hparams = conversion.ModelBase.load_hparams(base.folder, False)
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
    model_class = plain if merger is None else _merging(plain, merger)
    return model_class(
        base.folder, file_types[request["outtype"]], Path(request["target"]), model_name=request["name"]
    )


def _merging(plain: Any, merger: Merger) -> Any:
    """A subclass of the converter's model class that sees merged tensors instead of the base's.

    Every tensor of the checkpoint goes through `filter_tensors` under its own name, before the
    converter renames, splits, permutes or fuses anything.
    """
    ahead = MergeAhead(merger)

    class Merging(plain):  # type: ignore[misc] # llama.cpp's classes are untyped
        model_arch = plain.model_arch

        @classmethod
        def filter_tensors(cls, item: tuple[str, Thunk]) -> Any:
            name, base_tensor = item
            if name in merger.targets:
                item = (name, lambda: _merged(ahead, name, base_tensor()))
            return super().filter_tensors(item)

    return Merging


def _merged(ahead: MergeAhead, name: str, base: Any) -> Any:
    """The lazy merged tensor of a lazy base tensor: nothing is read before the converter wants it."""
    import torch
    from conversion.base import LazyTorchTensor

    ahead.expect(name, lambda: LazyTorchTensor.to_eager(base))
    meta = LazyTorchTensor.meta_with_dtype_and_shape(torch.float32, base.shape)
    return LazyTorchTensor(meta=meta, func=lambda: ahead.take(name))


def _write(model: Any, base: Source) -> None:
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
    say({"bytes": sum(info.nbytes for shard in writer.tensors for info in shard.values())})
    writer.write_header_to_file(path=model.fname_out)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    serve(convert)
