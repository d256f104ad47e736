"""Native sparse attention (NSA). Yuan et al. 2025, arXiv:2502.11089

    weights_i = g_i1 compressed_i + g_i2 chosen_i + g_i3 near_i        g_i = sigmoid(x_i W + b)
    compressed: softmax over the whole blocks before i, each as one key k~_n = sum_j e_j k_j
    chosen: softmax over the keys of the blocks with the largest compressed weight, and of its own
    near: softmax over the last w keys

A compressed block is a mixture of its keys and values, with shares e that each head learns for the
places in a block. The compressed weights also choose the blocks whose keys are read one by one; the
choice itself has no gradient. With gates (0, 1, 0) and all blocks chosen, this is full attention.

The paper compresses overlapping blocks by an MLP, gives each of the three its own keys and values,
and lets a group of heads choose together. Here blocks do not overlap, compression is linear, and
keys and values are shared.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Grid, Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("nsa")
class NSA(MultiHead):
    """Three gated maps: over compressed blocks, over the keys of chosen blocks, over near keys.

    Args:
        block: number of keys per block.
        num_blocks: number of blocks chosen per query, including its own.
        num_near: number of near keys, including its own.
    """

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True
    smooth = False
    map_rows = "unnormalised"
    formula = "(g₁ compressed blocks + g₂ chosen blocks + g₃ window, a softmax each) v_h"
    paper = "Yuan et al. 2025, arXiv:2502.11089"

    def __init__(
        self, dim: int, *, block: int = 8, num_blocks: int = 3, num_near: int = 16, **options
    ) -> None:
        super().__init__(dim, **options)
        for name, size in {"block": block, "num_blocks": num_blocks, "num_near": num_near}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.block, self.num_blocks, self.num_near = block, num_blocks, num_near
        self.gate = nn.Linear(dim, 3 * self.num_heads)
        self.share = nn.Parameter(torch.zeros(self.num_heads, 1, block))  # its softmax is e

    def project_query(self, x: Tensor) -> Tensor:
        """Queries carry their three gates: (B, H, T, D + 3)."""
        gates = self.gate(x).sigmoid().unflatten(-1, (self.num_heads, 3)).transpose(1, 2)
        q = super().project_query(x)
        return torch.cat((q, gates.to(q.dtype)), dim=-1)

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Applies positions to keys, and to queries without their gates."""
        turned, k = super().place(q[..., :-3], k, seen)
        return torch.cat((turned, q[..., -3:]), dim=-1), k

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, mask: Mask, grid: Grid
    ) -> Tensor:
        """The gated sum of the three maps: (B, H, T, S)."""
        gates = q[..., -3:, None].unbind(dim=-2)  # (B, H, T, 1) each
        scores = self.biased_scores(q[..., :-3], k, grid)
        allowed = mask.dense(grid.num_queries, grid.num_keys, grid.device)
        blocks, compressed = self._compressed(scores, allowed, grid)
        chosen = self._chosen(blocks.detach(), grid) & allowed
        near = (grid.query - grid.key < self.num_near) & allowed
        read = gates[1] * self._softmax(scores, chosen) + gates[2] * self._softmax(scores, near)
        return gates[0] * compressed + read

    def _softmax(self, scores: Tensor, allowed: Tensor) -> Tensor:
        return self.normalize(scores, allowed).masked_fill(~allowed, 0.0)

    def _compressed(self, scores: Tensor, allowed: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Returns the weights of the blocks (B, H, T, n), and those of the keys in them."""
        whole = grid.key - grid.key % self.block + self.block <= grid.query + 1
        share = self.share.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
        share = share[..., (grid.key % self.block).squeeze(0)] * (allowed & whole)
        total = self._by_block(share)
        # The score of a mixture of keys is that mixture of their scores.
        match = self._by_block(scores * share) / total.where(total > 0, 1.0)
        weights = self._softmax(match, total > 0)
        of_keys = self._by_key(weights / total.where(total > 0, 1.0), grid)
        return weights, of_keys * share

    def _chosen(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Returns True for the keys of the blocks with the largest weights and of its own."""
        own = self._by_block((grid.query == grid.key).to(blocks.dtype)) > 0
        blocks = blocks.masked_fill(own, torch.inf)
        least = blocks.topk(min(self.num_blocks, blocks.shape[-1]), dim=-1).values[..., -1:]
        return self._by_key(blocks >= least, grid)

    def _by_block(self, pairs: Tensor) -> Tensor:
        """Sums over the keys of each block: (..., T, S) -> (..., T, n)."""
        pairs = F.pad(pairs, (0, -pairs.shape[-1] % self.block))
        return pairs.unflatten(-1, (-1, self.block)).sum(dim=-1)

    def _by_key(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Gives each key the number of its block: (..., T, n) -> (..., T, S)."""
        return blocks.repeat_interleave(self.block, dim=-1)[..., : grid.num_keys]
