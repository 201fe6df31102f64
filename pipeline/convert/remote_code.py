"""Keep transformers from running a model repository's code in this process, whatever its caller asks for.

llama.cpp's converter asks for it for the tokenizers of several architectures (trust_remote_code=True).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from common.errors import MissingPackage
from pipeline.tokenizers.own_code import NeedsCode, load_without_code


def forbid_remote_code() -> None:
    """From here on, load configurations and tokenizers without the repository's code, or raise NeedsCode."""
    try:
        from transformers import AutoConfig, AutoTokenizer, dynamic_module_utils
    except ImportError as error:
        raise MissingPackage(error.name or "transformers") from error
    load_config, load_tokenizer = AutoConfig.from_pretrained, AutoTokenizer.from_pretrained

    def config_without_code(*args: Any, **options: Any) -> Any:
        return load_config(*args, **{**options, "trust_remote_code": False})

    def tokenizer_without_code(folder: Any, *args: Any, **options: Any) -> Any:
        return load_without_code(load_tokenizer, Path(folder), *args, **options)

    AutoConfig.from_pretrained = config_without_code
    AutoTokenizer.from_pretrained = tokenizer_without_code
    # Every way to a class of a repository passes through these two.
    dynamic_module_utils.get_cached_module_file = _refuse
    dynamic_module_utils.get_class_in_module = _refuse


def _refuse(*_: object, **__: object) -> NoReturn:
    raise NeedsCode("the model needs code that it brings, which is never run here")
