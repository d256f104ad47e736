"""The tokenizer `given`: a vocabulary that is not trained here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers as huggingface

from attnkit.data.huggingface_tokenizer import BYTE_OF_SYMBOL, LARGEST_VOCABULARY, spell
from attnkit.data.tokenizer_base import END, Encoding, Tokenizer, decode_runs
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS


@TOKENIZERS.register("given")
class GivenTokenizer(Tokenizer):
    """An existing vocabulary, such as GPT-2's; nothing is trained.

    With `file` it reads and writes text. Without it, for tokenised data, a token is written as its
    number: samples and maps show ` 464 3290`, and prompts are written like this.

    Args:
        vocab_size: number of tokens of the model; it may exceed the vocabulary. GPT-2 has 50,257.
        end: the token between documents; GPT-2's `<|endoftext|>` is 50,256.
        file: `tokenizer.json` of the vocabulary, as written by the Hugging Face library.
    """

    def __init__(
        self, *, vocab_size: int = 50257, end: int = 50256, file: Path | None = None
    ) -> None:
        if not 1 <= vocab_size <= LARGEST_VOCABULARY:
            raise DataError(
                f"tokenizer.vocab_size must be from 1 to {LARGEST_VOCABULARY:,}, got {vocab_size}"
            )
        if not 0 <= end < vocab_size:
            raise DataError(
                f"tokenizer.end must be from 0 to {vocab_size - 1}, the last token of "
                f"tokenizer.vocab_size {vocab_size}, got {end}"
            )
        self.size, self.end, self.file = vocab_size, end, file

    @property
    def vocab_size(self) -> int:
        return self.size

    @property
    def end_of_document_id(self) -> int:
        return self.end

    @property
    def reads_text(self) -> bool:
        """False without a file."""
        return self.file is not None or self._engine is not None

    def options(self) -> dict[str, Any]:
        """Returns size and end; the contents of the file are part of `state`."""
        return {"vocab_size": self.size, "end": self.end}

    def train(self, texts: Iterable[str]) -> None:
        """Does nothing: the vocabulary is given."""

    def encode(self, text: str) -> Encoding:
        """Returns the tokens of a text, or the numbers in it.

        Raises:
            DataError: if there is no file and the text does not consist of token numbers.
        """
        if self._engine is not None:
            encoded = self._engine.encode(text, add_special_tokens=False)
            return Encoding(encoded.ids, encoded.offsets)
        words = list(re.finditer(r"\s*(\S+)", text))
        wrong = (w[1] for w in words if not (w[1].isdecimal() and int(w[1]) < self.size))
        if (word := next(wrong, None)) is not None:
            raise DataError(
                f"`{word[:40]}` is not a token number below {self.size}, and the words of this "
                "vocabulary are not known; name its tokenizer.json in tokenizer.file"
            )
        return Encoding([int(word[1]) for word in words], [word.span() for word in words])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._engine is None:
            return [np.array(self.encode(text).ids, np.int64) for text in texts]
        encoded = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text, or the numbers, each after a space."""
        engine = self._engine
        if engine is None:
            return "".join(map(self.token_text, ids))
        return decode_runs(ids, self.end, lambda run: engine.decode(run, skip_special_tokens=False))

    def token_text(self, token_id: int) -> str:
        r"""Returns the text of a token, or its number after a space."""
        if token_id == self.end:
            return END
        symbols = None if self._engine is None else self._engine.id_to_token(token_id)
        if self._engine is None or symbols is None:
            return f" {token_id}"
        text = self._engine.decode([token_id], skip_special_tokens=False)
        if "\N{REPLACEMENT CHARACTER}" in text and BYTE_OF_SYMBOL.keys() >= set(symbols):
            return spell(bytes(BYTE_OF_SYMBOL[symbol] for symbol in symbols))
        return text

    def state(self) -> dict[str, Any]:
        """Returns the options and the contents of the file."""
        engine = self._engine
        content = None if engine is None else json.loads(engine.to_str())
        return {"options": self.options(), "engine": content}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Makes the tokenizer with this vocabulary, without the file."""
        tokenizer = cls(**state["options"])
        if state["engine"] is not None:
            tokenizer._engine = _text_alone(
                huggingface.Tokenizer.from_str(json.dumps(state["engine"]))
            )
        return tokenizer

    @cached_property
    def _engine(self) -> huggingface.Tokenizer | None:
        if self.file is None:
            return None
        try:
            engine = huggingface.Tokenizer.from_file(str(self.file))
        except Exception as error:  # the library raises nothing more specific
            raise DataError(
                f"tokenizer.file: {self.file} cannot be read as a tokenizer.json of the Hugging "
                f"Face library ({str(error)[:200]}); name another"
            ) from error
        if (count := engine.get_vocab_size()) > self.size:
            raise DataError(
                f"tokenizer.file: {self.file} has {count} tokens, but tokenizer.vocab_size is "
                f"{self.size}; set it to {count} or more"
            )
        return _text_alone(engine)


def _text_alone(engine: huggingface.Tokenizer) -> huggingface.Tokenizer:
    """Makes an engine that never encodes text as a special token."""
    engine.encode_special_tokens = True
    return engine
