"""The two kinds of position encoding.

An `EmbeddingPosition` is added to the token embeddings once, at the input. An `AttentionPosition`
acts inside each attention, where queries meet keys: it rotates them, adds a bias to their scores,
or computes new scores from scores, queries and keys.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from attnkit.masks import Grid
from attnkit.registry import Initialised


class EmbeddingPosition(nn.Module, metaclass=Initialised):
    """A position encoding that is added to the token embeddings.

    An encoding without parameters has entries in [-1, 1]; a model scales them to the initial size
    of its token embeddings, so that neither dominates.

    Args:
        dim: width C of the model.
        max_seq_len: longest sequence of the model.
    """

    acts_on: ClassVar[Literal["embeddings"]] = "embeddings"

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.dim = dim
        self.max_seq_len = max_seq_len

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that it can encode; None: no limit."""
        return None

    @abstractmethod
    def forward(self, positions: Tensor) -> Tensor:
        """Encodes absolute positions (T,) as (T, C)."""


class AttentionPosition(nn.Module, metaclass=Initialised):
    """A position encoding that acts where queries meet keys. A subclass overrides `rotate`,
    `by_distance`, `bias` or `adjust`.

    It compares positions within one sequence, so it is for self-attention only.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head.
    """

    acts_on: ClassVar[Literal["queries_and_keys", "scores", "content"]]
    """What it changes: queries and keys, by rotation; scores, by positions only; or scores,
    depending on queries of D features.
    """

    sees_mask: ClassVar[bool] = False
    """True if `adjust` depends on the mask."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotates queries or keys (B, H, T, D) at `positions` (T,). Default: returns them
        unchanged.
        """
        return heads

    def bias(self, query: Tensor, key: Tensor) -> Tensor | None:
        """Returns the bias of the scores, or None. Not needed if `by_distance` is overridden.

        Args:
            query: absolute positions (T, 1).
            key: absolute positions (1, S).

        Returns:
            (H, T, S)
        """
        if not self.has_distances():
            return None
        distance = key - query
        return self.by_distance(distance.flatten()).unflatten(-1, distance.shape).movedim(0, -3)

    def by_distance(self, distance: Tensor) -> Tensor:
        """Returns the bias, if it only depends on distances. A block of T x S then needs only T + S
        - 1 numbers.

        Args:
            distance: (N,) integers, key position minus query position.

        Returns:
            (H, N)
        """
        raise NotImplementedError

    def score_mod(self, score: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Returns a score with its bias, for FlexAttention, given head, query and key position."""
        raise NotImplementedError

    @classmethod
    def has_bias(cls) -> bool:
        """True if it adds a bias to the scores."""
        return cls.bias is not AttentionPosition.bias or cls.has_distances()

    @classmethod
    def has_distances(cls) -> bool:
        """True if its bias only depends on distances."""
        return cls.by_distance is not AttentionPosition.by_distance

    @classmethod
    def has_score_mod(cls) -> bool:
        """True if its bias has a form for FlexAttention."""
        return cls.score_mod is not AttentionPosition.score_mod

    def adjust(self, scores: Tensor, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        """Returns the scores of an encoding that depends on the content.

        Args:
            scores: (B, H, T, S), before the mask.
            q: queries (B, H, T, D).
            k: keys (B, H_kv, S, D).
            grid: positions and mask.

        Returns:
            (B, H, T, S)
        """
        return scores
