"""A decoder-only language model: embeddings, layers of attention and MLP, a head that predicts the
next token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from attnkit.attention.base import build_attention
from attnkit.cpu import model as cpu
from attnkit.grid import Placed
from attnkit.masks import build_mask
from attnkit.models.cache import ModelCache
from attnkit.models.layers import MLP, Layer, MLPName, draw_parameters
from attnkit.models.token_loss import token_loss
from attnkit.norms import NormName, build_norm
from attnkit.once import one_pass, positions
from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import ATTENTION, MASKS, POSITIONS, Spec

EMBEDDING_STD = 0.02  # as in GPT-2
SpecLike = Spec | str | Mapping[str, Any]


class LanguageModel(nn.Module):
    """Predicts the next token at every position: (B, T) tokens -> (B, T, V) logits.

    With `num_layers: 0` it is a bigram model, with `mlp: none` attention alone, with `mask: none`
    it sees the future.

    Args:
        vocab_size: number V of tokens.
        max_seq_len: longest sequence; the length that it is trained on.
        dim: width C of the model.
        num_layers: layers of attention and MLP.
        attention: the mechanism of all layers, or a list with one for each.
        mask: which query may look at which key; a list means that all must allow.
        position: how the order of the tokens is told.
        mlp: nonlinearity of the MLP; `none` leaves the MLP out.
        mlp_dim: width inside the MLP; None: four times `dim` (8/3 of it for swiglu, which has three
            matrices).
        norm: normalisation before each branch and before the head.
        tied_embeddings: the head reuses the embedding matrix.
        dropout: share of embeddings and of each branch's output that training drops.
        bias: bias vectors in MLPs and norms (a mechanism has an option of its own).
        init_std: standard deviation of the matrices that read the residual stream (query, key,
            value, the MLP's first) at the start; None: 1 / sqrt(their inputs), so that what they
            give is as large as what they get, at any width. GPT-2 has 0.02 for all.
        zero_init: each branch's last matrix and the head start at zero, so that training starts
            from the identity.

    Raises:
        ValueError: if sizes do not fit, or if the mechanism cannot serve the mask or the position.
        RegistryError: if a name or an option is unknown.
    """

    layers: list[Layer]  # an nn.ModuleList, annotated by what it holds

    def __init__(
        self,
        vocab_size: int,
        *,
        max_seq_len: int = 64,
        dim: int = 128,
        num_layers: int = 4,
        attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head"),
        mask: Annotated[Spec | list[Spec], MASKS] = Spec("causal"),
        position: Annotated[Spec, POSITIONS] = Spec("learned"),
        mlp: MLPName = "gelu",
        mlp_dim: int | None = None,
        norm: NormName = "layer_norm",
        tied_embeddings: bool = True,
        dropout: float = 0.0,
        bias: bool = False,
        init_std: float | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("max_seq_len", max_seq_len), ("dim", dim), ("vocab_size", vocab_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if num_layers < 0:
            raise ValueError(f"num_layers must be at least 0, got {num_layers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if init_std is not None and init_std <= 0:
            raise ValueError(f"init_std must be above 0, got {init_std}")
        if tied_embeddings and zero_init:
            raise ValueError(
                "zero_init makes the head start at zero, and tied_embeddings makes it the "
                "embedding matrix; set one of them to false"
            )
        self.max_seq_len = max_seq_len
        self.mask = build_mask(mask)
        position = Spec.of(position)
        mechanisms = [Spec.of(spec) for spec in one_per_layer(attention, num_layers)]
        for spec in mechanisms:
            refusal = ATTENTION.get(spec.name).refusal("self", self.mask, position.name)
            if refusal is not None:
                raise ValueError(f"attention {refusal}")

        self.embedding = nn.Embedding(vocab_size, dim)
        self.position: EmbeddingPosition | None = None
        if POSITIONS.get(position.name).acts_on == "embeddings":
            self.position = POSITIONS.build(position, dim, max_seq_len)
        # What is trained finds its own size. What is fixed, sines say, would drown tokens that
        # start fifty times smaller: it gets the size that they start with.
        fixed = self.position is not None and not any(True for _ in self.position.parameters())
        self.position_size = EMBEDDING_STD if fixed else 1.0
        self.dropout = nn.Dropout(dropout)
        if mlp_dim is None:
            mlp_dim = 4 * dim if mlp != "swiglu" else 8 * math.ceil(dim / 3)
        self.layers = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            Layer(
                build_attention(spec, dim, position=position),
                None if mlp == "none" else MLP(dim, mlp, mlp_dim, bias=bias),
                (build_norm(norm, dim, bias=bias), build_norm(norm, dim, bias=bias)),
                dropout,
            )
            for spec in mechanisms
        )
        for i, layer in enumerate(self.layers):
            layer.attention.at_layer(i, num_layers)
        self.norm = build_norm(norm, dim, bias=bias)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        if tied_embeddings:
            self.head.weight = self.embedding.weight
        self._initialise(init_std, zero_init)

    def _initialise(self, init_std: float | None, zero_init: bool) -> None:
        """Normal with a mean of 0. Matrices inside the layers: see `init_std`. Embeddings and
        head: `EMBEDDING_STD`; a branch's last matrix: that over sqrt(2 layers), or zero.
        """

        def draw(module: nn.Linear | nn.Embedding, in_layer: bool) -> None:
            if isinstance(module, nn.Linear) and in_layer:
                nn.init.normal_(module.weight, std=init_std or module.in_features**-0.5)
            else:
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

        drawn = draw_parameters(self, draw)
        last = [layer.attention.output for layer in self.layers]
        last += [layer.mlp.down for layer in self.layers if layer.mlp is not None]
        for linear in last:
            # What a mechanism has set since, or never let the rule draw, is its own.
            if linear is not None and drawn.get(linear.weight) == linear.weight._version:
                std = 0.0 if zero_init else EMBEDDING_STD / math.sqrt(2 * len(self.layers))
                nn.init.normal_(linear.weight, std=std)
        if zero_init:
            nn.init.zeros_(self.head.weight)

    @one_pass
    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        cache: ModelCache | None = None,
        *,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Scores every next token, or says how well some are predicted.

        Args:
            tokens: (B, T) token numbers; with a cache, the tokens that follow those already seen.
            documents: (B, S) document of each token seen, these included, and of the room for
                others in a cache of fixed size; only the `document` mask reads it.
            cache: memory of earlier calls, from `new_cache`.
            targets: (B, T) what is to be predicted, see `token_loss`.

        Returns:
            (B, T, V) logits; with targets, their mean cross-entropy in nats, ().
        """
        seen = 0 if cache is None else cache.seen
        x = self.embedding(tokens)
        if self.position is not None:
            places = positions(seen, tokens.shape[1], tokens.device)
            x = x + self.position(places).to(x.dtype) * self.position_size
        x = cpu.residual(self.dropout(x))
        mask = self.mask.bind(documents=documents)
        if isinstance(seen, Tensor):
            mask = Placed(mask, seen)
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.advance(tokens.shape[1])
        x = self.norm(x)
        return self.head(x) if targets is None else token_loss(x, self.head, targets)

    def new_cache(self) -> ModelCache:
        """An empty cache for decoding.

        Raises:
            ValueError: if the mask lets tokens see later ones, so that what was computed for a
                token would change; or if a mechanism has no cache.
        """
        if self.mask.ahead != 0:
            raise ValueError("a model whose mask shows later tokens cannot decode from a cache")
        if not self.can_cache:
            raise ValueError("a mechanism of this model declares that it has no cache")
        return ModelCache([layer.attention.new_cache() for layer in self.layers])

    @property
    def can_cache(self) -> bool:
        """True if no token sees later ones, so that what was computed for it stays true, and all
        mechanisms keep it.
        """
        return self.mask.ahead == 0 and all(layer.attention.has_cache for layer in self.layers)

    def why_no_fixed_cache(self) -> str | None:
        """Why its cache cannot have a fixed size, see `ModelCache.fix`; None: it can."""
        reasons = (layer.attention.why_no_fixed_cache() for layer in self.layers)
        return next((reason for reason in reasons if reason is not None), None)


def one_per_layer(attention: SpecLike | Sequence[SpecLike], num_layers: int) -> list[SpecLike]:
    """One mechanism a layer: repeats a single one, checks the length of a list.

    Raises:
        ValueError: if a list has another length than `num_layers`.
    """
    if isinstance(attention, Sequence) and not isinstance(attention, str):
        if len(attention) != num_layers:
            raise ValueError(
                f"attention lists {len(attention)} mechanisms for num_layers {num_layers}; "
                "list one for each layer, or a single one for all"
            )
        return list(attention)
    return [attention] * num_layers
