"""The worker process of the Inspect view: it reads strangers' files, and a crash ends only itself."""

from __future__ import annotations

import resource
from pathlib import Path

from common.dataclass_json import to_json
from common.errors import UserError
from common.system import limit_memory
from common.worker_process import Message, serve
from ggufio.errors import GgufError
from ui.pages.inspect.tensor_sample import measure_tensor, read_contents

_BYTES = 2 << 30  # of private memory; the longest header that is read takes a quarter


def inspect(request: Message) -> Message:
    """Read the file, or measure the tensor that the request names. Raises UserError."""
    path, tensor = Path(request["file"]), request["tensor"]
    try:
        return to_json(read_contents(path) if tensor is None else measure_tensor(path, tensor))
    except MemoryError as error:
        raise GgufError(f"{path.name} takes too much memory to inspect") from error


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, nothing to debug
    limit_memory(_BYTES)
    serve(inspect, preload=("llama_cpp",), refusals=(UserError,))
