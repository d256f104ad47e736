"""Linear attention. Katharopoulos et al. 2020, arXiv:2006.16236, section 3.2 to 3.4.

    output_i = f(q_i) S_i / f(q_i) z_i,   S_i = sum_{j <= i} f(k_j) v_jᵀ,   z_i = sum_{j <= i}
    f(k_j),   f = elu + 1

No map is formed: the sums S and z are all that is stored of the past, so time grows with the
length, and the state for decoding has a fixed size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.recurrent import (
    Recurrent,
    decayed_sums,
    in_chunks,
    joined,
    longest,
    real_keys,
    states_before,
)
from attnkit.masks import Causal, Mask
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per chunk."""


@ATTENTION.register("linear")
class Linear(Recurrent):
    """Attention without a softmax, as a running sum: linear time, and a state of fixed size.
    Override `features` for another feature map of queries and keys.
    """

    roles = frozenset(("self", "cross"))
    mask_names = frozenset(("none", "causal", "padding"))
    causal_only = False
    knows_order = False
    map_rows = "sum to 1"
    formula = "f(q) Σ f(k) vᵀ / f(q) Σ f(k),  f = elu + 1"
    paper = "Katharopoulos et al. 2020, arXiv:2006.16236, section 3"

    def features(self, x: Tensor) -> Tensor:
        """f, of queries or keys: (B, H, N, D) -> (B, H, N, F), at least 0. F may be any width."""
        return F.elu(x) + 1

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """The normalised sums over the keys that each query may see (B, H, T, D), and after the
        last key the sums S (B, H, F, D) and their total z (B, H, F, 1).
        """
        # The products need this layout; for others torch's backward pass of elu returns its own.
        q, k = self.features(q.contiguous()), self.features(k.contiguous())
        real = real_keys(mask, k)
        k = k if real is None else k * real
        assert not isinstance(state, Tensor)
        sums, total = (None, None) if state is None else (state["sums"], state["total"])
        if any(isinstance(part, Causal) for part in mask.parts()):
            read, sums = decayed_sums(q, k, v, None, sums, CHUNK)
            weight, total = _causal_totals(q, k, total)
        else:
            seen, seen_total = k.transpose(-2, -1) @ v, k.sum(dim=-2).unsqueeze(-1)
            sums = seen if sums is None else sums + seen
            total = seen_total if total is None else total + seen_total
            read, weight = q @ sums, q @ total
        # 0 / 1 if no key is allowed or matches. A quotient of tiny numbers has no correct digits.
        heads = read / torch.where(weight > torch.finfo(weight.dtype).eps ** 2, weight, 1.0)
        return heads, {"sums": sums, "total": total}

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """For each token, head and feature: 2 D to add to S, 2 D to read it, 2 to read z."""
        with torch.no_grad():
            num_features = self.features(self.output.weight.new_zeros(1, 1, 1, self.head_dim))
        width = num_features.shape[-1]
        return num_tokens * self.num_heads * width * (4 * self.head_dim + 2)


def _causal_totals(q: Tensor, k: Tensor, total: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns q_i z_i (B, H, T, 1), and z after the last key; the last query is at the last key."""
    num_queries, length = q.shape[2], longest(q, k)
    q, k = in_chunks(CHUNK, num_queries, q, k)
    within = k.cumsum(dim=3)  # (B, H, n, chunk, F)
    added = within[:, :, :, -1].unsqueeze(-1)
    before = states_before(None, added, total)
    weight = (q * (within + before.transpose(-2, -1))).sum(dim=-1, keepdim=True)
    return joined(weight, length, num_queries), before[:, :, -1] + added[:, :, -1]
