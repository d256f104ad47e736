"""A decoder-only language model: embeddings, layers of attention and MLP, and a head that predicts
the next token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from attnkit.attention.stream import Stream
from attnkit.hardware import cpu_model as cpu
from attnkit.masks import Mask, Placed
from attnkit.masks.once import one_pass, positions
from attnkit.models.cache import ModelCache
from attnkit.models.layers import LayerEntry, LayerOptions, draw_parameters, layer_options
from attnkit.models.stack import Stack, embedding_position, self_attentions
from attnkit.models.token_loss import token_loss
from attnkit.registry import ATTENTION, MASKS, MLPS, NORMS, POSITIONS, WIRINGS, Spec

EMBEDDING_STD = 0.02  # as in GPT-2

LAYER_KEYS = (
    "attention",
    "mask",
    "position",
    "mlp",
    "mlp_dim",
    "norm",
    "wiring",
    "dropout",
    "bias",
)
"""The options of the model that define a layer."""


class LanguageModel(Stack):
    """Predicts the next token at every position: (B, T) tokens -> (B, T, V) logits.

    With `num_layers: 0` it is a bigram model, with `mlp: none` it has only attention, and with
    `mask: none` it sees the future.

    Args:
        vocab_size: number V of tokens.
        max_seq_len: longest sequence; the length that it is trained on.
        dim: width C of the model.
        num_layers: number of layers of attention and MLP.
        layers: a pattern of entries that replace the keys below, repeated over all layers.
        attention: the mechanism of all layers, or a list with one for each.
        mask: which query may attend to which key; all masks of a list must allow a pair.
        position: how the order of the tokens is encoded.
        mlp: the MLP; `none`: no MLP.
        mlp_dim: hidden width of the MLP; None: four times `dim` (8/3 of it for swiglu, which has
            three matrices).
        norm: normalisation of each branch and before the head.
        wiring: how a layer combines its branches.
        tied_embeddings: the head reuses the embedding matrix.
        dropout: share of embeddings and of each branch's output that is dropped in training.
        bias: bias vectors in MLPs and norms (a mechanism has its own option).
        init_std: initial standard deviation of the matrices that read the residual stream (query,
            key, value, the first of the MLP); None: 1 / sqrt(number of inputs), so that outputs are
            as large as inputs at any width. GPT-2 uses 0.02 for all.
        zero_init: each branch's last matrix and the head start at zero, so that training starts
            from the identity.

    Raises:
        ValueError: if sizes do not fit, or if the mechanism cannot serve the mask or the position.
        RegistryError: if a name or an option is unknown.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        max_seq_len: int = 64,
        dim: int = 128,
        num_layers: int = 4,
        layers: list[LayerEntry] | None = None,
        attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head"),
        mask: Annotated[Spec | list[Spec], MASKS] = Spec("causal"),
        position: Annotated[Spec, POSITIONS] = Spec("learned"),
        mlp: Annotated[Spec, MLPS] = Spec("gelu"),
        mlp_dim: int | None = None,
        norm: Annotated[Spec, NORMS] = Spec("layer_norm"),
        wiring: Annotated[Spec, WIRINGS] = Spec("pre_norm"),
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
                "zero_init sets the head to zero, but tied_embeddings makes it the embedding "
                "matrix; set one of them to false"
            )
        self.max_seq_len = max_seq_len
        options = self.layer_options(
            {
                "num_layers": num_layers,
                "layers": layers,
                "attention": attention,
                "mask": mask,
                "position": position,
                "mlp": mlp,
                "mlp_dim": mlp_dim,
                "norm": norm,
                "wiring": wiring,
                "dropout": dropout,
                "bias": bias,
            }
        )
        self.embedding = nn.Embedding(vocab_size, dim)
        self.position = embedding_position(options, Spec.of(position), dim, max_seq_len)
        # Trained positions find their own size. Fixed ones, such as sines, would dominate token
        # embeddings that start fifty times smaller, so they get the initial size of these.
        fixed = self.position is not None and not any(True for _ in self.position.parameters())
        self.position_size = EMBEDDING_STD if fixed else 1.0
        self.dropout = nn.Dropout(dropout)
        # A generator: each mechanism is initialised with its layer. Another order would give other
        # weights for the same seed.
        mechanisms = ((made, None) for made in self_attentions(options, dim))
        self.add_layers(options, dim, mechanisms)
        self.add_norm(norm, dim, bias)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        if tied_embeddings:
            self.head.weight = self.embedding.weight
        self._initialise(init_std, zero_init)

    @staticmethod
    def layer_options(model: Mapping[str, Any]) -> list[LayerOptions]:
        """Returns the options of each layer of a recipe's section `model`.

        Raises:
            ValueError: if the pattern or a list does not fit the number of layers.
        """
        section = {key: model[key] for key in LAYER_KEYS}
        return layer_options(section, model["num_layers"], model["layers"])

    def _initialise(self, init_std: float | None, zero_init: bool) -> None:
        """Draws weights from normal distributions with mean 0. Standard deviation of matrices in
        the layers: see `init_std`; of embeddings and head: `EMBEDDING_STD`; of a branch's last
        matrix: that over sqrt(2 layers), or zero.
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
        last += [getattr(layer.mlp, "output", None) for layer in self.layers]
        for linear in last:
            # Keeps a matrix that the mechanism has changed since, or has initialised itself.
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
        stream: Stream | None = None,
    ) -> Tensor:
        """Computes the logits of every next token, or the loss.

        Args:
            tokens: (B, T) token ids; with a cache, the tokens that follow those already seen.
            documents: (B, S) document of each token so far, including these, and of the reserved
                places in a cache of fixed size; only the `document` mask uses it.
            cache: memory of earlier calls, from `new_cache`.
            targets: (B, T) next tokens, see `token_loss`.
            stream: receives the auxiliary losses of the layers.

        Returns:
            (B, T, V) logits; with targets, their mean cross-entropy in nats, ().
        """
        seen = 0 if cache is None else cache.seen
        x = self.embedding(tokens)
        if self.position is not None:
            places = positions(seen, tokens.shape[1], tokens.device)
            x = x + self.position(places).to(x.dtype) * self.position_size
        x = cpu.residual(self.dropout(x))

        def bind(mask: Mask) -> Mask:
            bound = mask.bind(documents=documents)
            return Placed(bound, seen) if isinstance(seen, Tensor) else bound

        inner = Stream(losses=None if stream is None else stream.losses)
        x = self.through(x, inner, bind, cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.head(x) if targets is None else token_loss(x, self.head, targets)

    def new_cache(self) -> ModelCache:
        """Returns an empty cache for decoding.

        Raises:
            ValueError: if a mask lets tokens see later ones, which would change earlier results, or
                if a mechanism has no cache.
        """
        if any(mask.ahead != 0 for mask in self.masks):
            raise ValueError("a model whose mask shows later tokens cannot decode from a cache")
        if not self.can_cache:
            raise ValueError("a mechanism of this model declares that it has no cache")
        return ModelCache(self.new_caches())
