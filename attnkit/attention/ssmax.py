"""Scalable softmax. Nakanishi 2025, arXiv:2501.19399

    weight[i, j] = softmax_j(s_h log(n_i) q_i . k_j / sqrt(D))

The largest weight of a softmax shrinks with the number n of keys. A factor log(n) preserves it. n_i
counts the keys that query i may see, so that a causal output does not depend on later tokens.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.multi_head import MultiHead
from attnkit.attention.score_attention import keys_seen
from attnkit.registry import ATTENTION


@ATTENTION.register("ssmax")
class SSMax(MultiHead):
    """Softmax attention that stays sharp for long contexts: scores are scaled by the logarithm of
    the number of keys.

    Args:
        initial_scale: initial value of the learned factor s of each head.
    """

    rows_alone = True
    formula = "softmax(s_h log n · q_h k_hᵀ / √D) v_h,  n = keys that the query sees"
    paper = "Nakanishi 2025, arXiv:2501.19399"

    def __init__(self, dim: int, *, initial_scale: float = 1.0, **options) -> None:
        super().__init__(dim, **options)
        self.sharpness = nn.Parameter(torch.full((self.num_heads,), initial_scale))

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Softmax of the scores times s log n."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        factor = self.sharpness.to(scores.dtype).view(-1, 1, 1) * keys_seen(scores, allowed).log()
        return super().normalize(factor * scores, allowed)
