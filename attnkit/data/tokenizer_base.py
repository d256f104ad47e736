"""The contract of tokenizers: text to token ids and back, with the offsets of every token.

Every vocabulary trained here ends in one special token, `<|end|>`, which separates documents; a
given vocabulary names its own. The token has no spelling, so no text is ever encoded as it.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from attnkit.errors import DataError
from attnkit.registry import TOKENIZERS, RegistryError
from attnkit.storage.files import atomic_write, parse_json

if TYPE_CHECKING:
    from attnkit.data.symbols import Symbols

END = "<|end|>"
"""Text of the token between documents; see `Tokenizer.end_of_document_id`."""

UNKNOWN = "<|unknown|>"
"""Text of the token for unknown text; see `Tokenizer.unknown_id`."""

UNREADABLE = "□"
"""Sign for unknown text in generated text, for readers."""

FILE_NAME = "tokenizer.json"


class Encoding(NamedTuple):
    """Token ids of a text, and the range of characters (first, one past the last) of each."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer(ABC):
    """Converts text to token ids and back.

    A subclass takes its options as keyword-only parameters, and returns from `options` those that
    its vocabulary depends on. Without a vocabulary, all methods but `train`, `options` and
    `vocab_size` raise a DataError.
    """

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids, including special ones; 0 before training."""

    @property
    def end_of_document_id(self) -> int:
        """Id of the token that separates documents. Default: the last."""
        self.require_vocabulary()
        return self.vocab_size - 1

    @property
    def unknown_id(self) -> int | None:
        """Id for text outside the vocabulary; None if every text can be encoded."""
        return None

    @property
    def reads_text(self) -> bool:
        """False if only the numbers of the tokens are known, not their text."""
        return True

    def options(self) -> dict[str, Any]:
        """Returns the options that the vocabulary depends on; they identify a cached one."""
        return {}

    @abstractmethod
    def train(self, texts: Iterable[str]) -> None:
        """Trains the vocabulary on a text, which may come in pieces."""

    @abstractmethod
    def encode(self, text: str) -> Encoding:
        """Returns the tokens of a text and their offsets."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, without offsets: the fast way, for whole corpora."""

    def prompt(self, text: str) -> list[int]:
        """Returns the ids of a text to continue. A text without tokens, such as a line break that
        has none, becomes the start of a document.
        """
        return self.encode(text).ids or [self.end_of_document_id] * bool(text)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids; special tokens appear by their names."""

    def readable(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids for readers: a blank line between documents, and `□` for
        unknown text.
        """
        special = {self.end_of_document_id: "\n\n", self.unknown_id: UNREADABLE}
        texts = []
        for shown, group in groupby(ids, special.get):
            run = list(group)
            texts.append(self.decode(run) if shown is None else shown * len(run))
        return "".join(texts)

    @abstractmethod
    def token_text(self, token_id: int) -> str:
        r"""Returns the text of one token, for labels; parts of a character as `\xe4`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns the input of `from_state`, in plain types."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Makes the tokenizer from its `state`."""

    def require_vocabulary(self) -> None:
        """Raises a DataError if there is no vocabulary."""
        if self.vocab_size == 0:
            raise DataError(
                f"the {TOKENIZERS.name_of(type(self))} tokenizer has no vocabulary yet; call "
                "train(texts), or load_tokenizer(folder) for a saved one"
            )

    def fingerprint(self) -> str:
        """Returns a sha256 over the kind and the vocabulary."""
        return _digest(TOKENIZERS.name_of(type(self)), self.state())

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` to a folder, atomically."""
        self.require_vocabulary()
        kind, state = TOKENIZERS.name_of(type(self)), self.state()
        content = {"kind": kind, "sha256": _digest(kind, state), "state": state}
        with atomic_write(Path(folder) / FILE_NAME) as file:
            file.write(json.dumps(content, ensure_ascii=False).encode())


def load_tokenizer(folder: Path) -> Tokenizer:
    """Reads the tokenizer that `Tokenizer.save` wrote to a folder.

    Raises:
        DataError: if `tokenizer.json` is missing or damaged, or of a kind that is not registered.
    """
    path = Path(folder) / FILE_NAME
    try:
        content = parse_json(path.read_bytes())
        kind, state = content["kind"], content["state"]
        intact = _digest(kind, state) == content["sha256"]
        found = TOKENIZERS.get(kind) if intact else None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); give the folder of a run"
        ) from error
    except RegistryError as error:
        raise DataError(f"{path}: {error}; load the plugin that registers it") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged or no tokenizer; restore it or train again") from error
    if found is None:
        raise DataError(f"{path} is damaged (its sha256 differs); restore it or train again")
    try:
        return found.from_state(state)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a Rust library is not an Exception
        raise DataError(
            f"{path} is not a vocabulary of the {kind} tokenizer ({type(error).__name__}: "
            f"{str(error)[:200]}); restore it or train again"
        ) from error


def unknown_in(tokenizer: Tokenizer | Symbols, text: str) -> list[str]:
    """Returns the parts of a text that the vocabulary lacks, each once, for readers: without the
    space before it, and invisible characters as code points (`U+00A0`).
    """
    encoding = tokenizer.encode(text)
    unknown = [
        text[start:stop]
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        if token == tokenizer.unknown_id
    ]
    return list(dict.fromkeys(_readable(part) for part in unknown))


def _readable(text: str) -> str:
    word = text.strip(" ")
    return "".join(c if word and c.isprintable() else f"U+{ord(c):04X}" for c in word or text)


def decode_runs(ids: Iterable[int], end_id: int, decode: Callable[[list[int]], str]) -> str:
    """Decodes the runs between end tokens, each as a whole, and shows the end tokens."""
    texts = []
    for is_end, group in groupby(ids, lambda token_id: token_id == end_id):
        run = list(group)
        texts.append(END * len(run) if is_end else decode(run))
    return "".join(texts)


def _digest(kind: str, state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([kind, state], sort_keys=True).encode()).hexdigest()
