"""Cross-layer attention: neighbouring layers share keys and values. Brandon et al. 2024,
arXiv:2405.12981, section 2.

head_h = softmax(q_h k_gᵀ / sqrt(D)) v_g        k, v from the lowest layer of the group of layers
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnkit.attention.base import Attention
from attnkit.attention.grouped_query import GroupedQuery
from attnkit.attention.stream import Stream
from attnkit.masks.once import positions
from attnkit.registry import ATTENTION

KEYS, VALUES = "keys of the group", "values of the group"


@ATTENTION.register("cross_layer")
class CrossLayer(GroupedQuery):
    """Grouped-query attention in which `share` layers use the keys and values of the lowest one.
    The others have no key and value projections and no cache.

    Args:
        share: number of layers that share one set of keys and values.
    """

    roles = frozenset({"self"})
    formula = "concat_h softmax(q_h k_gᵀ / √D) v_g,  k and v of the lowest of `share` layers"
    paper = "Brandon et al. 2024, arXiv:2405.12981, section 2"

    def __init__(self, dim: int, *, share: int = 2, **options: Any) -> None:
        super().__init__(dim, **options)
        if share < 1:
            raise ValueError(f"share must be at least 1, got {share}")
        self.share = share

    def above(self, below: Sequence[Attention]) -> None:
        own = [each for each in below if isinstance(each, CrossLayer)]
        lent = len(own) - next(
            (i for i in reversed(range(len(own))) if own[i].lender is None), len(own)
        )
        if lent == 0 or lent >= self.share:  # no lender below, or its group is complete
            return
        lender = own[-lent]
        if (lender.num_kv_heads, lender.head_dim) != (self.num_kv_heads, self.head_dim):
            raise ValueError(
                f"cross_layer reads {self.num_kv_heads} heads of keys of width {self.head_dim}, "
                f"and layer {lender.layer}, whose keys it uses, has {lender.num_kv_heads} of width "
                f"{lender.head_dim}"
            )
        self.lender = lender.layer
        self.key = self.value = None  # pyright: ignore[reportAttributeAccessIssue]

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        if self.lender is None:
            return super().project_context(context)
        nothing = context.new_zeros(context.shape[0], self.num_kv_heads, context.shape[1], 0)
        return nothing, nothing

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        if self.lender is None or self.position is None:
            return super().place(q, k, seen)
        return self.position.rotate(q, positions(seen, q.shape[2], q.device)), k

    def exchange(self, k: Tensor, v: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        if self.lender is None:
            stream.shared[KEYS], stream.shared[VALUES] = k, v
        return stream.shared[KEYS], stream.shared[VALUES]

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        return 4 * pairs * self.num_heads * self.head_dim

    def cache_elements(self, num_tokens: int) -> int:
        return 0 if self.lender is not None else super().cache_elements(num_tokens)
