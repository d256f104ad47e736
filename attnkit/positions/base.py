"""The two kinds of position encoding.

One kind is added to the token embeddings, once, at the input (`EmbeddingPosition`). The other acts
inside each attention, where queries meet keys (`AttentionPosition`): it turns them, it adds a bias
to their scores, or it computes on from scores, queries and keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from attnkit.grid import Grid


class EmbeddingPosition(nn.Module, ABC):
    """A position encoding that is added to the token embeddings.

    One without parameters gives entries in [-1, 1]; a model scales them to the size that its token
    embeddings start with, so that neither drowns the other.

    Args:
        dim: width C of the model.
        max_seq_len: longest sequence that the model is built for.
    """

    acts_on: ClassVar[Literal["embeddings"]] = "embeddings"

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.dim = dim
        self.max_seq_len = max_seq_len

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that it can encode; None: of any."""
        return None

    @abstractmethod
    def forward(self, positions: Tensor) -> Tensor:
        """Encodes absolute positions (T,) as (T, C)."""


class AttentionPosition(nn.Module, ABC):
    """A position encoding that acts where queries meet keys; it overrides `rotate`,
    `by_distance`, `bias` or `adjust`.

    It compares positions within one sequence, so it serves self-attention alone.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head.
    """

    acts_on: ClassVar[Literal["queries_and_keys", "scores", "content"]]
    """Queries and keys, which it turns; scores, by positions alone; or scores by the content of
    queries of D features each.
    """

    sees_mask: ClassVar[bool] = False
    """True where `adjust` needs to know what the mask allows."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Turns queries or keys (B, H, T, D) that stand at `positions` (T,). Default: leaves them
        as they are.
        """
        return heads

    def bias(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What is added to the scores, or None. Where `by_distance` says it, nothing is left to do.

        Args:
            query: absolute positions (..., T, 1).
            key: absolute positions (..., 1, S).

        Returns:
            (..., H, T, S)
        """
        if not self.has_distances():
            return None
        distance = key - query
        return self.by_distance(distance.flatten()).unflatten(-1, distance.shape).movedim(0, -3)

    def by_distance(self, distance: Tensor) -> Tensor:
        """The bias, where it depends on distances alone. A block of T x S then takes T + S - 1
        numbers and no more.

        Args:
            distance: (N,) integers, key position minus query position.

        Returns:
            (H, N)
        """
        raise NotImplementedError

    def score_mod(self, score: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """The bias for FlexAttention: a score at one head, query and key position -> that score
        with its bias.
        """
        raise NotImplementedError

    @classmethod
    def has_bias(cls) -> bool:
        """True if it adds something to the scores."""
        return cls.bias is not AttentionPosition.bias or cls.has_distances()

    @classmethod
    def has_distances(cls) -> bool:
        """True if its bias depends on distances alone."""
        return cls.by_distance is not AttentionPosition.by_distance

    @classmethod
    def has_score_mod(cls) -> bool:
        """True if its bias has a form for FlexAttention."""
        return cls.score_mod is not AttentionPosition.score_mod

    def adjust(self, scores: Tensor, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        """Scores as an encoding makes them that acts on content.

        Args:
            scores: (B, H, T, S), before the mask.
            q: queries (B, H, T, D).
            k: keys (B, H_kv, S, D).
            grid: positions and mask.

        Returns:
            (B, H, T, S)
        """
        return scores
