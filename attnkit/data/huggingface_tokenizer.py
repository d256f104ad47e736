"""Common ground of the tokenizers that the Hugging Face library `tokenizers` trains and runs."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import tokenizers as huggingface

from attnkit.data.tokenizer_base import Encoding, Tokenizer, decode_runs


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer whose vocabulary, and whose speed, are the library's; only `<|end|>` is ours."""

    _engine: huggingface.Tokenizer | None = None

    @abstractmethod
    def _train_engine(self, texts: Iterator[str]) -> huggingface.Tokenizer:
        """Returns a tokenizer of the library that was trained on the texts."""

    @property
    def vocab_size(self) -> int:
        """The trained vocabulary and `<|end|>`; 0 before `train`."""
        return self._engine.get_vocab_size() + 1 if self._engine else 0

    def train(self, texts: Iterable[str]) -> None:
        """Trains the vocabulary; the same text gives the same one, on any number of threads."""
        self._engine = self._train_engine(iter(texts))

    def encode(self, text: str) -> Encoding:
        """Returns the tokens of a text."""
        encoded = self._trained.encode(text)
        return Encoding(encoded.ids, encoded.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, computed on all cores."""
        encoded = self._trained.encode_batch_fast(list(texts))
        return [np.array(one.ids, np.int64) for one in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; what is not UTF-8 (a model may write such) becomes U+FFFD."""
        return decode_runs(ids, self.end_of_document_id, self._trained.decode)

    def state(self) -> dict[str, Any]:
        """Returns the options and the library's own description of the vocabulary."""
        return {"options": self.options(), "engine": json.loads(self._trained.to_str())}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Makes the tokenizer with this vocabulary."""
        tokenizer = cls(**state["options"])
        tokenizer._engine = huggingface.Tokenizer.from_str(json.dumps(state["engine"]))
        return tokenizer

    @property
    def _trained(self) -> huggingface.Tokenizer:
        self.require_vocabulary()
        assert self._engine is not None
        return self._engine


def _silence_before_fork() -> None:
    if "TOKENIZERS_PARALLELISM" not in os.environ:
        os.environ["TOKENIZERS_PARALLELISM"] = _SERIAL_IN_CHILD


def _restore_after_fork() -> None:
    if os.environ.get("TOKENIZERS_PARALLELISM") == _SERIAL_IN_CHILD:
        del os.environ["TOKENIZERS_PARALLELISM"]


# Once its threads have run, the library switches them off in every forked process (such as a
# DataLoader worker) and prints four lines about it, unless this variable is set. So it is set for
# the moment of the fork: the child keeps the same setting without the noise, and the parent, and
# a person who chose a value, keep theirs.
_SERIAL_IN_CHILD = "false"
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_silence_before_fork, after_in_parent=_restore_after_fork)
