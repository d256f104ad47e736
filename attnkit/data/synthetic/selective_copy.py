"""Selective copying. Poli et al. 2024 (MAD), arXiv:2403.17844; Gu and Dao 2023, arXiv:2312.00752,
section 4.1.1.
"""

from __future__ import annotations

import numpy as np

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic.base import BLANK, SyntheticSource, require
from attnkit.registry import SYNTHETIC


@SYNTHETIC.register("selective_copy")
class SelectiveCopy(SyntheticSource):
    """Tokens with blanks between them, then a sign: say the tokens, without the blanks.

        3 . . 1 . 4 . | . . .        at the three blanks behind the sign: 3, 1, 4

    As MAD's selective copying: the last two tokens of the vocabulary are the blank and the sign,
    the answers are asked for at blanks behind the sign. It differs in where the tokens stand: all
    places before the sign are as likely here; in MAD the last token always stands just before it.

    Args:
        vocab_size: tokens, blank and sign included.
        num_copied: tokens to be copied.
    """

    def __init__(self, *, vocab_size: int = 16, num_copied: int = 16, **options) -> None:
        super().__init__(**options)
        require("num_copied", num_copied, 1)
        require("vocab_size", vocab_size, 4)
        self.vocab_size = vocab_size
        self.num_copied = num_copied
        self.needs = f"data.num_copied {num_copied} needs at least {2 * num_copied + 1} tokens"
        self.check_lengths()

    @property
    def symbols(self) -> list[str]:
        """Numbers, the blank, the sign."""
        return [*map(str, range(self.vocab_size - 2)), BLANK, "|"]

    def allows(self, length: int) -> bool:
        """The tokens, the sign, the answers."""
        return length >= 2 * self.num_copied + 1

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws the tokens, then the places where they stand."""
        blank, sign = self.vocab_size - 2, self.vocab_size - 1
        room = length - self.num_copied - 1
        copied = numbers.below(self.vocab_size - 2, count, self.num_copied)
        places = np.sort(numbers.distinct(room, count, self.num_copied), axis=1)
        tokens = np.full((count, length), blank, dtype=np.int64)
        np.put_along_axis(tokens, places, copied, axis=1)
        tokens[:, room] = sign
        answers = np.full((count, length), IGNORED, dtype=np.int64)
        answers[:, room + 1 :] = copied
        return tokens, answers
