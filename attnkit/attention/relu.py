"""ReLU attention. Wortsman et al. 2023, arXiv:2309.08586, section 3.

    weight[i, j] = relu(q_i . k_j / sqrt(D))^p / n_i

The paper divides by the length of the sequence. Here n_i counts the keys that query i may see, as
in `sigmoid.py`: the same for a vision encoder, and independent of later tokens for a causal model.
"""

import torch
from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.attention.score_attention import keys_seen
from attnkit.registry import ATTENTION


@ATTENTION.register("relu")
class Relu(MultiHead):
    """Weights are the positive part of the scores: no exponential, and no sum of 1.

    Args:
        power: exponent p of each weight: 1, or 2 as in squared ReLU.
    """

    map_rows = "unnormalised"
    smooth = False
    rows_alone = True
    formula = "relu(q_h k_hᵀ / √D)^p / n v_h,  n = keys that the query sees"
    paper = "Wortsman et al. 2023, arXiv:2309.08586, section 3"

    def __init__(self, dim: int, *, power: float = 1.0, **options) -> None:
        super().__init__(dim, **options)
        if power < 1:
            raise ValueError(f"power must be at least 1, got {power}")
        self.power = power

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Returns the positive part of each score to a power, divided by the number of allowed
        keys.
        """
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = scores.relu() ** self.power / keys_seen(scores, allowed)
        return weights if allowed is None else weights.masked_fill(~allowed, 0.0)
