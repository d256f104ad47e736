"""The tokenizers: bytes, characters, words, subwords by byte-pair encoding, and a given one.

The contract and `load_tokenizer` are in `tokenizer_base.py`, and may be imported from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers as huggingface
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from attnkit.data.huggingface_tokenizer import HuggingFaceTokenizer
from attnkit.data.tokenizer_base import END, UNKNOWN, Encoding, Tokenizer, decode_runs
from attnkit.data.tokenizer_base import load_tokenizer as load_tokenizer
from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS

LARGEST_VOCABULARY = 1 << 24
"""Tokens of a vocabulary at the most; the library reserves memory for all that it is asked for."""

LONG_WORD = 256
"""Characters of a word at the most, where subwords are learnt."""


@TOKENIZERS.register("byte")
class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8: 256 tokens that spell every text, and nothing to train."""

    @property
    def vocab_size(self) -> int:
        """256 bytes and `<|end|>`."""
        return 257

    def train(self, texts: Iterable[str]) -> None:
        """Does nothing: the vocabulary is fixed."""

    def encode(self, text: str) -> Encoding:
        """Returns the bytes of a text; the bytes of one character share its offsets."""
        places = [place for place, character in enumerate(text) for _ in character.encode()]
        return Encoding(list(text.encode()), [(place, place + 1) for place in places])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; what is not UTF-8 (a model may write such) becomes U+FFFD."""
        return decode_runs(
            ids, self.end_of_document_id, lambda run: bytes(run).decode(errors="replace")
        )

    def token_text(self, token_id: int) -> str:
        r"""Returns an ASCII character, or `\xe4` for a byte that is only part of a character."""
        return END if token_id == self.end_of_document_id else _spell(bytes([token_id]))

    def state(self) -> dict[str, Any]:
        """Returns nothing: there is none."""
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Makes the tokenizer."""
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
        """Id for a character that the training text did not have."""
        return len(self._codes)

    def train(self, texts: Iterable[str]) -> None:
        """Takes the distinct characters, ordered by code point."""
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        self._codes = _code_points("".join(sorted(characters)))

    def encode(self, text: str) -> Encoding:
        """Returns one token a character."""
        ids = self.encode_batch([text])[0].tolist()
        return Encoding(ids, [(place, place + 1) for place in range(len(text))])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns one id a character."""
        self.require_vocabulary()
        return [self._look_up(_code_points(text)) for text in texts]

    def _look_up(self, points: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._codes, points)
        known = self._codes[np.minimum(places, len(self._codes) - 1)] == points
        return np.where(known, places, self.unknown_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the characters."""
        return "".join(self.token_text(token_id) for token_id in ids)

    def token_text(self, token_id: int) -> str:
        """Returns the character."""
        if token_id == self.end_of_document_id:
            return END
        return UNKNOWN if token_id == self.unknown_id else chr(self._codes[token_id])

    def state(self) -> dict[str, Any]:
        """Returns the characters."""
        return {"characters": "".join(map(chr, self._codes))}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Makes the tokenizer with these characters."""
        tokenizer = cls()
        tokenizer._codes = _code_points(state["characters"])
        return tokenizer


@TOKENIZERS.register("word")
class WordTokenizer(HuggingFaceTokenizer):
    """Words with the space before them, single digits, single punctuation marks.

    What is cut is lossless: the tokens of a text, joined, are the text. Words that are too rare
    for the vocabulary become `<|unknown|>`.

    Args:
        max_vocab: size of the vocabulary at most, `<|unknown|>` and `<|end|>` included; the most
            frequent words are kept.
    """

    def __init__(self, *, max_vocab: int = 20000) -> None:
        if not 3 <= max_vocab <= LARGEST_VOCABULARY:
            raise DataError(
                f"tokenizer.max_vocab must be from 3 to {LARGEST_VOCABULARY:,}, got {max_vocab}"
            )
        self.max_vocab = max_vocab

    def options(self) -> dict[str, Any]:
        """Returns the size asked for."""
        return {"max_vocab": self.max_vocab}

    @property
    def unknown_id(self) -> int:
        """Id for a word that is not in the vocabulary, the last but one."""
        return self.vocab_size - 2

    def token_text(self, token_id: int) -> str:
        """Returns the word, with the space before it if it has one."""
        return self.decode([token_id])

    def _train_engine(self, texts: Iterator[str]) -> huggingface.Tokenizer:
        engine = self._engine_with({})
        trainer = trainers.WordLevelTrainer(vocab_size=self.max_vocab - 2, show_progress=False)
        engine.train_from_iterator(texts, trainer)
        words = engine.get_vocab(with_added_tokens=False)
        # Added as an ordinary word and not as a "special token", which the library would look for
        # in the text. The cut never makes this word, so that no text can spell it.
        return self._engine_with(words | {UNKNOWN: len(words)})

    def _engine_with(self, vocabulary: dict[str, int]) -> huggingface.Tokenizer:
        engine = huggingface.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        # Letters with their combining marks, a digit, a mark, each with one space before it; or
        # white space that belongs to none of them. Together they match every character.
        words = Regex(r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s")
        engine.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
        engine.decoder = decoders.Fuse()
        return engine


@TOKENIZERS.register("bpe")
class BpeTokenizer(HuggingFaceTokenizer):
    """Subwords by byte-pair encoding over bytes (Sennrich et al. 2016): spells every text.

    A word of more than 256 characters (text without blanks, a line of dashes) is cut there before
    subwords are learnt, since the time for a word grows with the square of its length; it is
    encoded as a whole.

    Args:
        vocab_size: size of the vocabulary, 256 bytes and `<|end|>` included. A text with too few
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
        """Returns the size asked for."""
        return {"vocab_size": self.max_vocab_size}

    def token_text(self, token_id: int) -> str:
        r"""Returns the subword; bytes that are only part of a character as `\xe4`."""
        if token_id == self.end_of_document_id:
            return END
        symbols = self._trained.id_to_token(token_id)
        if symbols is None:
            raise IndexError(f"no token has the id {token_id} (ids end at {self.vocab_size - 1})")
        return _spell(bytes(_BYTE_OF_SYMBOL[symbol] for symbol in symbols))

    def _train_engine(self, texts: Iterator[str]) -> huggingface.Tokenizer:
        engine = huggingface.Tokenizer(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.max_vocab_size - 1,
            initial_alphabet=sorted(_BYTE_OF_SYMBOL),
            show_progress=False,
        )
        engine.train_from_iterator(_without_long_words(texts), trainer)
        return engine


@TOKENIZERS.register("given")
class GivenTokenizer(Tokenizer):
    """A vocabulary that somebody else made, such as GPT-2's; nothing is trained.

    With `file` it reads and writes text. Without one, for data that is tokens already, a token is
    written as its number: samples and maps show ` 464 3290`, and a prompt is given so.

    Args:
        vocab_size: tokens that the model has room for; what the vocabulary does not use stays
            unused. GPT-2 has 50,257.
        end: the token between documents; GPT-2's `<|endoftext|>` is 50,256.
        file: `tokenizer.json` of the vocabulary, as the Hugging Face library writes it.
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
        """As given."""
        return self.size

    @property
    def end_of_document_id(self) -> int:
        """As given."""
        return self.end

    @property
    def reads_text(self) -> bool:
        """False without a file."""
        return self.file is not None or self._engine is not None

    def options(self) -> dict[str, Any]:
        """Returns the size and the end; what the file holds is part of `state`."""
        return {"vocab_size": self.size, "end": self.end}

    def train(self, texts: Iterable[str]) -> None:
        """Does nothing: the vocabulary is given."""

    def encode(self, text: str) -> Encoding:
        """Returns the tokens of a text, or the numbers that it spells.

        Raises:
            DataError: if there is no file and the text is not made of numbers of tokens.
        """
        if self._engine is not None:
            encoded = self._engine.encode(text, add_special_tokens=False)
            return Encoding(encoded.ids, encoded.offsets)
        words = list(re.finditer(r"\s*(\S+)", text))
        wrong = (w[1] for w in words if not (w[1].isdecimal() and int(w[1]) < self.size))
        if (word := next(wrong, None)) is not None:
            raise DataError(
                f"`{word[:40]}` is no number of a token below {self.size}, and the words of this "
                "vocabulary are not known; name its tokenizer.json in tokenizer.file"
            )
        return Encoding([int(word[1]) for word in words], [word.span() for word in words])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text."""
        if self._engine is None:
            return [np.array(self.encode(text).ids, np.int64) for text in texts]
        encoded = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int64) for one in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text, or the numbers, each behind a space."""
        engine = self._engine
        if engine is None:
            return "".join(map(self.token_text, ids))
        return decode_runs(ids, self.end, lambda run: engine.decode(run, skip_special_tokens=False))

    def token_text(self, token_id: int) -> str:
        r"""Returns the text of a token, or its number behind a space; part of a character as
        `\xe4`.
        """
        if token_id == self.end:
            return END
        symbols = None if self._engine is None else self._engine.id_to_token(token_id)
        if self._engine is None or symbols is None:
            return f" {token_id}"
        text = self._engine.decode([token_id], skip_special_tokens=False)
        if "\N{REPLACEMENT CHARACTER}" in text and _BYTE_OF_SYMBOL.keys() >= set(symbols):
            return _spell(bytes(_BYTE_OF_SYMBOL[symbol] for symbol in symbols))
        return text

    def state(self) -> dict[str, Any]:
        """Returns the options, and what the file holds."""
        engine = self._engine
        held = None if engine is None else json.loads(engine.to_str())
        return {"options": self.options(), "engine": held}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Makes the tokenizer with this vocabulary; there is no file any more."""
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
        except Exception as error:  # the library raises nothing more exact
            raise DataError(
                f"tokenizer.file: {self.file} cannot be read as a tokenizer.json of the Hugging "
                f"Face library ({str(error)[:200]}); name another"
            ) from error
        if (there := engine.get_vocab_size()) > self.size:
            raise DataError(
                f"tokenizer.file: {self.file} has {there} tokens, and tokenizer.vocab_size is "
                f"{self.size}; set it to {there} or more"
            )
        return _text_alone(engine)


def _text_alone(engine: huggingface.Tokenizer) -> huggingface.Tokenizer:
    """The same; no text is read as a special token."""
    engine.encode_special_tokens = True
    return engine


_LONG_STRETCH = re.compile(rf"\S{{{LONG_WORD}}}|\s{{{LONG_WORD}}}")
"""What must be there for a long word; looking for it takes a quarter of the time."""

_LONG_RUN = re.compile(rf"[^\W_]{{{LONG_WORD}}}|\s{{{LONG_WORD}}}|(?:[^\w\s]|_){{{LONG_WORD}}}")
"""So many characters of one kind; whatever the library takes for one word is of one kind."""


def _without_long_words(texts: Iterator[str]) -> Iterator[str]:
    """The texts in parts, so that no word is longer than `LONG_WORD`."""
    for text in texts:
        start = 0
        for found in _LONG_RUN.finditer(text) if _LONG_STRETCH.search(text) else ():
            yield text[start : found.end()]
            start = found.end()
        yield text[start:]


def _byte_symbols() -> dict[str, int]:
    """Returns the letters by which the library's byte-level vocabularies write the 256 bytes.

    Bytes that print in Latin-1 stand for themselves, the others for the code points from 256 on.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    symbols = {chr(byte): byte for byte in printing}
    return symbols | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_SYMBOL = _byte_symbols()


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _spell(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
