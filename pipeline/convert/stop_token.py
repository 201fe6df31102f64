"""Write the token that ends an answer into a GGUF's metadata, where the EOS is another one."""

from __future__ import annotations

from typing import Any

_KEY = "tokenizer.ggml.{}_token_id"
_ENDS = ("eos", "eot", "eom")
"""The tokens of the metadata at which llama.cpp and all programs that read its files end an answer."""


def add_stop_token(writer: Any, stop: int) -> None:
    """Have answers end at `stop`: as the end of a turn (EOT) beside the EOS, or as EOM where EOT is taken.

    `writer` is the converter's GGUFWriter, with its metadata prepared. llama.cpp also ends answers at tokens
    with well-known spellings; a token of the user's own has no such spelling.
    """
    values = {key: value.value for part in writer.kv_data for key, value in part.items()}
    known = {name: values.get(_KEY.format(name)) for name in _ENDS}
    if stop in known.values() or "tokenizer.ggml.tokens" not in values:
        return
    name = next((name for name in ("eot", "eom") if known[name] is None), "eot")
    writer.add_uint32(_KEY.format(name), stop)
