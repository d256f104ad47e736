"""Explicit sparse attention. Zhao et al. 2019, arXiv:1912.11637, section 2.

weights = softmax of the k largest scores of each query, the others left out
"""

from torch import Tensor

from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION


@ATTENTION.register("top_k")
class TopK(MultiHead):
    """Each query attends only to the keys with the highest scores.

    Args:
        num_kept: number k of keys that a query keeps among those that the mask allows; all of them
            if there are fewer.
    """

    smooth = False
    rows_alone = True
    formula = "softmax(the k largest of q_h k_hᵀ / √D) v_h"
    paper = "Zhao et al. 2019, arXiv:1912.11637, section 2"

    def __init__(self, dim: int, *, num_kept: int = 8, **options) -> None:
        super().__init__(dim, **options)
        if num_kept < 1:
            raise ValueError(f"num_kept must be at least 1, got {num_kept}")
        self.num_kept = num_kept

    def normalize(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Applies softmax over the largest allowed scores, including all that tie with the last."""
        open_scores = scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))
        count = min(self.num_kept, scores.shape[-1])
        least = open_scores.topk(count, dim=-1).values[..., -1:]
        kept = open_scores >= least
        return super().normalize(scores, kept if allowed is None else kept & allowed)
