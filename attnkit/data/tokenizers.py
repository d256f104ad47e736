"""The trained tokenizers: bytes, characters, words, and subwords by byte-pair encoding.

The contract is in `tokenizer_base.py`; `load_tokenizer` may be imported from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import tokenizers as huggingface
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from attnkit.data.given_tokenizer import GivenTokenizer as GivenTokenizer
from attnkit.data.huggingface_tokenizer import (
    BYTE_OF_SYMBOL,
    LARGEST_VOCABULARY,
    HuggingFaceTokenizer,
    spell,
)
from attnkit.data.tokenizer_base import END, UNKNOWN, Encoding, Tokenizer, decode_runs
from attnkit.data.tokenizer_base import load_tokenizer as load_tokenizer
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS

LONG_WORD = 256
"""Longest word in characters from which subwords are learned."""


@TOKENIZERS.register("byte")
class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8: 256 tokens that encode every text; nothing to train."""

    @property
    def vocab_size(self) -> int:
        """256 bytes and `<|end|>`."""
        return 257

    def train(self, texts: Iterable[str]) -> None:
        """Does nothing: the vocabulary is fixed."""

    def encode(self, text: str) -> Encoding:
        """Returns the bytes of a text; all bytes of a character have its offsets."""
        places = [place for place, character in enumerate(text) for _ in character.encode()]
        return Encoding(list(text.encode()), [(place, place + 1) for place in places])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; invalid UTF-8 becomes U+FFFD."""
        return decode_runs(
            ids, self.end_of_document_id, lambda run: bytes(run).decode(errors="replace")
        )

    def token_text(self, token_id: int) -> str:
        r"""Returns an ASCII character, or `\xe4` for a byte that is only part of a character."""
        return END if token_id == self.end_of_document_id else spell(bytes([token_id]))

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls()


@TOKENIZERS.register("char")
class CharTokenizer(Tokenizer):
    """The distinct characters of the training text; any other becomes `<|unknown|>`.

    A character is a Unicode code point: an emoji with a skin tone is two tokens.
    """

    def __init__(self) -> None:
        self._codes = _code_points("")

    @property
    def vocab_size(self) -> int:
        """The characters, `<|unknown|>` and `<|end|>`; 0 before `train`."""
        return len(self._codes) + 2 if len(self._codes) else 0

    @property
    def unknown_id(self) -> int:
        """Id for characters that are not in the training text."""
        return len(self._codes)

    def train(self, texts: Iterable[str]) -> None:
        """Collects the distinct characters, ordered by code point."""
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        self._codes = _code_points("".join(sorted(characters)))

    def encode(self, text: str) -> Encoding:
        ids = self.encode_batch([text])[0].tolist()
        return Encoding(ids, [(place, place + 1) for place in range(len(text))])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        self.require_vocabulary()
        return [self._look_up(_code_points(text)) for text in texts]

    def _look_up(self, points: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._codes, points)
        known = self._codes[np.minimum(places, len(self._codes) - 1)] == points
        return np.where(known, places, self.unknown_id)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.token_text(token_id) for token_id in ids)

    def token_text(self, token_id: int) -> str:
        if token_id == self.end_of_document_id:
            return END
        return UNKNOWN if token_id == self.unknown_id else chr(self._codes[token_id])

    def state(self) -> dict[str, Any]:
        return {"characters": "".join(map(chr, self._codes))}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        tokenizer = cls()
        tokenizer._codes = _code_points(state["characters"])
        return tokenizer


@TOKENIZERS.register("word")
class WordTokenizer(HuggingFaceTokenizer):
    """Words with the space before them, single digits, single punctuation marks.

    The split is lossless: the concatenated tokens are the text. Words that are too rare for the
    vocabulary become `<|unknown|>`.

    Args:
        max_vocab: largest size of the vocabulary, including `<|unknown|>` and `<|end|>`; the most
            frequent words are kept.
    """

    def __init__(self, *, max_vocab: int = 20000) -> None:
        if not 3 <= max_vocab <= LARGEST_VOCABULARY:
            raise DataError(
                f"tokenizer.max_vocab must be from 3 to {LARGEST_VOCABULARY:,}, got {max_vocab}"
            )
        self.max_vocab = max_vocab

    def options(self) -> dict[str, Any]:
        return {"max_vocab": self.max_vocab}

    @property
    def unknown_id(self) -> int:
        """Id for words that are not in the vocabulary, the last but one."""
        return self.vocab_size - 2

    def token_text(self, token_id: int) -> str:
        """Returns the word, with the space before it if there is one."""
        return self.decode([token_id])

    def _train_engine(self, texts: Iterator[str]) -> huggingface.Tokenizer:
        engine = self._engine_with({})
        trainer = trainers.WordLevelTrainer(vocab_size=self.max_vocab - 2, show_progress=False)
        engine.train_from_iterator(texts, trainer)
        words = engine.get_vocab(with_added_tokens=False)
        # Added as an ordinary word, not as a "special token", which the library would look for in
        # the text. The split never produces this word, so no text is encoded as it.
        return self._engine_with(words | {UNKNOWN: len(words)})

    def _engine_with(self, vocabulary: dict[str, int]) -> huggingface.Tokenizer:
        engine = huggingface.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        # Letters with their combining marks, a digit, or a mark, each with one space before it; or
        # other white space. Together they match every character.
        words = Regex(r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s")
        engine.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
        engine.decoder = decoders.Fuse()
        return engine


@TOKENIZERS.register("bpe")
class BpeTokenizer(HuggingFaceTokenizer):
    """Subwords by byte-pair encoding over bytes (Sennrich et al. 2016); encodes every text.

    Words of more than 256 characters (text without spaces, a line of dashes) are cut before
    training, whose time grows with the square of a word's length. They are encoded as a whole.

    Args:
        vocab_size: size of the vocabulary, including 256 bytes and `<|end|>`. A text with too few
            repetitions gives a smaller one.
    """

    def __init__(self, *, vocab_size: int = 4096) -> None:
        if not 257 <= vocab_size <= LARGEST_VOCABULARY:
            raise DataError(
                f"tokenizer.vocab_size must be from 257 (256 bytes and {END}) to "
                f"{LARGEST_VOCABULARY:,}, got {vocab_size}"
            )
        self.max_vocab_size = vocab_size

    def options(self) -> dict[str, Any]:
        return {"vocab_size": self.max_vocab_size}

    def token_text(self, token_id: int) -> str:
        r"""Returns the subword, with parts of a character as `\xe4`."""
        if token_id == self.end_of_document_id:
            return END
        symbols = self._trained.id_to_token(token_id)
        if symbols is None:
            raise IndexError(f"no token has the id {token_id} (ids end at {self.vocab_size - 1})")
        return spell(bytes(BYTE_OF_SYMBOL[symbol] for symbol in symbols))

    def _train_engine(self, texts: Iterator[str]) -> huggingface.Tokenizer:
        engine = huggingface.Tokenizer(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.max_vocab_size - 1,
            initial_alphabet=sorted(BYTE_OF_SYMBOL),
            show_progress=False,
        )
        engine.train_from_iterator(_without_long_words(texts), trainer)
        return engine


_LONG_STRETCH = re.compile(rf"\S{{{LONG_WORD}}}|\s{{{LONG_WORD}}}")
"""A quick test for long words, four times as fast as the exact one."""

_LONG_RUN = re.compile(rf"[^\W_]{{{LONG_WORD}}}|\s{{{LONG_WORD}}}|(?:[^\w\s]|_){{{LONG_WORD}}}")
"""A run of one kind of characters; the library's words consist of one kind."""


def _without_long_words(texts: Iterator[str]) -> Iterator[str]:
    """Splits texts so that no word is longer than `LONG_WORD`."""
    for text in texts:
        start = 0
        for found in _LONG_RUN.finditer(text) if _LONG_STRETCH.search(text) else ():
            yield text[start : found.end()]
            start = found.end()
        yield text[start:]


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
