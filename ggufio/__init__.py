"""GGUF files and ggml's number types. Imports nothing of ours but common.

    from ggufio import read_header, read_tensors, shard_paths

The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.lazy import lazy_exports

if TYPE_CHECKING:
    from ggufio.errors import GgufError as GgufError
    from ggufio.errors import MissingShard as MissingShard
    from ggufio.file import GgufTensors as GgufTensors
    from ggufio.file import TensorLocation as TensorLocation
    from ggufio.file import read_tensors as read_tensors
    from ggufio.ggml import GGMLType as GGMLType
    from ggufio.ggml import ggml_type as ggml_type
    from ggufio.ggml import ggml_type_named as ggml_type_named
    from ggufio.reader import GgufHeader as GgufHeader
    from ggufio.reader import TensorInfo as TensorInfo
    from ggufio.reader import read_header as read_header
    from ggufio.shards import shard_paths as shard_paths

_MODULES = {
    "GGMLType": "ggufio.ggml",
    "GgufError": "ggufio.errors",
    "GgufHeader": "ggufio.reader",
    "GgufTensors": "ggufio.file",
    "MissingShard": "ggufio.errors",
    "TensorInfo": "ggufio.reader",
    "TensorLocation": "ggufio.file",
    "ggml_type": "ggufio.ggml",
    "ggml_type_named": "ggufio.ggml",
    "read_header": "ggufio.reader",
    "read_tensors": "ggufio.file",
    "shard_paths": "ggufio.shards",
}
__all__ = [
    "GGMLType",
    "GgufError",
    "GgufHeader",
    "GgufTensors",
    "MissingShard",
    "TensorInfo",
    "TensorLocation",
    "ggml_type",
    "ggml_type_named",
    "read_header",
    "read_tensors",
    "shard_paths",
]
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
