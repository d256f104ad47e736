"""The queries and keys of one call, for steps that look at more than their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.masks import AllOf, Mask, NoMask
from attnkit.once import positions


@dataclass(frozen=True)
class Grid:
    """The T queries and S keys of one call. The last query stands at the last key, unless the mask
    says where.

    A step of `ScoreAttention` gets one by naming it: `def scores(self, q, k, grid)`.

    Attributes:
        mask: which query may look at which key.
        num_queries: T.
        num_keys: S.
        device: where tensors are made.
        carried: (B, H', S, E), what `carry` gave for every token so far; None: nothing is carried.
    """

    mask: Mask
    num_queries: int
    num_keys: int
    device: torch.device
    carried: Tensor | None = None

    @staticmethod
    def of(q: Tensor, k: Tensor, mask: Mask, carried: Tensor | None = None) -> Grid:
        """The grid of queries (B, H, T, D) and keys (B, H_kv, S, D)."""
        return Grid(mask, q.shape[2], k.shape[2], q.device, carried)

    @property
    def offset(self) -> int | Tensor:
        """Position of the first query: S - T, or a tensor, see `Mask.first_query`."""
        return self.mask.first_query(self.num_queries, self.num_keys)

    @property
    def query(self) -> Tensor:
        """Positions of the queries (T, 1)."""
        return positions(self.offset, self.num_queries, self.device).view(-1, 1)

    @property
    def key(self) -> Tensor:
        """Positions of the keys (1, S)."""
        return positions(0, self.num_keys, self.device).view(1, -1)

    @property
    def allowed(self) -> Tensor | None:
        """Boolean (1 or B, 1, T, S), True where a query may look at a key; None: everywhere."""
        if isinstance(self.mask, NoMask):
            return None
        return self.mask.dense(self.num_queries, self.num_keys, self.device)

    def all_queries(self) -> Grid:
        """The grid in which every token so far asks: (S, S), with what is carried as its queries.
        Its last T rows are this grid's.
        """
        return Grid(self.mask, self.num_keys, self.num_keys, self.device, self.carried)


class Placed(AllOf):
    """A mask whose queries do not stand at the last keys, but where a tensor says: in a memory of
    fixed size, later keys are room that is not used yet. Code makes it, no recipe names it.

    Args:
        mask: the rule, bound to its batch, which never shows a later key.
        first: position of the first query, () integer.
    """

    def __init__(self, mask: Mask, first: Tensor) -> None:
        super().__init__(masks=[mask])
        self.first = first

    def first_query(self, num_queries: int, num_keys: int) -> Tensor:
        return self.first

    def parts(self) -> tuple[Mask, ...]:
        """Itself: its parts would not know the place."""
        return (self,)
