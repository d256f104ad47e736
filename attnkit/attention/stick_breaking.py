"""Stick-breaking attention. Tan et al. 2024, arXiv:2410.17980, section 2.

    weight[i, j] = b_ij prod_{j < l <= i} (1 - b_il)        b_ij = sigmoid(q_i . k_j / sqrt(D))

A query goes from the newest token back to the oldest. Each takes its share b of the rest of a stick
of length 1, so near tokens come first and no position encoding is needed. The paper's main variant
starts with the token before the query; here, as in its variant that attends to the current token,
the query itself comes first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("stick_breaking")
class StickBreaking(MultiHead):
    """Each key takes a share of what the newer keys leave."""

    roles = frozenset(("self",))
    causal_only = True
    knows_order = True
    map_rows = "unnormalised"
    rows_alone = True
    formula = "b_ij Π_{j<l≤i} (1 - b_il) v_h,  b = sigmoid(q_h k_hᵀ / √D)"
    paper = "Tan et al. 2024, arXiv:2410.17980, section 2"

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Returns the shares of the stick over the allowed keys, computed in logarithms."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        left = -F.softplus(scores)  # log(1 - b)
        if allowed is not None:
            left = left.masked_fill(~allowed, 0.0)
        nearest_first = left.flip(-1)
        newer = (nearest_first.cumsum(dim=-1) - nearest_first).flip(-1)
        weights = (F.logsigmoid(scores) + newer).exp()
        return weights if allowed is None else weights.masked_fill(~allowed, 0.0)
