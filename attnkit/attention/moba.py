"""Mixture of block attention (MoBA). Lu et al. 2025, arXiv:2502.13189, section 2.2.

    weights = softmax over the keys of the n blocks with the largest q_i . mean(k of the block)

Each query attends to its own block of keys, and to the earlier whole blocks with the largest score
of their mean key. If all blocks are chosen, this is full attention.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Grid, Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("moba")
class MoBA(MultiHead):
    """Each query attends to its own block of keys and to the few with the highest scores.

    Args:
        block: number of keys per block.
        num_blocks: number of blocks per query, including its own.
    """

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True
    smooth = False
    formula = "softmax(q_h k_hᵀ / √D over the blocks with the largest q_h · mean(k_h)) v_h"
    paper = "Lu et al. 2025, arXiv:2502.13189, section 2.2"

    def __init__(self, dim: int, *, block: int = 16, num_blocks: int = 3, **options) -> None:
        super().__init__(dim, **options)
        if block < 1 or num_blocks < 1:
            raise ValueError(f"block {block} and num_blocks {num_blocks} must be at least 1")
        self.block, self.num_blocks = block, num_blocks

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, mask: Mask, grid: Grid
    ) -> Tensor:
        """Softmax over the keys of the chosen blocks: (B, H, T, S)."""
        scores = self.biased_scores(q, k, grid)
        chosen = self._chosen(scores.detach(), grid)
        return self.normalize(scores, chosen).masked_fill(~chosen, 0.0)

    def _chosen(self, scores: Tensor, grid: Grid) -> Tensor:
        """Returns True for the allowed keys of the chosen blocks: (B, H, T, S)."""
        keys = grid.num_keys
        allowed = grid.mask.dense(grid.num_queries, keys, grid.device)
        # The score of a mean key is the mean of the scores, over the allowed keys.
        sums, seen = (self._by_block(part) for part in (scores * allowed, allowed.to(scores.dtype)))
        own = self._by_block(grid.query == grid.key) > 0
        match = (sums / seen.clamp(min=1)).masked_fill(seen == 0, -torch.inf)
        match = match.masked_fill(own, torch.inf)
        count = min(self.num_blocks, match.shape[-1])
        least = match.topk(count, dim=-1).values[..., -1:]
        chosen = (match >= least) & (seen > 0)
        return chosen.repeat_interleave(self.block, dim=-1)[..., :keys] & allowed

    def _by_block(self, pairs: Tensor) -> Tensor:
        """Sums over the keys of each block: (..., T, S) -> (..., T, blocks)."""
        pairs = F.pad(pairs.to(torch.float32), (0, -pairs.shape[-1] % self.block))
        return pairs.unflatten(-1, (-1, self.block)).sum(dim=-1)
