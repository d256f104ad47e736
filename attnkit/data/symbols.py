"""The fixed vocabulary of a synthetic task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnkit.data.tokenizer_base import Encoding
from attnkit.errors import DataError


class Symbols:
    """Converts words separated by spaces to token ids and back.

    Args:
        words: the text of each token.
    """

    unknown_id = None

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of words."""
        return len(self.words)

    def encode(self, text: str) -> Encoding:
        """Returns the tokens of a text and their offsets.

        Raises:
            DataError: if a word is not in the vocabulary; the message names some that are.
        """
        ids, offsets, place = [], [], 0
        for word in text.split():
            if word not in self._ids:
                known = " ".join(self.words[:12]) + (" ..." if self.vocab_size > 12 else "")
                raise DataError(
                    f"{word!r} is not a token of this run's task; write its tokens with spaces "
                    f"between them: {known}"
                )
            place = text.index(word, place)
            ids.append(self._ids[word])
            offsets.append((place, place + len(word)))
            place += len(word)
        return Encoding(ids, offsets)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the words of token ids, separated by spaces."""
        return " ".join(map(self.token_text, ids))

    def token_text(self, token_id: int) -> str:
        """Returns the word of a token."""
        return self.words[token_id]
