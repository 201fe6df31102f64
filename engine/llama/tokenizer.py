"""LlamaTokenizer: text to token ids and back, by llama.cpp."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Iterator
from functools import cached_property

from llama_cpp import llama_cpp as llama

MAX_CHARACTERS = 8192  # characters; a third of what the hungriest BPE pattern survives
_SLACK = 8  # tokens by which a cut may raise the count of a piece
_SHIM = "\uf8ff"  # a private-use character: SentencePiece spells it in bytes, which merge with nothing


# Match up to the last place that no token spans: before a line, else before a word. With more whitespace,
# many pre-tokenizer patterns depend on what follows; and some treat "/" as part of a line's end.
_LINES, _WORDS = re.compile(r".*\S\n(?=[^\s/])", re.DOTALL), re.compile(r".*\S(?= \S)", re.DOTALL)


def split_for_tokenizer(text: str, spellings: Collection[str]) -> Iterator[str]:
    """Yield the text in pieces of at most MAX_CHARACTERS, cut where that changes no token, if possible.

    `spellings` are the special tokens', which are never cut.
    """
    start = 0
    while len(text) - start > MAX_CHARACTERS:
        end = _end(text, start, spellings)
        yield text[start:end]
        start = end
    yield text[start:]


def _end(text: str, start: int, spellings: Collection[str]) -> int:
    most = start + MAX_CHARACTERS
    found = _LINES.match(text, start, most) or _WORDS.match(text, start, most)
    end = found.end() if found else most
    for spelling in spellings:
        begin = text.find(spelling, max(start + 1, end - len(spelling) + 1), end + len(spelling) - 1)
        end = end if begin < 0 else begin
    return end


# llama.h: llama_token_attr
_UNKNOWN, _CONTROL, _USER_DEFINED = 1 << 0, 1 << 3, 1 << 4


# llama.h: llama_vocab_type; SPM is SentencePiece as Llama 2, Mistral and Phi-3 use it
_SPM, _BPE = 1, 2


class LlamaTokenizer:
    """The vocabulary of a loaded model, which must outlive it. Tokenizing is thread-safe (llama.h)."""

    def __init__(self, model: int) -> None:
        self._vocab = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocab)
        self.bos: int = llama.llama_vocab_bos(self._vocab)
        self.eos: int = llama.llama_vocab_eos(self._vocab)
        self.add_bos: bool = llama.llama_vocab_get_add_bos(self._vocab)
        self.is_sentencepiece: bool = llama.llama_vocab_type(self._vocab) == _SPM
        # BPE's patterns recurse for each letter of a word; SentencePiece takes quadratic time for some texts.
        self._needs_pieces = self.is_sentencepiece or llama.llama_vocab_type(self._vocab) == _BPE

    @property
    def handle(self) -> int:
        """Return llama.cpp's pointer to the vocabulary."""
        return self._vocab  # type: ignore[no-any-return]

    def text(self, token: int) -> str:
        """Return a token's spelling in the vocabulary; "" for -1, llama.cpp's null token."""
        if token < 0:
            return ""
        raw: bytes = llama.llama_vocab_get_text(self._vocab, token) or b""
        return raw.decode("utf-8", "replace")

    def is_eog(self, token: int) -> bool:
        """Return whether the token ends the generation: EOS, EOT or another end-of-generation token."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def is_read_whole(self, token: int) -> bool:
        """Return whether its spelling is always read as this token: a control or added token."""
        attributes = llama.llama_vocab_get_attr(self._vocab, token)
        return bool(attributes & (_UNKNOWN | _CONTROL | _USER_DEFINED))

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for control tokens."""
        buffer = ctypes.create_string_buffer(64)
        size = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, -size, 0, False)
        return buffer.raw[:size]

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text, without BOS; `special` parses special tokens like <|im_end|>."""
        if not self._needs_pieces or len(text) <= MAX_CHARACTERS:
            return self._tokenize(text, special)
        ids: list[int] = []
        for piece in split_for_tokenizer(text, self._whole_spellings):
            ids += self.continue_text(piece, special=special) if ids else self._tokenize(piece, special)
        return ids

    def continue_text(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text that does not begin the prompt.

        SentencePiece puts a space before a text. A character in front takes that space, and is cut off again.
        """
        if not self.is_sentencepiece:
            return self.tokenize(text, special=special)
        return self.tokenize(_SHIM + text, special=special)[self._shim_size :]

    def exceeds(self, text: str, limit: int) -> bool:
        """Return True if a text surely has more than `limit` tokens.

        Takes no longer than a text at the limit, whatever the length of this one.
        """
        if not self._needs_pieces:
            return False
        if len(text) > limit * self._longest:
            return True
        count = 0
        for piece in split_for_tokenizer(text, ()):
            count += max(0, len(self._tokenize(piece, special=False)) - _SLACK)
            if count > limit:
                return True
        return False

    def _tokenize(self, text: str, special: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = llama.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, special)
        if count < 0:
            room = -count
            ids = (ctypes.c_int32 * room)()
            count = llama.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, special)
        return list(ids[:count])

    @cached_property
    def _shim_size(self) -> int:
        return len(self._tokenize(_SHIM, special=False))

    @cached_property
    def _longest(self) -> int:
        """Return the length of the longest spelling of a token in bytes, at least that of its text."""
        return max(len(llama.llama_vocab_get_text(self._vocab, token) or b"") for token in range(self.size))

    @cached_property
    def eog_tokens(self) -> tuple[int, ...]:
        """Return every end-of-generation token."""
        return tuple(token for token in range(self.size) if self.is_eog(token))

    @cached_property
    def _whole_spellings(self) -> tuple[str, ...]:
        """Return every spelling that is always read as one token."""
        spelled = (self.text(token) for token in range(self.size) if self.is_read_whole(token))
        return tuple(spelling for spelling in spelled if len(spelling) > 1)

    @cached_property
    def control_spellings(self) -> tuple[str, ...]:
        """Return every spelling that only `tokenize(special=True)` reads as one control token."""
        return tuple(
            self.text(token)
            for token in range(self.size)
            if llama.llama_vocab_get_attr(self._vocab, token) & (_UNKNOWN | _CONTROL)
        )
