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
    """Tokens with blanks between them, then a sign: output the tokens without the blanks.

        3 . . 1 . 4 . | . . .        at the three blanks after the sign: 3, 1, 4

    As in MAD's selective copying: the last two tokens of the vocabulary are the blank and the sign,
    and the blanks after the sign are the places of the answers. The only difference: here all
    places before the sign are equally likely; in MAD the last token is always just before it.

    Args:
        vocab_size: number of tokens, including blank and sign.
        num_copied: number of tokens to copy.
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
        return [*map(str, range(self.vocab_size - 2)), BLANK, "|"]

    def allows(self, length: int) -> bool:
        return length >= 2 * self.num_copied + 1

    def draw(self, numbers: KeyedRandom, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
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
