"""The parts of a Transformer layer, and how they are wired.

Pre-norm residual blocks: attention first, where tokens look at each other, then an MLP, where each
token is on its own.

    x = x + attention(norm(x), norm(x))          self: the context is the sequence itself
    x = x + attention(norm(x), context)          cross: the context is another sequence
    x = x + mlp(norm(x))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.base import Attention
from attnkit.attention.cache import Cache
from attnkit.masks import Mask

MLPName = Literal["gelu", "relu", "squared_relu", "swiglu", "none"]


class MLP(nn.Module):
    """Two matrices with a nonlinearity between them, for each token alone: (B, T, C) -> (B, T, C).

    Args:
        dim: width C of the model.
        activation: `gelu`, `relu`, `squared_relu` (arXiv:2109.08668), or `swiglu`, which has a
            third matrix as a gate (arXiv:2002.05202).
        hidden_dim: width between the matrices.
        bias: add bias vectors.
    """

    def __init__(
        self, dim: int, activation: MLPName, hidden_dim: int, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(dim, hidden_dim, bias=bias)
        self.gate = nn.Linear(dim, hidden_dim, bias=bias) if activation == "swiglu" else None
        self.down = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """down(activation(up(x)))."""
        hidden = self.up(x)
        if self.activation == "gelu":
            hidden = F.gelu(hidden)
        elif self.activation == "relu":
            hidden = F.relu(hidden)
        elif self.activation == "squared_relu":
            hidden = F.relu(hidden).square()
        elif self.gate is not None:
            hidden = F.silu(self.gate(x)) * hidden
        return self.down(hidden)


def draw_parameters(
    model: nn.Module, draw: Callable[[nn.Linear | nn.Embedding, bool], None]
) -> dict[Tensor, int]:
    """Gives all parameters their first values: by the model's rule, and by what each mechanism says
    of its own (`Attention.initialise`).

    Args:
        model: a whole model.
        draw: the rule: what to draw, and whether it lies in a layer.

    Returns:
        Weight that the rule has drawn -> its version then, which grows when it is changed.
    """
    drawn: dict[Tensor, int] = {}
    seen: set[nn.Module] = set()

    def by_rule(module: nn.Module, in_layer: bool = True) -> None:
        assert isinstance(module, nn.Linear | nn.Embedding)
        draw(module, in_layer)
        drawn[module.weight] = module.weight._version

    for name, module in model.named_modules():
        if module in seen:
            continue
        if isinstance(module, Attention):
            seen.update(module.modules())
            module.initialise(by_rule)
        elif isinstance(module, nn.Linear | nn.Embedding):
            by_rule(module, "layers." in name)
    return drawn


class Layer(nn.Module):
    """Self-attention and an MLP, each behind a norm and added to what came in. Without an MLP,
    attention alone.

    Args:
        attention: the mechanism.
        mlp: the MLP, or None.
        norms: one normalisation for each of the two.
        dropout: share of each branch's output that training drops.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: MLP | None,
        norms: tuple[nn.Module, nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = norms[0]
        self.attention = attention
        self.mlp_norm = norms[1] if mlp is not None else None
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        tokens = self.attention_norm(x)
        x = x + self.dropout(self.attention(tokens, tokens, mask, cache))
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class DecoderLayer(nn.Module):
    """Self-attention over the target, cross-attention to the source, and an MLP, each behind a norm
    and added to what came in.

    Args:
        attention: the mechanism over the target.
        cross_attention: the mechanism from target to source.
        mlp: the MLP, or None.
        norms: one normalisation for each of the three.
        dropout: share of each branch's output that training drops.
    """

    def __init__(
        self,
        attention: Attention,
        cross_attention: Attention,
        mlp: MLP | None,
        norms: tuple[nn.Module, nn.Module, nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = norms[0]
        self.attention = attention
        self.cross_norm = norms[1]
        self.cross_attention = cross_attention
        self.mlp_norm = norms[2] if mlp is not None else None
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask, context: Tensor, context_mask: Mask) -> Tensor:
        """Lets the target (B, T, C) look at itself and at the source's `context` (B, S, C)."""
        tokens = self.attention_norm(x)
        x = x + self.dropout(self.attention(tokens, tokens, mask))
        asking = self.cross_norm(x)
        x = x + self.dropout(self.cross_attention(asking, context, context_mask))
        return self._through_mlp(x)

    def step(
        self,
        x: Tensor,
        mask: Mask,
        cache: Cache,
        keys: Tensor,
        values: Tensor,
        context_mask: Mask,
    ) -> Tensor:
        """`forward` for tokens that follow those in the cache, over keys and values of the source
        that were computed once.

        Args:
            x: (B n, T, C): n hypotheses for each of B sources, those of one source in a row.
            mask: of the target.
            cache: of the self-attention.
            keys: (B, H_kv, S, D) of the source, from `project_context`.
            values: (B, H_kv, S, D) of the source.
            context_mask: what of the source is real.
        """
        tokens = self.attention_norm(x)
        x = x + self.attention(tokens, tokens, mask, cache)
        asking = self.cross_norm(x)
        # All hypotheses of a source ask the same keys, so they stand in a row as its queries.
        of_source = asking.view(keys.shape[0], -1, asking.shape[-1])  # (B, n T, C)
        cross = self.cross_attention
        q, k = cross.place(cross.project_query(of_source), keys)
        heads = cross.mix(q, *cross.expand(k, values), context_mask)
        x = x + cross.merge(heads, of_source).view_as(x)
        return self._through_mlp(x)

    def _through_mlp(self, x: Tensor) -> Tensor:
        if self.mlp is None or self.mlp_norm is None:
            return x
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
