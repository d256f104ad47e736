"""Linear attention. Katharopoulos et al. 2020, arXiv:2006.16236, section 3.2 to 3.4.

    output_i = f(q_i) S_i / f(q_i) z_i,   S_i = sum_{j <= i} f(k_j) v_jᵀ,   z_i = sum_{j <= i}
    f(k_j),   f = elu + 1

No map is formed: the sums S and z are all that is kept of the past, so time grows with the length
and the state for decoding does not grow at all. z is carried as one more column of S, for a value
that is always 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.recurrent import Recurrent, real_keys
from attnkit.masks import Causal, Mask
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens that are computed as one small map while training; the state is carried from chunk to
chunk.
"""


@ATTENTION.register("linear")
class Linear(Recurrent):
    """Attention without a softmax, as a running sum: linear time, and a state of fixed size for
    decoding.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head; None: `dim / num_heads`.
        bias: add a bias vector to the four projections.
    """

    mask_names = frozenset(("none", "causal", "padding"))
    map_rows = "sum to 1"
    formula = "f(q) Σ f(k) vᵀ / f(q) Σ f(k),  f = elu + 1"
    paper = "Katharopoulos et al. 2020, arXiv:2006.16236, section 3"

    def __init__(
        self, dim: int, *, num_heads: int = 4, head_dim: int | None = None, bias: bool = False
    ) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, bias=bias)

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The normalised sums over the keys that each query may see (B, H, T, D), and the state (B,
        H, D, D + 1) after the last key: S, and z as its last column.
        """
        q, k = F.elu(q) + 1, F.elu(k) + 1
        v = F.pad(v, (0, 1), value=1.0)
        real = real_keys(mask, k)
        k = k if real is None else k * real
        if state is None:
            state = k.new_zeros(q.shape[0], self.num_heads, k.shape[-1], v.shape[-1])
        if any(isinstance(part, Causal) for part in mask.parts()):
            sums, state = _causal_sums(q, k, v, state)
        else:
            state = state + k.transpose(-2, -1) @ v
            sums = q @ state
        total = sums[..., -1:]
        return sums[..., :-1] / torch.where(total > 0, total, 1.0), state  # nothing allowed: 0 / 1

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """State update and read, 2 D (D + 1) each, a token and head: the recurrent form."""
        return 4 * num_tokens * self.num_heads * self.head_dim * (self.head_dim + 1)

    def cache_elements(self, num_tokens: int) -> int:
        """The state, whatever the length."""
        return self.num_heads * self.head_dim * (self.head_dim + 1)


def _causal_sums(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over earlier keys, chunk by chunk; the last query stands at the last key.

    Returns:
        q_i S_i (B, H, T, D + 1), and the state after the last key (B, H, D, D + 1).
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries < num_keys:  # keys before the first query are seen by all
        head = num_keys - num_queries
        state = state + k[:, :, :head].transpose(-2, -1) @ v[:, :, :head]
        k, v = k[:, :, head:], v[:, :, head:]
    lead = max(num_queries - num_keys, 0)  # queries before the first key see only the state
    k, v = F.pad(k, (0, 0, lead, 0)), F.pad(v, (0, 0, lead, 0))

    chunk = min(CHUNK, num_queries)  # decoding one token must not cost 64
    tail = -num_queries % chunk
    q, k, v = (F.pad(heads, (0, 0, 0, tail)).unflatten(2, (-1, chunk)) for heads in (q, k, v))
    added = k.transpose(-2, -1) @ v  # (B, H, n, D, D + 1)
    after = added.cumsum(dim=2) + state.unsqueeze(2)
    before = torch.cat((state.unsqueeze(2), after[:, :, :-1]), dim=2)
    within = (q @ k.transpose(-2, -1)).tril()  # (B, H, n, chunk, chunk)
    sums = q @ before + within @ v
    return sums.flatten(2, 3)[:, :, :num_queries], after[:, :, -1]
