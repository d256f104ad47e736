"""Learned positions: one trained vector per position. Gehring et al. 2017, arXiv:1705.03122,
section 3.1.
"""

from torch import Tensor, nn

from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import POSITIONS


@POSITIONS.register("learned")
class Learned(EmbeddingPosition):
    """One trained vector for each position up to `max_seq_len`, added to the embeddings; no longer
    sequences.
    """

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__(dim, max_seq_len)
        self.table = nn.Embedding(max_seq_len, dim)

    @property
    def longest(self) -> int:
        return self.max_seq_len

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions)
