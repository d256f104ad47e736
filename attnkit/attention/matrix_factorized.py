"""Multi-matrix factorization attention (MFA). Hu et al. 2024, arXiv:2412.19255

    q_h = x S Q_h        k = x S_k        v = x S_v        one k and v for all heads
    head_h = softmax(q_h kᵀ / sqrt(D)) v

Many wide heads at the cost of few. The queries of all heads come from one low-rank projection S,
and all heads share one key of full width. `reuse_keys` is the paper's MFA-KR: v = k + gain (k W),
with a gain that starts at 0.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.score_attention import ScoreAttention
from attnkit.registry import ATTENTION


@ATTENTION.register("matrix_factorized")
class MatrixFactorized(ScoreAttention):
    """Many wide heads over one key and one value per token, with low-rank queries.

    Args:
        num_heads: number H of query heads.
        head_dim: width D of each head, of the key and of the value; null: twice `dim / num_heads`.
        query_rank: rank of all queries together; null: `head_dim`.
        reuse_keys: compute the value from the key.
        dropout: share of attention weights that are dropped in training.
    """

    formula = "softmax(x S Q_h (x S_k)ᵀ / √D) x S_v"
    paper = "Hu et al. 2024, arXiv:2412.19255"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        query_rank: int | None = None,
        reuse_keys: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if head_dim is None:
            if dim % num_heads:
                raise ValueError(
                    f"num_heads {num_heads} does not divide dim {dim}; set head_dim or another "
                    "number"
                )
            head_dim = 2 * dim // num_heads
        super().__init__(
            dim, num_heads=num_heads, num_kv_heads=1, head_dim=head_dim, dropout=dropout
        )
        rank = self.head_dim if query_rank is None else query_rank
        if rank < 1:
            raise ValueError(f"query_rank must be at least 1, got {rank}")
        self.down = nn.Linear(dim, rank, bias=False)
        self.query = nn.Linear(rank, num_heads * self.head_dim, bias=False)
        self.gain = nn.Parameter(torch.zeros(self.head_dim)) if reuse_keys else None
        if reuse_keys:
            self.value = nn.Linear(self.head_dim, self.head_dim, bias=False)

    def project_query(self, x: Tensor) -> Tensor:
        """Low-rank queries: (B, H, T, D)."""
        return super().project_query(self.down(x))

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """One key and one value per token: (B, 1, S, D) each."""
        if self.gain is None:
            return super().project_context(context)
        k = self.key(context)
        v = k + self.gain.to(k.dtype) * self.value(k)
        return k.unsqueeze(1), v.unsqueeze(1)
