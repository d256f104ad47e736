"""Hedgehog. Zhang et al. 2024, arXiv:2402.04347

    f(x) = [softmax(x W_h); softmax(-x W_h)]        x = q or k

Linear attention with learned features, sharpened by a softmax. The paper trains them to mimic a
softmax attention; here they are trained with the model.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.linear import Linear
from attnkit.registry import ATTENTION


@ATTENTION.register("hedgehog")
class Hedgehog(Linear):
    """Linear attention with learned, sharp features."""

    formula = "f(q) Σ f(k) vᵀ / f(q) Σ f(k),  f(x) = [softmax(x W_h); softmax(-x W_h)]"
    paper = "Zhang et al. 2024, arXiv:2402.04347"

    def __init__(self, dim: int, **options) -> None:
        super().__init__(dim, **options)
        # Starts as the identity, for queries and for keys, as in the paper.
        eye = torch.eye(self.head_dim).expand(self.num_heads, -1, -1)
        self.spikes = nn.Parameter(eye.clone())

    def features(self, x: Tensor) -> Tensor:
        """(B, H, N, D) -> (B, H, N, 2 D), positive."""
        x = x @ self.spikes.to(x.dtype)
        return torch.cat((x.softmax(dim=-1), (-x).softmax(dim=-1)), dim=-1)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """Features of queries and keys, 4 D² per token and head, and the cost of each feature."""
        spikes = 4 * num_tokens * self.num_heads * self.head_dim**2
        return super().mixing_flops(num_tokens, pairs) + spikes
