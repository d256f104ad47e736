"""Multi-token attention. Golovneva et al. 2025, arXiv:2504.00927, section 3.

    weights_g = sum_h M[g, h] softmax(conv_h(q_h k_hᵀ / sqrt(D)))
    head_g = rms_norm(weights_g v_g)

A weight depends on several queries and keys at once: scores are convolved over neighbouring queries
and keys, and the maps of different heads are mixed. The convolution starts as the identity.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Grid, Mask
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION


@ATTENTION.register("multi_token")
class MultiToken(MultiHead):
    """Scores are convolved over neighbouring queries and keys, weights are mixed over heads.

    Args:
        query_width: queries in the window of a score, its own and earlier ones.
        key_width: keys in the window of a score, centred on its own.
    """

    roles = frozenset(("self",))
    mask_names = frozenset(("causal", "padding"))
    causal_only = True
    knows_order = True
    map_rows = "signed"
    smooth = False
    optimizer_roles: ClassVar = {"heads_mix": "plain"}
    formula = "M softmax(conv(q_h k_hᵀ / √D)) v_h, normalised"
    paper = "Golovneva et al. 2025, arXiv:2504.00927, section 3"

    def __init__(self, dim: int, *, query_width: int = 6, key_width: int = 11, **options) -> None:
        super().__init__(dim, **options)
        if query_width < 1 or key_width < 1:
            raise ValueError(
                f"query_width {query_width} and key_width {key_width} must be at least 1"
            )
        kernel = torch.zeros(self.num_heads, 1, query_width, key_width)
        kernel[:, :, -1, key_width // 2] = 1
        self.kernel = nn.Parameter(kernel)
        self.heads_mix = nn.Parameter(torch.eye(self.num_heads))
        self.norm = HeadNorm(self.head_dim)

    def carry(self, q: Tensor, x: Tensor) -> Tensor:
        """Queries, which the convolutions of later rows need: (B, H, T, D)."""
        return q

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, mask: Mask, grid: Grid
    ) -> Tensor:
        """Mixed maps of convolved scores: (B, H, T, S)."""
        assert grid.carried is not None
        every = grid.all_queries()
        scores = self.biased_scores(grid.carried, k, every)
        if every.allowed is not None:
            scores = scores.masked_fill(~every.allowed, 0.0)  # excludes the future from the sums
        queries, keys = self.kernel.shape[2:]
        scores = F.pad(scores, (keys // 2, (keys - 1) // 2, queries - 1, 0))
        scores = F.conv2d(scores, self.kernel.to(scores.dtype), groups=self.num_heads)
        weights = self.normalize_under(scores[:, :, grid.num_keys - grid.num_queries :], grid)
        return torch.einsum("gh,bhts->bgts", self.heads_mix.to(weights.dtype), weights)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head and projects them."""
        return super().merge(self.norm(heads), x)
