"""An encoder that reads a source in both directions, and a decoder that writes a target and looks
at the source by cross-attention. Vaswani et al. 2017, arXiv:1706.03762, section 3.1; norms stand
before each branch, as in arXiv:2002.04745.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention, Role, build_attention
from attnkit.masks import Mask, NoMask, Padding, build_mask, name_of
from attnkit.models.cache import DecoderCache
from attnkit.models.language_model import one_per_layer
from attnkit.models.layers import MLP, DecoderLayer, Layer, MLPName, draw_parameters
from attnkit.models.token_loss import token_loss
from attnkit.norms import NormName, build_norm
from attnkit.once import one_pass
from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import ATTENTION, MASKS, POSITIONS, Spec


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How the source is read.

    Args:
        num_layers: layers of self-attention and MLP.
        attention: the mechanism of all layers, or a list with one for each.
        mask: which source token may look at which, besides padding.
        position: how the order of the source tokens is told.
    """

    num_layers: int = 4
    attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head")
    mask: Annotated[Spec | list[Spec], MASKS] = Spec("none")
    position: Annotated[Spec, POSITIONS] = Spec("sinusoidal")


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """How the target is written.

    Args:
        num_layers: layers of self-attention, cross-attention and MLP.
        attention: the mechanism over the target, or a list with one for each layer.
        mask: which target token may look at which; none may see a later one.
        position: how the order of the target tokens is told.
    """

    num_layers: int = 4
    attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head")
    mask: Annotated[Spec | list[Spec], MASKS] = Spec("causal")
    position: Annotated[Spec, POSITIONS] = Spec("sinusoidal")


@dataclass(frozen=True, kw_only=True)
class CrossOptions:
    """How the target looks at the source.

    Args:
        attention: the mechanism from target to source, or a list with one for each decoder layer.
        mask: `none`: masks and positions compare places within one sequence.
        position: `none`, likewise; encoder and decoder tell the order of their own tokens.
    """

    attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head")
    mask: Annotated[Spec | list[Spec], MASKS] = Spec("none")
    position: Annotated[Spec, POSITIONS] = Spec("none")


class EncoderDecoder(nn.Module):
    """Predicts each target token from the source and the target before it:
    (B, S), (B, T) tokens -> (B, T, V) logits.

    Args:
        vocab_size: number V of target tokens, and of source tokens where they are shared.
        source_vocab_size: number of source tokens where they have a vocabulary of their own.
        max_seq_len: longest source or target, end token included.
        dim: width C of the model.
        encoder: how the source is read.
        decoder: how the target is written.
        cross: how the target looks at the source.
        mlp: nonlinearity of the MLPs; `none` leaves them out.
        mlp_dim: width inside the MLPs; None: four times `dim` (8/3 of it for swiglu).
        norm: normalisation before each branch and behind each stack.
        shared_embeddings: one embedding matrix for source and target; needs a joint vocabulary.
        tied_embeddings: the head reuses the target's embedding matrix.
        dropout: share of embeddings and of each branch's output that training drops.
        bias: bias vectors in MLPs and norms (a mechanism has an option of its own).

    Raises:
        ValueError: if sizes do not fit, or if a mechanism cannot serve its role, mask or position.
        RegistryError: if a name or an option is unknown.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(
        self,
        vocab_size: int,
        source_vocab_size: int | None = None,
        *,
        max_seq_len: int = 128,
        dim: int = 128,
        encoder: EncoderOptions = EncoderOptions(),
        decoder: DecoderOptions = DecoderOptions(),
        cross: CrossOptions = CrossOptions(),
        mlp: MLPName = "relu",
        mlp_dim: int | None = None,
        norm: NormName = "layer_norm",
        shared_embeddings: bool = True,
        tied_embeddings: bool = True,
        dropout: float = 0.1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("max_seq_len", max_seq_len), ("dim", dim), ("vocab_size", vocab_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if max_seq_len < 2:
            raise ValueError("max_seq_len must be at least 2: a token and the end")
        for name, stack in (("encoder", encoder), ("decoder", decoder)):
            if stack.num_layers < 1:
                raise ValueError(f"{name}.num_layers must be at least 1, got {stack.num_layers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if shared_embeddings and source_vocab_size not in (None, vocab_size):
            raise ValueError(
                f"shared_embeddings needs one vocabulary, but the source has {source_vocab_size} "
                f"tokens and the target {vocab_size}; set it to false"
            )
        if mlp_dim is None:
            mlp_dim = 4 * dim if mlp != "swiglu" else 8 * math.ceil(dim / 3)
        self.max_seq_len = max_seq_len
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.target_embedding = nn.Embedding(vocab_size, dim)
        self.source_embedding = nn.Embedding(source_vocab_size or vocab_size, dim)
        if shared_embeddings:
            self.source_embedding = self.target_embedding

        def feed_forward() -> MLP | None:
            return None if mlp == "none" else MLP(dim, mlp, mlp_dim, bias=bias)

        def norms(count: int) -> list[nn.Module]:
            return [build_norm(norm, dim, bias=bias) for _ in range(count)]

        self.encoder = Encoder(
            [
                Layer(attention, feed_forward(), (*norms(2),), dropout)  # pyright: ignore
                for attention in mechanisms("encoder", "self", encoder, encoder.num_layers, dim)
            ],
            build_mask(encoder.mask),
            _embedding_position(encoder.position, dim, max_seq_len),
            build_norm(norm, dim, bias=bias),
        )
        if self.encoder.mask.needs_documents:
            raise ValueError("encoder.mask document needs documents, and a pair has none")
        decoder_mask = build_mask(decoder.mask)
        if decoder_mask.ahead != 0 or decoder_mask.needs_documents:
            raise ValueError(
                f"decoder.mask {name_of(decoder_mask)} lets a token see later ones, which do not "
                "exist when it translates; use causal, or a mask joined with it: [causal, ...]"
            )
        self.decoder = Decoder(
            [
                DecoderLayer(own, to_source, feed_forward(), (*norms(3),), dropout)  # pyright: ignore
                for own, to_source in zip(
                    mechanisms("decoder", "self", decoder, decoder.num_layers, dim),
                    mechanisms("cross", "cross", cross, decoder.num_layers, dim),
                    strict=True,
                )
            ],
            decoder_mask,
            _embedding_position(decoder.position, dim, max_seq_len),
            build_norm(norm, dim, bias=bias),
        )
        self.head = nn.Linear(dim, vocab_size, bias=False)
        if tied_embeddings:
            self.head.weight = self.target_embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        """Matrices as Glorot and Bengio 2010 (uniform); embeddings normal with a deviation of
        1/sqrt(C), so that those that are scaled by sqrt(C) have unit size and logits too.
        """

        def draw(module: nn.Linear | nn.Embedding, in_layer: bool) -> None:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

        draw_parameters(self, draw)
        for weight in (
            self.head.weight,
            self.target_embedding.weight,
            self.source_embedding.weight,
        ):
            nn.init.normal_(weight, std=self.dim**-0.5)

    @one_pass
    def forward(
        self,
        source: Tensor,
        source_keep: Tensor,
        target: Tensor,
        *,
        predicted: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Scores every next target token, or says how well they are predicted.

        Args:
            source: (B, S) token numbers, padded at the right.
            source_keep: (B, S) boolean, True where a source token is real.
            target: (B, T) token numbers, padded at the right.
            predicted: (B, T) what is to be predicted, see `token_loss`.
            label_smoothing: see `token_loss`.

        Returns:
            (B, T, V) logits; with `predicted`, its mean cross-entropy in nats, ().
        """
        context = self.encode(source, source_keep)
        x = self._embed(self.target_embedding, self.decoder.position, target, 0)
        x = self.decoder(x, context, Padding(source_keep))
        if predicted is None:
            return self.head(x)
        return token_loss(x, self.head, predicted, label_smoothing)

    @one_pass
    def encode(self, source: Tensor, source_keep: Tensor) -> Tensor:
        """Reads the source: (B, S) tokens -> (B, S, C)."""
        x = self._embed(self.source_embedding, self.encoder.position, source, 0)
        return self.encoder(x, source_keep)

    def new_cache(self, source: Tensor, source_keep: Tensor) -> DecoderCache:
        """Reads the source and keeps each layer's keys and values of it, for `decode`."""
        context = self.encode(source, source_keep)
        return DecoderCache(
            layers=[layer.attention.new_cache() for layer in self.decoder.layers],
            source=[
                layer.cross_attention.project_context(context) for layer in self.decoder.layers
            ],
            source_keep=source_keep,
        )

    @property
    def can_cache(self) -> bool:
        """True if all of the decoder's mechanisms keep what they computed."""
        return all(layer.attention.has_cache for layer in self.decoder.layers)

    @one_pass
    def decode(self, target: Tensor, cache: DecoderCache) -> Tensor:
        """Scores what follows tokens that follow those in the cache.

        Args:
            target: (B n, T) for n hypotheses of each of the cache's B sources.
            cache: from `new_cache`; it is updated.

        Returns:
            (B n, T, V) logits.
        """
        x = self._embed(self.target_embedding, self.decoder.position, target, cache.length)
        x = self.decoder.step(x, cache)
        cache.length += target.shape[1]
        return self.head(x)

    def _embed(
        self,
        embedding: nn.Embedding,
        position: EmbeddingPosition | None,
        tokens: Tensor,
        seen: int,
    ) -> Tensor:
        """Vectors of unit size (arXiv:1706.03762, section 3.4), with their positions."""
        x = embedding(tokens) * math.sqrt(self.dim)
        if position is not None:
            places = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)
            x = x + position(places).to(x.dtype)
        return self.dropout(x)


class Encoder(nn.Module):
    """The stack that reads the source.

    Args:
        layers: self-attention and MLP.
        mask: which token may look at which, besides padding.
        position: what is added to the embeddings, or None.
        norm: behind the last layer.
    """

    layers: list[Layer]  # an nn.ModuleList, annotated by what it holds

    def __init__(
        self,
        layers: list[Layer],
        mask: Mask,
        position: EmbeddingPosition | None,
        norm: nn.Module,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)  # pyright: ignore[reportAttributeAccessIssue]
        self.mask = mask
        self.position = position
        self.norm = norm

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        mask = self.mask & Padding(keep)
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """The stack that writes the target.

    Args:
        layers: self-attention, cross-attention and MLP.
        mask: which target token may look at which.
        position: what is added to the embeddings, or None.
        norm: behind the last layer.
    """

    layers: list[DecoderLayer]  # an nn.ModuleList, annotated by what it holds

    def __init__(
        self,
        layers: list[DecoderLayer],
        mask: Mask,
        position: EmbeddingPosition | None,
        norm: nn.Module,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)  # pyright: ignore[reportAttributeAccessIssue]
        self.mask = mask
        self.position = position
        self.norm = norm

    def forward(self, x: Tensor, context: Tensor, context_mask: Mask) -> Tensor:
        """(B, T, C) over the source's context (B, S, C) -> (B, T, C)."""
        for layer in self.layers:
            x = layer(x, self.mask, context, context_mask)
        return self.norm(x)

    def step(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """`forward` for tokens that follow those in the cache."""
        source_mask = cache.source_mask
        for layer, own, source in zip(self.layers, cache.layers, cache.source, strict=True):
            x = layer.step(x, self.mask, own, *source, source_mask)
        return self.norm(x)


def mechanisms(
    part: str,
    role: Role,
    options: EncoderOptions | DecoderOptions | CrossOptions,
    num_layers: int,
    dim: int,
) -> list[Attention]:
    """Makes the mechanisms of one part of the model, one a layer.

    Raises:
        ValueError: if one of them cannot serve the role, the mask or the position; says why.
    """
    mask = build_mask(options.mask)
    position = Spec.of(options.position)
    if role == "cross" and not isinstance(mask, NoMask):
        raise ValueError(
            f"cross.mask {name_of(mask)} compares places within one sequence, so it has no meaning "
            "between two; padding is always masked"
        )
    added = POSITIONS.get(position.name).acts_on == "embeddings" and position.name != "none"
    if role == "cross" and added:
        raise ValueError(
            f"cross.position {position.name} is added to embeddings, and cross-attention has none "
            "of its own; set encoder.position and decoder.position"
        )
    try:
        specs = [Spec.of(spec) for spec in one_per_layer(options.attention, num_layers)]
    except ValueError as error:
        raise ValueError(f"{part}.{error}") from None
    found = []
    for i, spec in enumerate(specs):
        for asked in (mask, Padding(torch.ones(1, 1, dtype=torch.bool))):
            if asked is not mask and part == "decoder":
                continue  # padding stands behind the target: a causal mask hides it
            refusal = ATTENTION.get(spec.name).refusal(role, asked, position.name)
            if refusal is not None:
                raise ValueError(f"{part}.attention {refusal}")
        try:
            attention = build_attention(spec, dim, position=position)
            found.append(attention.at_layer(i, num_layers))
        except ValueError as error:
            raise ValueError(f"{part}.attention: {error}") from None
    return found


def _embedding_position(position: Spec, dim: int, max_seq_len: int) -> EmbeddingPosition | None:
    """The encoding that is added to embeddings; None where it acts inside attention."""
    spec = Spec.of(position)
    if POSITIONS.get(spec.name).acts_on != "embeddings":
        return None
    return POSITIONS.build(spec, dim, max_seq_len)
