"""Base of the tokenizers that are trained and run by the library `tokenizers` of Hugging Face."""

from __future__ import annotations

import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import tokenizers as huggingface

from attnkit.data.tokenizer_base import Encoding, Tokenizer, decode_runs

LARGEST_VOCABULARY = 1 << 24
"""Largest vocabulary; the library allocates memory for the requested size."""

PART_CHARACTERS = 1 << 14
"""Minimum number of characters that are passed to the library at a time. It reads 256 texts ahead,
so large texts need memory and delay progress.
"""

_WORD_END = re.compile(r"(?<=\S)\s")


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer implemented by the library; only `<|end|>` is added."""

    _engine: huggingface.Tokenizer | None = None

    @abstractmethod
    def _train_engine(self, texts: Iterator[str]) -> huggingface.Tokenizer:
        """Returns a tokenizer of the library, trained on the texts."""

    @property
    def vocab_size(self) -> int:
        """The trained vocabulary and `<|end|>`; 0 before `train`."""
        return self._engine.get_vocab_size() + 1 if self._engine else 0

    def train(self, texts: Iterable[str]) -> None:
        """Trains the vocabulary; the result does not depend on the number of threads."""
        self._engine = self._train_engine(_small_parts(texts))

    def encode(self, text: str) -> Encoding:
        encoded = self._trained.encode(text)
        return Encoding(encoded.ids, encoded.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, computed on all cores."""
        encoded = self._trained.encode_batch_fast(list(texts))
        return [np.array(one.ids, np.int64) for one in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; invalid UTF-8 becomes U+FFFD."""
        return decode_runs(ids, self.end_of_document_id, self._trained.decode)

    def state(self) -> dict[str, Any]:
        return {"options": self.options(), "engine": json.loads(self._trained.to_str())}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        tokenizer = cls(**state["options"])
        tokenizer._engine = huggingface.Tokenizer.from_str(json.dumps(state["engine"]))
        return tokenizer

    @property
    def _trained(self) -> huggingface.Tokenizer:
        self.require_vocabulary()
        assert self._engine is not None
        return self._engine


def _small_parts(texts: Iterable[str]) -> Iterator[str]:
    """Splits texts between words, before white space, where every tokenizer here splits anyway."""
    for text in texts:
        start = 0
        while found := _WORD_END.search(text, start + PART_CHARACTERS):
            yield text[start : found.start()]
            start = found.start()
        yield text[start:]


def _byte_symbols() -> dict[str, int]:
    """Maps the symbols in which byte-level vocabularies write bytes to the 256 bytes.

    Bytes that are printable in Latin-1 stand for themselves, the others for code points from 256.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    symbols = {chr(byte): byte for byte in printing}
    return symbols | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_OF_SYMBOL = _byte_symbols()
"""Symbol of a byte-level vocabulary -> its byte."""


def spell(raw: bytes) -> str:
    r"""Decodes bytes; those that are only part of a character become `\xe4`."""
    return raw.decode(errors="backslashreplace")


def _silence_before_fork() -> None:
    if "TOKENIZERS_PARALLELISM" not in os.environ:
        os.environ["TOKENIZERS_PARALLELISM"] = _SERIAL_IN_CHILD


def _restore_after_fork() -> None:
    if os.environ.get("TOKENIZERS_PARALLELISM") == _SERIAL_IN_CHILD:
        del os.environ["TOKENIZERS_PARALLELISM"]


# Once its threads have run, the library disables them in every forked process (such as a DataLoader
# worker) and prints a warning, unless this variable is set. It is set during the fork only: the
# child keeps the setting without the warning, and the parent keeps the user's value.
_SERIAL_IN_CHILD = "false"
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_silence_before_fork, after_in_parent=_restore_after_fork)
