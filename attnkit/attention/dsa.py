"""DeepSeek sparse attention (DSA). DeepSeek-AI 2025, arXiv:2512.02556.

    I[i, j] = sum_n w_in relu(q'_in . k'_j)        the lightning indexer, of n = 1 .. N small heads
    weights = softmax over the K keys with the largest I[i, j]
    loss = ... + weight mean_i KL(p_i || softmax(I_i))        p_i: full map, averaged over the heads

All heads of a query attend to the same K keys. This choice has no gradient, so the indexer is
trained only by its own loss, which passes no gradient on to the tokens. If K is at least the number
of keys, this is full attention. The paper applies it to latent keys; here they are those of
multi-head attention.
"""

import torch
from torch import Tensor, nn

from attnkit.attention.base import Prepared
from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal, Grid, Mask, Padding
from attnkit.registry import ATTENTION


@ATTENTION.register("dsa")
class DSA(MultiHead):
    """Each query attends to the few keys that a small, separately trained indexer chooses.

    Args:
        num_kept: number K of keys per query.
        index_heads: number N of heads of the indexer.
        index_dim: width of a head of the indexer.
        weight: factor of the indexer's loss.
    """

    roles = frozenset(("self",))
    mask_names = frozenset(("causal", "padding"))
    causal_only = True
    smooth = False
    formula = "softmax(q_h k_hᵀ / √D over the K largest Σ_n w_n relu(q'_n k'ᵀ)) v_h"
    paper = "DeepSeek-AI 2025, arXiv:2512.02556"

    def __init__(
        self,
        dim: int,
        *,
        num_kept: int = 16,
        index_heads: int = 2,
        index_dim: int = 16,
        weight: float = 1.0,
        **options,
    ) -> None:
        super().__init__(dim, **options)
        sizes = {"num_kept": num_kept, "index_heads": index_heads, "index_dim": index_dim}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        self.num_kept, self.index_heads, self.index_dim = num_kept, index_heads, index_dim
        self.weight = weight
        self.index_query = nn.Linear(dim, index_heads * index_dim, bias=False)
        self.index_key = nn.Linear(dim, index_dim, bias=False)
        self.index_weight = nn.Linear(dim, index_heads, bias=False)

    def carry(self, q: Tensor, x: Tensor) -> Tensor:
        """The indexer's queries, weights and keys: (B, 1, T, N D' + N + D')."""
        x = x.detach()
        parts = (self.index_query(x), self.index_weight(x), self.index_key(x))
        return torch.cat(parts, dim=-1).unsqueeze(1)

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, mask: Mask, grid: Grid
    ) -> Tensor:
        """Softmax over the chosen keys: (B, H, T, S)."""
        chosen = self._chosen(grid)
        return self.normalize(self.biased_scores(q, k, grid), chosen).masked_fill(~chosen, 0.0)

    def index(self, grid: Grid) -> Tensor:
        """Returns the indexer's scores I (B, 1, T, S)."""
        assert grid.carried is not None
        widths = (self.index_heads * self.index_dim, self.index_heads, self.index_dim)
        queries, weights, keys = grid.carried.split(widths, dim=-1)
        last = grid.num_keys - grid.num_queries
        queries = queries[:, 0, last:].unflatten(-1, (self.index_heads, -1))  # (B, T, N, D')
        products = torch.einsum("btnd,bsd->btns", queries, keys[:, 0])
        scale = (self.index_heads * self.index_dim) ** -0.5
        scores = torch.einsum("btns,btn->bts", products.relu(), weights[:, 0, last:]) * scale
        return scores.unsqueeze(1)

    def _chosen(self, grid: Grid) -> Tensor:
        """Returns True for the K allowed keys with the largest score; of equal ones, the last."""
        allowed = grid.mask.dense(grid.num_queries, grid.num_keys, grid.device)
        scores = self.index(grid).detach().masked_fill(~allowed, -torch.inf).flip(-1)
        order = scores.argsort(dim=-1, descending=True, stable=True)[..., : self.num_kept]
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)
        return kept.flip(-1) & allowed

    def auxiliary_losses(
        self, prepared: Prepared, heads: Tensor, real: Tensor | None
    ) -> dict[str, Tensor]:
        q, k, _, carried = prepared
        mask = Causal() if real is None else Causal() & Padding(real)
        grid = Grid.of(q, k, mask, carried)
        allowed = mask.dense(grid.num_queries, grid.num_keys, grid.device)
        with torch.no_grad():
            target = self.normalize(self.biased_scores(q, k, grid).float(), allowed)
            target = target.mean(dim=1, keepdim=True)  # (B, 1, T, S)
        guess = self.index(grid).float().masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)
        guess = guess.masked_fill(~allowed, 0.0)
        # (B, T)
        distance = (torch.special.xlogy(target, target) - target * guess).sum(dim=-1)[:, 0]
        if real is not None:
            distance = distance * (real / real.sum().clamp(min=1)) * real.numel()
        return {"indexer": self.weight * distance.mean()}
