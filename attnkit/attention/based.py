"""Based. Arora et al. 2024, arXiv:2402.18668

    f(x) = [1, x, x ⊗ x / sqrt(2)]        x = q or k over D_f^(1/4)
    f(q) . f(k) = 1 + s + s² / 2          s = q . k / sqrt(D_f)

Linear attention whose features are the first terms of the exponential's Taylor series. Queries and
keys are narrow, since the state grows with the square of their width. The paper combines it with
sliding windows in other layers.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.linear import Linear
from attnkit.registry import ATTENTION


@ATTENTION.register("based")
class Based(Linear):
    """Linear attention with a second-order Taylor series of the exponential.

    Args:
        feature_dim: width D_f of queries and keys; the state has 1 + D_f + D_f² rows.
    """

    formula = "f(q) Σ f(k) vᵀ / f(q) Σ f(k),  f(x) = [1, x, x ⊗ x / √2]"
    paper = "Arora et al. 2024, arXiv:2402.18668"

    def __init__(self, dim: int, *, feature_dim: int = 8, **options) -> None:
        super().__init__(dim, **options)
        if feature_dim < 1:
            raise ValueError(f"feature_dim must be at least 1, got {feature_dim}")
        self.feature_dim, bias = feature_dim, self.query.bias is not None
        self.query = nn.Linear(dim, self.num_heads * feature_dim, bias=bias)
        self.key = nn.Linear(dim, self.num_heads * feature_dim, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        """[1, x, x ⊗ x / sqrt(2)]: (B, H, N, D_f) -> (B, H, N, 1 + D_f + D_f²)."""
        x = x * x.shape[-1] ** -0.25
        squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) / 2**0.5
        return torch.cat((torch.ones_like(x[..., :1]), x, squares), dim=-1)

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """For each token, head and feature: 2 D to add to S, 2 D to read it, 2 to read z."""
        width = 1 + self.feature_dim + self.feature_dim**2
        return num_tokens * self.num_heads * width * (4 * self.head_dim + 2)
