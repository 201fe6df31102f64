"""Mutants of small GGUF files: models of every kind of tokenizer, and LoRA adapters.

A mutation changes a file in place, with a random number generator as its only input, so that a mutant can
be made again from its seed and number.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from bench.raw_gguf import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    I64,
    INTEGERS,
    STRING,
    U8,
    U32,
    U64,
    Array,
    Field,
    RawGguf,
    read_raw,
)
from bench.tiny_gguf import CHATML, KINDS, write_adapter, write_model

Mutation = Callable[[random.Random, RawGguf], None]
EXTREMES = (0, 1, 2, 3, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
_TEXTS = (b"", b"\0", b"\xff\xfe", "日本".encode(), b"%s%n", b"a" * 100_000, b"llama", b"gpt2", b"default")
_IDS = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre", "fim_suf")
_PRES = ("llama-bpe", "qwen2", "deepseek-llm", "gpt-2", "tekken", "nonsense", "viking", "superbpe", "bloom")

_TRAPS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set n = 9 %}{% set x = n ** (n ** n) %}",
    "{{ 'a' * 999999999 }}",
    "{{ [0] * 99999999 }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ messages | tojson * 100000 }}",
    "{{ raise_exception('no') }}",
    "{{ 1 / 0 }}",
    "{{ undefined.attribute }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ ('x ' * 100000) | wordwrap(1) | urlize }}",
    "{{ (range(100000) | list | string * 50) | wordcount }}",
    "{{ '\\ud800' }}",
    "{{ '<|im_start|>' * 100000 }}",
    "{{ bos_token * 1000000 }}",
    "{% include 'x' %}",
    "{% break %}",
    "{{ strftime_now('%' ~ 'Y' * 100000) }}",
)
_CONDITIONS = (
    "true",
    "'hello' in messages[-1]['content']",
    "'日' in messages[-1]['content']",
    "'\\0' in messages[-1]['content']",
    "messages | length > 5",
    "messages[-1]['content'] | length > 200",
    "messages[0]['role'] == 'system'",
    "messages[-1]['content'] | length is odd",
    "'JSON' in messages[-1]['content']",
)
_WORDS = (
    *(
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-%}",
        "for",
        "in",
        "messages",
        "if",
        "endif",
        "endfor",
        "set",
        "m",
    ),
    *("['content']", "|", "tojson", "trim", "loop", "~", "'", "(", ")", "1", "content", "\n"),
)


# --- metadata ------------------------------------------------------------------------------------------


def _extreme_integer(draw: random.Random, file: RawGguf) -> None:
    one = draw.choice([one for one in file.fields if one.type in INTEGERS])
    one.value = draw.choice(EXTREMES)


def _extreme_float(draw: random.Random, file: RawGguf) -> None:
    file.put("llama.attention.layer_norm_rms_epsilon", F32, draw.choice(_FLOATS))
    file.put("llama.rope.freq_base", F32, draw.choice(_FLOATS))


def _wrong_type(draw: random.Random, file: RawGguf) -> None:
    one = draw.choice(file.fields)
    one.type, one.value = _random_value(draw)


def _random_value(draw: random.Random) -> tuple[int, object]:
    array = Array(draw.choice((U8, U32, F32, U64)), [draw.choice(EXTREMES) for _ in range(5)])
    texts = Array(STRING, [draw.choice(_TEXTS) for _ in range(3)])
    return draw.choice(
        (
            (U32, draw.choice(EXTREMES)),
            (U64, draw.choice(EXTREMES)),
            (I32, draw.choice(EXTREMES)),
            (F64, draw.choice(_FLOATS)),
            (BOOL, draw.randrange(256)),
            (STRING, draw.choice(_TEXTS)),
            (ARRAY, array),
            (ARRAY, texts),
            (ARRAY, Array(ARRAY, [Array(U8, [1])] * 3)),
        )
    )


def _other_text(draw: random.Random, file: RawGguf) -> None:
    one = draw.choice([one for one in file.fields if one.type == STRING])
    one.value = draw.choice(_TEXTS)


def _other_key(draw: random.Random, file: RawGguf) -> None:
    one = draw.choice(file.fields)
    action = draw.choice(("remove", "twice", "rename"))
    if action == "remove":
        file.fields.remove(one)
    elif action == "twice":
        file.fields.append(Field(one.key, *_random_value(draw)))
    else:
        one.key = draw.choice((b"", b"general.architecture", b"x" * 70_000, one.key + b"\0"))


def _architecture(draw: random.Random, file: RawGguf) -> None:
    name = draw.choice((b"llama", b"qwen2", b"gemma", b"bert", b"t5", b"mamba", b"rwkv6", b"phi3", b"clip"))
    file.put("general.architecture", STRING, name)
    for one in file.fields:
        one.key = one.key.replace(b"llama.", name + b".", 1) if one.key.startswith(b"llama.") else one.key


def _counts(draw: random.Random, file: RawGguf) -> None:
    right = [len(file.tensors), len(file.fields)]
    which = draw.randrange(2)
    right[which] = draw.choice((*EXTREMES[:-1], right[which] - 1, right[which] + 1))
    file.counts = (right[0], right[1])


# --- tokenizers ----------------------------------------------------------------------------------------


def _items(file: RawGguf, name: str) -> Array:
    """Return an array of the tokenizer; a new one, in the file, if another mutation replaced it."""
    found = file.find(f"tokenizer.ggml.{name}")
    if found is None or not isinstance(found.value, Array) or not found.value.items:
        kind = {"tokens": STRING, "merges": STRING, "scores": F32}.get(name, I32)
        file.put(f"tokenizer.ggml.{name}", ARRAY, Array(kind, [b"a b" if kind == STRING else 1] * 8))
        found = file.find(f"tokenizer.ggml.{name}")
    assert found is not None
    array: Array = found.value
    return array


def _flipped(draw: random.Random, text: object) -> bytes:
    content = bytearray(text if isinstance(text, bytes) and text else b"a")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _tokens(draw: random.Random, file: RawGguf) -> None:
    tokens = _items(file, draw.choice(("tokens", "tokens", "merges")))
    if tokens.type != STRING:
        return
    action = draw.choice(("flip", "twice", "empty", "huge", "space", "invalid", "all", "swap"))
    for _ in range(draw.choice((1, 1, 5, 100))):
        at, other = draw.randrange(len(tokens.items)), draw.randrange(len(tokens.items))
        one = tokens.items[at]
        if action == "swap":
            tokens.items[at], tokens.items[other] = tokens.items[other], one
        else:
            tokens.items[at] = {
                "flip": _flipped(draw, one),
                "twice": tokens.items[other],
                "empty": b"",
                "huge": one * 20_000 if len(one) < 100 else one,
                "space": draw.choice((b" ", b"\n", b"\0", b"  a", "▁▁".encode(), "Ġ".encode())),
                "invalid": draw.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"<0xZZ>")),
                "all": tokens.items[0],
            }[action]


def _numbers(draw: random.Random, file: RawGguf) -> None:
    """Change scores or types, one or many."""
    name = draw.choice(("scores", "token_type"))
    array = _items(file, name)
    values = _FLOATS if name == "scores" else (-1, 0, 1, 2, 3, 4, 5, 6, 7, 2**31 - 1)
    value = draw.choice(values)
    for _ in range(draw.choice((1, 3, len(array.items)))):
        array.items[draw.randrange(len(array.items))] = value if array.type != STRING else b"%d"


def _one_type(draw: random.Random, file: RawGguf) -> None:
    """Give all tokens, or all byte tokens, the same type: a vocabulary without byte tokens among others."""
    array, kind = _items(file, "token_type"), draw.randrange(1, 7)
    for at, old in enumerate(array.items):
        if draw.random() < 0.5 or old == 6:
            array.items[at] = kind


def _length(draw: random.Random, file: RawGguf) -> None:
    """Make an array shorter or longer, or let it claim another length."""
    array = _items(file, draw.choice(("tokens", "scores", "token_type", "merges")))
    action = draw.choice(("shorter", "longer", "claim"))
    if action == "shorter":
        del array.items[draw.randrange(len(array.items)) :]
    elif action == "longer":
        array.items += array.items[: draw.randrange(1, 100)]
    else:
        array.count = draw.choice((*EXTREMES, len(array.items) + 1, max(0, len(array.items) - 1)))


def _special_ids(draw: random.Random, file: RawGguf) -> None:
    size = len(_items(file, "tokens").items)
    for name in draw.sample(_IDS, draw.randrange(1, 4)):
        value = draw.choice((size - 1, size, size + 1, 2**31 - 1, 2**32 - 1, 0, draw.randrange(max(1, size))))
        file.put(f"tokenizer.ggml.{name}_token_id", U32, value)


def _tokenizer(draw: random.Random, file: RawGguf) -> None:
    """Name another tokenizer than the vocabulary is for, or set its options."""
    action = draw.choice(("model", "pre", "flags", "charsmap", "vocab_size"))
    if action == "model":
        file.put("tokenizer.ggml.model", STRING, draw.choice([*KINDS, "plamo2", "none"]).encode())
    elif action == "pre":
        file.put("tokenizer.ggml.pre", STRING, draw.choice(_PRES).encode())
    elif action == "flags":
        for name in ("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"):
            file.put(f"tokenizer.ggml.{name}", BOOL, draw.randrange(2))
    elif action == "charsmap":
        file.put("tokenizer.ggml.precompiled_charsmap", ARRAY, Array(U8, _charsmap(draw)))
    else:
        file.put("llama.vocab_size", U32, draw.choice(EXTREMES[:10]))


def _charsmap(draw: random.Random) -> list[int]:
    """Return a table of normalizations: its size in bytes, a trie of 32-bit units, and texts."""
    trie = draw.randbytes(4 * draw.choice((0, 1, 256, 300)))
    size = draw.choice((len(trie), len(trie) + 4, 2**31, 2**32 - 1, 3))
    return list(size.to_bytes(4, "little") + trie + draw.randbytes(draw.choice((0, 1, 50))))


def _template(draw: random.Random, file: RawGguf) -> None:
    """Use a template that is hostile always, for some conversations only, or random."""
    action = draw.choice(("trap", "trap", "words", "flip", "cut"))
    if action == "trap":
        trap, condition = draw.choice(_TRAPS), draw.choice(_CONDITIONS)
        text = "{% if " + condition + " %}" + trap + "{% endif %}" + CHATML
    elif action == "words":
        text = " ".join(draw.choice(_WORDS) for _ in range(draw.randrange(1, 40)))
    elif action == "flip":
        text = _flipped(draw, CHATML.encode()).decode("latin-1")
    else:
        text = CHATML[: draw.randrange(len(CHATML))]
    file.put("tokenizer.chat_template", STRING, text.encode("utf-8", "replace"))


# --- tensors and bytes ---------------------------------------------------------------------------------


def _tensor(draw: random.Random, file: RawGguf) -> None:
    if not file.tensors:
        return
    one = draw.choice(file.tensors)
    action = draw.choice(("offset", "dims", "count", "type", "name", "remove", "twice"))
    if action == "offset":
        one.offset = draw.choice((*EXTREMES[:-1], one.offset + 32, len(file.data), len(file.data) - 32))
    elif action == "dims" and one.dims:
        one.dims[draw.randrange(len(one.dims))] = draw.choice((*EXTREMES[:-1], 64, 63))
    elif action == "count":
        one.dims = draw.choice(([], one.dims[:1], [*one.dims, 1, 1, 1, 1], [*one.dims, 2]))
    elif action == "type":
        one.type = draw.choice((*range(45), 2**31, 2**32 - 1))
    elif action == "name":
        one.name = draw.choice((b"", b"x" * 64, b"x" * 63, _flipped(draw, one.name), file.tensors[0].name))
    elif action == "remove":
        file.tensors.remove(one)
    else:
        file.tensors.append(one)


def _weights(draw: random.Random, file: RawGguf) -> None:
    """Overwrite some weights: not a number, infinite, huge, or random bits."""
    value = draw.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", draw.randbytes(4)))
    content = bytearray(file.data)
    for _ in range(draw.choice((1, 100))):
        at = draw.randrange(max(1, len(content) // 4)) * 4
        content[at : at + 4] = value
    file.data = bytes(content)


def _adapter_field(draw: random.Random, file: RawGguf) -> None:
    key = draw.choice(("general.type", "adapter.type", "adapter.lora.alpha", "general.architecture"))
    if draw.random() < 0.5:
        file.put(key, STRING, draw.choice(_TEXTS))
    elif key == "adapter.lora.alpha":
        file.put(key, F32, draw.choice(_FLOATS))
    else:
        file.put(key, *_random_value(draw))


def _invocation_tokens(draw: random.Random, file: RawGguf) -> None:
    """Make it an activated LoRA, with tokens in and out of the vocabulary."""
    tokens = [draw.choice(EXTREMES) for _ in range(draw.randrange(4))]
    file.put("adapter.alora.invocation_tokens", ARRAY, Array(draw.choice((U32, I32, I64)), tokens))


def _damaged(draw: random.Random, content: bytes) -> bytes:
    """Return the file with bits flipped, cut off, or with bytes put in or taken out; mostly in its header."""
    changed = bytearray(content)
    header = min(len(changed), draw.choice((64, 2000, 20_000, len(changed))))
    action = draw.choice(("flip", "flip", "flip", "cut", "insert", "remove", "zero"))
    at = draw.randrange(max(1, header))
    if action == "flip":
        for _ in range(draw.choice((1, 1, 3, 30))):
            changed[draw.randrange(header)] ^= 1 << draw.randrange(8)
    elif action == "cut":
        del changed[draw.choice((at, max(0, len(changed) - draw.randrange(1, 5000)))) :]
    elif action == "insert":
        changed[at:at] = draw.randbytes(draw.randrange(1, 64))
    elif action == "remove":
        del changed[at : at + draw.randrange(1, 64)]
    else:
        length = min(draw.randrange(1, 300), len(changed) - at)
        changed[at : at + length] = bytes(length)
    return bytes(changed)


MODEL_MUTATIONS: Mapping[str, tuple[Mutation, ...]] = {
    "metadata": (
        _extreme_integer,
        _extreme_integer,
        _extreme_float,
        _wrong_type,
        _other_text,
        _other_key,
        _architecture,
        _counts,
    ),
    "tokenizer": (_tokens, _tokens, _tokens, _numbers, _one_type, _length, _special_ids, _tokenizer),
    "template": (_template,),
    "tensors": (_tensor, _tensor, _weights),
}
_ADAPTER_MUTATIONS: tuple[Mutation, ...] = (
    _adapter_field,
    _invocation_tokens,
    _wrong_type,
    _other_key,
    _counts,
    _tensor,
    _weights,
    _weights,
)


def mutated_model(draw: random.Random, kind: str) -> bytes:
    """Return a model with one to three mutations of a kind of MODEL_MUTATIONS, or "bytes"."""
    file = _good_model(draw.choice(KINDS)).copy()
    for _ in range(draw.choice((1, 1, 2, 3))) if kind in MODEL_MUTATIONS else ():
        draw.choice(MODEL_MUTATIONS[kind])(draw, file)
    return file.to_bytes() if kind in MODEL_MUTATIONS else _damaged(draw, file.to_bytes())


def mutated_adapter(draw: random.Random) -> bytes:
    """Return a LoRA adapter for `write_model`'s models with one or two mutations."""
    file = _good_adapter().copy()
    if draw.random() < 0.3:
        return _damaged(draw, file.to_bytes())
    for _ in range(draw.choice((1, 1, 2))):
        draw.choice(_ADAPTER_MUTATIONS)(draw, file)
    return file.to_bytes()


@cache
def _good_model(kind: str) -> RawGguf:
    with tempfile.TemporaryDirectory() as folder:
        return read_raw(write_model(Path(folder) / "model.gguf", kind).read_bytes())


@cache
def _good_adapter() -> RawGguf:
    with tempfile.TemporaryDirectory() as folder:
        return read_raw(write_adapter(Path(folder) / "adapter.gguf").read_bytes())
