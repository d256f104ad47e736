"""DeltaProduct. Siems et al. 2025, arXiv:2502.10297

    for n = 1 .. N:  S <- S + b_{t,n} k_{t,n} (v_{t,n} - k_{t,n}ᵀ S)ᵀ        head_t = q_t S_t
    b_{t,n} = 2 sigmoid(x_t u_n)

DeltaNet with several steps per token. Each is a generalised Householder reflection, and the
product of N of them can rotate the state: what it can track grows with N. N = 1 is DeltaNet with
strengths up to 2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.cache import State
from attnkit.attention.delta_net import DeltaNet, corrected_sums
from attnkit.attention.recurrent import Recurrent, real_keys
from attnkit.masks import Mask
from attnkit.registry import ATTENTION


@ATTENTION.register("delta_product")
class DeltaProduct(DeltaNet):
    """A state that each token corrects several times, with its own keys and values per step.

    Args:
        num_steps: corrections N per token.
    """

    linear_in_values = False  # each token has several
    position_kinds = frozenset(("embeddings",))
    formula = "S ← S + β_n k_n (v_n - k_nᵀ S)ᵀ for n = 1..N,  head = q_t S_t, normalised"
    paper = "Siems et al. 2025, arXiv:2502.10297"

    def __init__(self, dim: int, *, num_steps: int = 2, **options) -> None:
        super().__init__(dim, **options)
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        self.num_steps = num_steps
        inner, bias = num_steps * self.num_heads * self.head_dim, self.key.bias is not None
        self.key = nn.Linear(dim, inner, bias=bias)
        self.value = nn.Linear(dim, inner, bias=bias)
        self.write = nn.Linear(dim, num_steps * self.num_heads, bias=False)

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of all steps with their strengths (B, H, S, N (D + 1)), values (B, H, S, N D)."""
        k, v, strength = (
            part(context).unflatten(-1, (self.num_heads, self.num_steps, -1)).transpose(1, 2)
            for part in (self.key, self.value, self.write)
        )
        k = F.normalize(F.silu(k), dim=-1)
        k = torch.cat((k, 2 * strength.sigmoid().to(k.dtype)), dim=-1)
        return k.flatten(-2), v.flatten(-2)

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Reads the state after all steps of each token (B, H, T, D); returns it too."""
        assert not isinstance(state, dict)
        real = real_keys(mask, k)
        k, strength = k.unflatten(-1, (self.num_steps, -1)).split((self.head_dim, 1), dim=-1)
        v = v.unflatten(-1, (self.num_steps, -1))
        strength = strength if real is None else strength * real.unsqueeze(-1)
        # Steps become tokens; only the last step of a token has a query.
        k, v, strength = (part.flatten(2, 3) for part in (k, v, strength))
        q = F.pad(q.unsqueeze(3), (0, 0, self.num_steps - 1, 0)).flatten(2, 3)
        sums, state = corrected_sums(q, k, v, strength, state)
        return sums[:, :, self.num_steps - 1 :: self.num_steps], state

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """The FLOPs of decoding, with the products in the chunk that the steps of a token are."""
        return Recurrent.mixing_flops(self, num_tokens, pairs)
