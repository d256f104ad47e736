"""cosFormer. Qin et al. 2022, arXiv:2202.08791

    weight[i, j] ∝ relu(q_i) . relu(k_j) cos(pi (i - j) / (2 M))

Linear attention with relu features, which favours near keys by a cosine of the distance. Since
cos(a - b) = cos a cos b + sin a sin b, each feature becomes two and the sum stays linear.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.linear import Linear
from attnkit.masks.once import once, positions
from attnkit.registry import ATTENTION


@ATTENTION.register("cosformer")
class CosFormer(Linear):
    """Linear attention with relu features, weighted by a cosine of the distance.

    Args:
        max_tokens: distance M at which a key has no weight. A longer sequence raises a
            `ValueError`.
    """

    roles = frozenset(("self",))
    knows_order = True
    map_rows = "unnormalised"  # rows are zero if all features of a query are 0
    position_kinds = frozenset(("embeddings",))
    formula = "Σ f(q) f(k) cos(π(i-j)/2M) v / Σ f(q) f(k) cos(π(i-j)/2M),  f = relu"
    paper = "Qin et al. 2022, arXiv:2202.08791"

    def __init__(self, dim: int, *, max_tokens: int = 2048, **options) -> None:
        super().__init__(dim, **options)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.max_tokens = max_tokens

    def place(self, q: Tensor, k: Tensor, seen: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """Multiplies relu features by cosine and sine of their positions: (B, H, N, 2 D) each."""
        T, S = q.shape[2], k.shape[2]
        if isinstance(seen, int) and seen + S > self.max_tokens:
            raise ValueError(
                f"cosformer supports distances up to {self.max_tokens} tokens but got "
                f"{seen + S}; set its option max_tokens"
            )
        of_keys = positions(seen, S, q.device)
        of_queries = of_keys if T == S else positions(seen + S - T, T, q.device)
        return self._turned(q, of_queries), self._turned(k, of_keys)

    def _turned(self, heads: Tensor, where: Tensor) -> Tensor:
        cos, sin = once(_waves, where, self.max_tokens, heads.dtype)
        heads = F.relu(heads)
        return torch.cat((heads * cos, heads * sin), dim=-1)

    def features(self, x: Tensor) -> Tensor:
        """Returns x, since `place` has computed the features: (B, H, N, 2 D)."""
        return x

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """For each token, head and of 2 D features: 2 D to add to S, 2 D to read it, 2 for z."""
        return num_tokens * self.num_heads * 2 * self.head_dim * (4 * self.head_dim + 2)


def _waves(where: Tensor, longest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions: (N, 1) each."""
    angle = where[:, None].float() * (math.pi / 2 / longest)
    return angle.cos().to(dtype), angle.sin().to(dtype)
