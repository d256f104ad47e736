"""Sigmoid attention. Ramapuram et al. 2024, arXiv:2409.04431, section 3 and equation 4.

    weight[i, j] = sigmoid(q_i . k_j / sqrt(D) - log n_i)

The paper subtracts log n for a sequence of n tokens. Here n_i counts the keys that query i may see,
so that a causal model's output does not depend on the final length, and decoding with a cache gives
the same result.
"""

import torch
from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.attention.score_attention import keys_seen
from attnkit.registry import ATTENTION


@ATTENTION.register("sigmoid")
class Sigmoid(MultiHead):
    """Each key is weighted independently; weights need not sum to 1."""

    map_rows = "unnormalised"
    rows_alone = True
    formula = "sigmoid(q_h k_hᵀ / √D - log n) v_h,  n = keys that the query sees"
    paper = "Ramapuram et al. 2024, arXiv:2409.04431, section 3"

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Returns the sigmoid of each score minus the log of the number of allowed keys."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = (scores - keys_seen(scores, allowed).log()).sigmoid()
        return weights if allowed is None else weights.masked_fill(~allowed, 0.0)
