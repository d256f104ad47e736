"""An encoder that reads a source in both directions, and a decoder that writes a target and attends
to the source. Vaswani et al. 2017, arXiv:1706.03762, section 3.1; by default, norms come before
each branch, as in arXiv:2002.04745.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from attnkit.attention.stream import Stream
from attnkit.masks import Mask, NoMask, Padding, build_mask, name_of
from attnkit.masks.once import one_pass
from attnkit.models.cache import DecoderCache
from attnkit.models.layers import (
    DecoderLayerEntry,
    LayerEntry,
    LayerOptions,
    draw_parameters,
    key_of,
    layer_options,
)
from attnkit.models.stack import Stack, cross_attentions, embedding_position, self_attentions
from attnkit.models.token_loss import IGNORED, token_loss
from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import ATTENTION, MASKS, MLPS, NORMS, POSITIONS, WIRINGS, Spec


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How the source is read.

    Args:
        num_layers: number of layers of self-attention and MLP.
        layers: a pattern of entries that replace the keys below and those of the model, repeated
            over all layers.
        attention: the mechanism of all layers, or a list with one for each.
        mask: which source token may attend to which, in addition to padding.
        position: how the order of the source tokens is encoded.
    """

    num_layers: int = 4
    layers: list[LayerEntry] | None = None
    attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head")
    mask: Annotated[Spec | list[Spec], MASKS] = Spec("none")
    position: Annotated[Spec, POSITIONS] = Spec("sinusoidal")


@dataclass(frozen=True, kw_only=True)
class DecoderOptions:
    """How the target is written.

    Args:
        num_layers: number of layers of self-attention, cross-attention and MLP.
        layers: a pattern of entries that replace the keys below and those of the model, repeated
            over all layers.
        attention: the mechanism over the target, or a list with one for each layer.
        mask: which target token may attend to which; no token may see a later one.
        position: how the order of the target tokens is encoded.
    """

    num_layers: int = 4
    layers: list[DecoderLayerEntry] | None = None
    attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head")
    mask: Annotated[Spec | list[Spec], MASKS] = Spec("causal")
    position: Annotated[Spec, POSITIONS] = Spec("sinusoidal")


@dataclass(frozen=True, kw_only=True)
class CrossOptions:
    """How the target attends to the source.

    Args:
        attention: the mechanism from target to source, or a list with one for each decoder layer.
        mask: always `none`, since masks compare positions within one sequence.
        position: always `none`, for the same reason; encoder and decoder have their own positions.
    """

    attention: Annotated[Spec | list[Spec], ATTENTION] = Spec("multi_head")
    mask: Annotated[Spec | list[Spec], MASKS] = Spec("none")
    position: Annotated[Spec, POSITIONS] = Spec("none")


class EncoderDecoder(nn.Module):
    """Predicts each target token from the source and the target before it:
    (B, S), (B, T) tokens -> (B, T, V) logits.

    Args:
        vocab_size: number V of target tokens, and of source tokens if they are shared.
        source_vocab_size: number of source tokens if they have their own vocabulary.
        max_seq_len: longest source or target, including the end token.
        dim: width C of the model.
        encoder: how the source is read.
        decoder: how the target is written.
        cross: how the target attends to the source.
        mlp: the MLPs; `none`: no MLPs.
        mlp_dim: hidden width of the MLPs; None: four times `dim` (8/3 of it for swiglu).
        norm: normalisation of each branch and after each stack.
        wiring: how a layer combines its branches.
        shared_embeddings: one embedding matrix for source and target; needs a joint vocabulary.
        tied_embeddings: the head reuses the target's embedding matrix.
        dropout: share of embeddings and of each branch's output that is dropped in training.
        bias: bias vectors in MLPs and norms (a mechanism has its own option).

    Raises:
        ValueError: if sizes do not fit, or if a mechanism cannot serve its role, mask or position.
        RegistryError: if a name or an option is unknown.
    """

    encoder: Stack
    decoder: Stack

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
        mlp: Annotated[Spec, MLPS] = Spec("relu"),
        mlp_dim: int | None = None,
        norm: Annotated[Spec, NORMS] = Spec("layer_norm"),
        wiring: Annotated[Spec, WIRINGS] = Spec("pre_norm"),
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
        self.max_seq_len = max_seq_len
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.target_embedding = nn.Embedding(vocab_size, dim)
        self.source_embedding = nn.Embedding(source_vocab_size or vocab_size, dim)
        if shared_embeddings:
            self.source_embedding = self.target_embedding

        shared = {
            "mlp": mlp,
            "mlp_dim": mlp_dim,
            "norm": norm,
            "wiring": wiring,
            "dropout": dropout,
            "bias": bias,
        }
        of_encoder = _layers("encoder", encoder, None, shared)
        of_decoder = _layers("decoder", decoder, cross, shared)
        _check_masks(of_encoder, of_decoder, cross)
        # Lists: the mechanisms of a stack are initialised before its MLPs. Another order would give
        # other weights for the same seed.
        self.encoder = Stack()
        to_itself = list(self_attentions(of_encoder, dim, "encoder", padded=True))
        self.encoder.add_layers(of_encoder, dim, [(each, None) for each in to_itself], "encoder")
        self.encoder.position = embedding_position(of_encoder, encoder.position, dim, max_seq_len)
        self.encoder.add_norm(norm, dim, bias)
        self.decoder = Stack()
        to_itself = list(self_attentions(of_decoder, dim, "decoder"))
        to_source = list(cross_attentions(of_decoder, dim, "decoder"))
        self.decoder.add_layers(of_decoder, dim, zip(to_itself, to_source, strict=True), "decoder")
        self.decoder.position = embedding_position(of_decoder, decoder.position, dim, max_seq_len)
        self.decoder.add_norm(norm, dim, bias)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        if tied_embeddings:
            self.head.weight = self.target_embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        """Draws matrices as in Glorot and Bengio 2010 (uniform), and embeddings from a normal
        distribution with a standard deviation of 1/sqrt(C), so that logits, and embeddings scaled
        by sqrt(C), have unit size.
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
        stream: Stream | None = None,
    ) -> Tensor:
        """Computes the logits of every next target token, or the loss.

        Args:
            source: (B, S) token ids, padded at the right.
            source_keep: (B, S) boolean, True where a source token is real.
            target: (B, T) token ids, padded at the right.
            predicted: (B, T) next tokens, see `token_loss`.
            label_smoothing: see `token_loss`.
            stream: receives the auxiliary losses of the layers.

        Returns:
            (B, T, V) logits; with `predicted`, their mean cross-entropy in nats, ().
        """
        losses = None if stream is None else stream.losses
        context = self.encode(source, source_keep, losses)
        x = self._placed(self.embed_target(target), self.decoder.position, 0)
        real = None if predicted is None or losses is None else predicted != IGNORED
        inner = Stream(context=context, context_mask=Padding(source_keep), real=real, losses=losses)
        x = self.decoder.through(x, inner, _unchanged)
        if predicted is None:
            return self.head(x)
        return token_loss(x, self.head, predicted, label_smoothing)

    @one_pass
    def encode(
        self, source: Tensor, source_keep: Tensor, losses: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Reads the source: (B, S) tokens -> (B, S, C).

        Args:
            source: token ids, padded at the right.
            source_keep: boolean, True where a token is real.
            losses: receives the auxiliary losses of the encoder; None: they are not needed.
        """
        x = self._placed(self.embed_source(source, source_keep), self.encoder.position, 0)
        padding = Padding(source_keep)
        stream = Stream(real=source_keep, losses=losses)
        return self.encoder.through(x, stream, lambda mask: mask & padding)

    def new_cache(self, source: Tensor, source_keep: Tensor) -> DecoderCache:
        """Reads the source and stores its keys and values for each layer, for `decode`."""
        context = self.encode(source, source_keep)
        cross = [layer.cross_attention for layer in self.decoder.layers]
        return DecoderCache(
            self.decoder.new_caches(),
            source=[each.project_context(context) for each in cross if each is not None],
            source_keep=source_keep,
        )

    @property
    def can_cache(self) -> bool:
        """True if all mechanisms of the decoder have a cache."""
        return self.decoder.can_cache

    @property
    def has_auxiliary_losses(self) -> bool:
        """True if a mechanism has auxiliary losses."""
        return self.encoder.has_auxiliary_losses or self.decoder.has_auxiliary_losses

    @one_pass
    def decode(self, target: Tensor, cache: DecoderCache) -> Tensor:
        """Computes the logits for tokens that follow those in the cache.

        Args:
            target: (B n, T) for n hypotheses of each of the cache's B sources.
            cache: from `new_cache`; it is updated.

        Returns:
            (B n, T, V) logits.
        """
        x = self._placed(self.embed_target(target), self.decoder.position, cache.length)
        stream = Stream(context_mask=cache.source_mask, losses=None)
        x = self.decoder.through(x, stream, _unchanged, cache)
        cache.advance(target.shape[1])
        return self.head(x)

    def embed_source(self, source: Tensor, source_keep: Tensor) -> Tensor:
        """Returns the vectors (B, S, C) that the encoder reads, of about unit size, without their
        positions. A model of other sources, such as sound, overrides it.

        Args:
            source: (B, S) token ids, or (B, S, ...) of another source.
            source_keep: (B, S) boolean, True where a token is real.
        """
        return self.source_embedding(source) * math.sqrt(self.dim)

    def embed_target(self, target: Tensor) -> Tensor:
        """Returns vectors (B, T, C) of unit size (arXiv:1706.03762, section 3.4)."""
        return self.target_embedding(target) * math.sqrt(self.dim)

    def _placed(self, x: Tensor, position: EmbeddingPosition | None, seen: int) -> Tensor:
        """Adds the positions from `seen` on."""
        if position is not None:
            places = torch.arange(seen, seen + x.shape[1], device=x.device)
            x = x + position(places).to(x.dtype)
        return self.dropout(x)


def _unchanged(mask: Mask) -> Mask:
    """Returns the mask of a target, which is the same for every batch: padding follows the real
    tokens, where a causal mask hides it.
    """
    return mask


def _layers(
    part: str,
    options: EncoderOptions | DecoderOptions,
    cross: CrossOptions | None,
    shared: Mapping[str, Any],
) -> list[LayerOptions]:
    """Returns the options of each layer of a part."""
    section = {"attention": options.attention, "mask": options.mask, "position": options.position}
    if cross is not None:
        section["cross"] = cross.attention
    return layer_options({**shared, **section}, options.num_layers, options.layers, part)


def _check_masks(
    encoder: Sequence[LayerOptions], decoder: Sequence[LayerOptions], cross: CrossOptions
) -> None:
    """Checks that masks and positions are meaningful for pairs of sequences.

    Raises:
        ValueError: if one of them is not.
    """
    for layer in encoder:
        if build_mask(layer.mask).needs_documents:
            key = key_of(layer, "mask", "encoder")
            raise ValueError(f"{key} document needs documents, and a pair has none")
    for layer in decoder:
        mask = build_mask(layer.mask)
        if mask.ahead != 0 or mask.needs_documents:
            key = key_of(layer, "mask", "decoder")
            raise ValueError(
                f"{key} {name_of(mask)} lets a token see later ones, which do not exist during "
                "translation; use causal, or a mask combined with it: [causal, ...]"
            )
    mask, position = build_mask(cross.mask), Spec.of(cross.position)
    if not isinstance(mask, NoMask):
        raise ValueError(
            f"cross.mask {name_of(mask)} compares positions within one sequence, so it has no "
            "meaning between two; padding is always masked"
        )
    if POSITIONS.get(position.name).acts_on == "embeddings" and position.name != "none":
        raise ValueError(
            f"cross.position {position.name} is added to embeddings, but cross-attention has no "
            "embeddings; set encoder.position and decoder.position"
        )
    if position.name != "none":
        raise ValueError(
            f"cross.attention position {position.name} compares positions within one sequence, so "
            "it has no meaning in cross-attention"
        )
