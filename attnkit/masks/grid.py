"""The positions of queries and keys of one call, for steps that depend on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.masks.once import positions
from attnkit.masks.rules import AllOf, Mask, NoMask


@dataclass(frozen=True)
class Grid:
    """The T queries and S keys of one call. The last query is at the last key, unless the mask
    states otherwise.

    A step of `ScoreAttention` that has a parameter `grid` receives it:
    `def scores(self, q, k, grid)`.

    Attributes:
        mask: which query may attend to which key.
        num_queries: T.
        num_keys: S.
        device: for new tensors.
        carried: (B, H', S, E), the result of `carry` for every token so far; None: nothing is
            carried.
    """

    mask: Mask
    num_queries: int
    num_keys: int
    device: torch.device
    carried: Tensor | None = None

    @staticmethod
    def of(q: Tensor, k: Tensor, mask: Mask, carried: Tensor | None = None) -> Grid:
        """Makes the grid of queries (B, H, T, D) and keys (B, H_kv, S, D)."""
        return Grid(mask, q.shape[2], k.shape[2], q.device, carried)

    @property
    def offset(self) -> int | Tensor:
        """Position of the first query, see `Mask.first_query`."""
        return self.mask.first_query(self.num_queries, self.num_keys)

    @property
    def query(self) -> Tensor:
        """Positions of the queries (T, 1)."""
        return positions(self.offset, self.num_queries, self.device).view(-1, 1)

    @property
    def key(self) -> Tensor:
        """Positions of the keys (1, S)."""
        return positions(self.mask.first_key, self.num_keys, self.device).view(1, -1)

    @property
    def allowed(self) -> Tensor | None:
        """Boolean (1 or B, 1, T, S), True where a query may attend to a key; None: everywhere."""
        if isinstance(self.mask, NoMask):
            return None
        return self.mask.dense(self.num_queries, self.num_keys, self.device)

    def all_queries(self) -> Grid:
        """Returns the grid in which every token so far is a query: (S, S), with `carried` as the
        queries. Its last T rows are this grid's.
        """
        return Grid(self.mask, self.num_keys, self.num_keys, self.device, self.carried)


class Placed(AllOf):
    """A mask whose queries are at the position in a tensor, not at the last keys. In a cache of
    fixed size, later keys are unused memory. Created by code only, not by recipes.

    Args:
        mask: the rule, bound to its batch, which never allows a later key.
        first: position of the first query, () integer.
    """

    def __init__(self, mask: Mask, first: Tensor) -> None:
        super().__init__(masks=[mask])
        self.first = first

    def first_query(self, num_queries: int, num_keys: int) -> Tensor:
        return self.first

    def parts(self) -> tuple[Mask, ...]:
        """Returns the mask itself: its parts lack the position."""
        return (self,)


class Recent(AllOf):
    """A mask over the keys that a cache has kept. It has dropped those before them, because no
    query looks that far back. Created by code only, not by recipes.

    Args:
        mask: the rule, bound to its batch.
        first_key: position of the first key that is left; a () tensor in a cache of fixed size,
            where it may be below 0: such keys are reserved memory.
    """

    def __init__(self, mask: Mask, first_key: int | Tensor) -> None:
        super().__init__(masks=[mask])
        self.first_key = first_key

    def first_query(self, num_queries: int, num_keys: int) -> int | Tensor:
        rule = self.masks[0]
        if isinstance(rule, Placed):
            return rule.first
        return super().first_query(num_queries, num_keys)

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        allowed = super().allowed(batch, query, key)
        return allowed & (key >= 0) if isinstance(self.first_key, Tensor) else allowed

    def parts(self) -> tuple[Mask, ...]:
        """Returns the mask itself: its parts lack the position."""
        return (self,)
