"""Sorting."""

from __future__ import annotations

import numpy as np

from attnkit.data.synthetic.base import Rewriting
from attnkit.registry import SYNTHETIC


@SYNTHETIC.register("sort")
class Sort(Rewriting):
    """Symbols, then a sign: output them in ascending order.

        3 1 4 1 | . . .        at the sign: 1; at the blanks: 1, 3, 4

    Not in Zoology or MAD. Repeats are allowed, and each answer is found without those before it, as
    in RASP (Weiss et al. 2021, arXiv:2106.06981).

    Args:
        vocab_size: number of tokens, including blank and sign.
    """

    def rewritten(self, symbols: np.ndarray) -> np.ndarray:
        return np.sort(symbols, axis=1)
