"""A stack of layers: what a language model, an encoder and a decoder have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention, Role, build_attention
from attnkit.attention.cache import Borrowed, Cache, KeyValueCache
from attnkit.attention.stream import Stream
from attnkit.masks import Mask, NoMask, Padding, build_mask
from attnkit.models.cache import ModelCache
from attnkit.models.layers import Layer, LayerOptions, build_layer, key_of
from attnkit.norms import NoNorm, build_norm
from attnkit.positions.base import EmbeddingPosition
from attnkit.registry import ATTENTION, POSITIONS, Spec


class Stack(nn.Module):
    """Layers, followed by a norm: (B, T, C) -> (B, T, C).

    Attributes:
        layers: an nn.ModuleList.
        options: options of each layer.
        masks: the different masks of the layers.
        mask_of: for each layer the index of its mask in `masks`.
        position: the encoding that is added to the embeddings, or None.
        norm: after the last layer.
    """

    layers: list[Layer]  # an nn.ModuleList, annotated by what it holds
    options: tuple[LayerOptions, ...] = ()
    masks: list[Mask]
    mask_of: list[int]
    position: EmbeddingPosition | None
    norm: nn.Module

    def add_layers(
        self,
        options: Sequence[LayerOptions],
        dim: int,
        mechanisms: Iterable[tuple[Attention, Attention | None]],
        part: str = "",
    ) -> None:
        """Makes the layers.

        Args:
            options: options of each layer.
            dim: width C.
            mechanisms: the self-attention and the cross-attention of each layer. A generator builds
                and initialises each mechanism just before its MLP.
            part: the part of the model, such as `encoder`, for messages.

        Raises:
            ValueError: if a mechanism does not fit those in lower layers.
        """
        self.options = tuple(options)
        self.layers = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            build_layer(each, dim, *made) for each, made in zip(options, mechanisms, strict=True)
        )
        self.masks, self.mask_of = distinct_masks(options)
        for name in ("attention", "cross_attention"):
            self._place(name, part)

    def _place(self, name: str, part: str) -> None:
        """Calls `at_layer` and `above` of the mechanisms of one kind."""
        made = [getattr(layer, name) for layer in self.layers]
        if None in made:
            return
        for i, attention in enumerate(made):
            attention.at_layer(i, len(made))
        for i, attention in enumerate(made):
            try:
                attention.above(made[:i])
            except ValueError as error:
                key = key_of(self.options[i], name.removesuffix("_attention"), part)
                raise ValueError(f"{key}: {error}") from None

    def add_norm(self, norm: Spec | str, dim: int, bias: bool) -> None:
        """Makes the norm after the last layer, unless the output of that layer is normalised."""
        needed = not (self.layers and self.layers[-1].is_normalised)
        self.norm = build_norm(norm, dim, bias=bias) if needed else NoNorm(dim)

    def layer_mask(self, layer: int) -> Mask:
        """Returns the mask of a layer."""
        return self.masks[self.mask_of[layer]]

    def through(
        self,
        x: Tensor,
        stream: Stream,
        bind: Callable[[Mask], Mask],
        cache: ModelCache | None = None,
    ) -> Tensor:
        """Applies the layers and the norm: (B, T, C) -> (B, T, C).

        Args:
            x: (B, T, C)
            stream: what the layers share.
            bind: makes a mask that fits the batch; called once per mask.
            cache: memory of earlier calls, which the layers update.
        """
        masks = [bind(mask) for mask in self.masks]
        for i, layer in enumerate(self.layers):
            own = (None, None) if cache is None else (cache.layers[i], cache.source_of(i))
            x = layer(x, stream.at(masks[self.mask_of[i]], *own))
        return self.norm(x)

    def layer_masks(self) -> list[Mask]:
        """Returns the mask of each layer."""
        return [self.layer_mask(i) for i in range(len(self.layers))]

    def attentions(self) -> Iterator[tuple[Attention, Mask]]:
        """Yields the self-attention and the mask of each layer."""
        for i, layer in enumerate(self.layers):
            yield layer.attention, self.layer_mask(i)

    @property
    def can_cache(self) -> bool:
        """True if all masks are causal and all mechanisms have a cache."""
        return all(mask.ahead == 0 and attention.has_cache for attention, mask in self.attentions())

    def new_caches(self) -> list[Cache]:
        """Returns an empty cache for the self-attention of each layer."""
        caches: list[Cache] = []
        for i, layer in enumerate(self.layers):
            lender = layer.attention.lender
            if lender is not None:
                caches.append(Borrowed(caches[lender]))
                continue
            cache = layer.attention.new_cache()
            if isinstance(cache, KeyValueCache):
                cache.keeps = self.keys_kept(i)
            caches.append(cache)
        return caches

    def keys_kept(self, layer: int) -> int | None:
        """Returns how many keys before the new tokens the cache of a layer must keep, for the layer
        and for those that use its keys; None: the cache is not limited.
        """
        users = [i for i, each in enumerate(self.layers) if each.attention.lender == layer]
        kept = [self.layers[i].attention.keys_kept(self.layer_mask(i)) for i in (layer, *users)]
        return max((k for k in kept if k is not None), default=None) if None not in kept else None

    def why_no_fixed_cache(self) -> str | None:
        """Returns why the cache cannot have a fixed size, see `ModelCache.fix`; None: it can."""
        reasons = (attention.why_no_fixed_cache() for attention, _ in self.attentions())
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def needs_documents(self) -> bool:
        """True if a mask needs the documents of a batch."""
        return any(mask.needs_documents for mask in self.masks)

    @property
    def has_auxiliary_losses(self) -> bool:
        """True if a mechanism has auxiliary losses."""
        return any(
            isinstance(module, Attention) and module.has_auxiliary_losses()
            for module in self.modules()
        )


def distinct_masks(options: Sequence[LayerOptions]) -> tuple[list[Mask], list[int]]:
    """Returns the different masks of layers, and for each layer the index of its mask. Layers with
    equal masks share one object, whose dense form is computed once per forward pass.
    """
    written: list[object] = []
    places = []
    for each in options:
        if each.mask not in written:
            written.append(each.mask)
        places.append(written.index(each.mask))
    return [build_mask(mask) for mask in written], places  # pyright: ignore[reportArgumentType]


def self_attentions(
    options: Sequence[LayerOptions], dim: int, part: str = "", *, padded: bool = False
) -> Iterator[Attention]:
    """Makes the self-attention of each layer.

    Args:
        options: options of each layer.
        dim: width C.
        part: the part of the model, such as `encoder`, for messages.
        padded: batches are padded, so each mechanism must support that.

    Raises:
        ValueError: if a mechanism does not support the mask or the position.
    """
    for i, each in enumerate(options):
        masks = [build_mask(each.mask), *([_PADDING] if padded else [])]
        key = key_of(each, "attention", part)
        with _in_layer(i, options):
            yield _mechanism(key, each.attention, "self", masks, each.position, dim)


def cross_attentions(options: Sequence[LayerOptions], dim: int, part: str) -> Iterator[Attention]:
    """Makes the cross-attention of each layer, see `self_attentions`."""
    for i, each in enumerate(options):
        assert each.cross is not None
        key = "cross.attention" if each.entry is None else key_of(each, "cross", part)
        masks = [NoMask(), _PADDING]
        with _in_layer(i, options):
            yield _mechanism(key, each.cross, "cross", masks, Spec("none"), dim)


@contextmanager
def _in_layer(layer: int, options: Sequence[LayerOptions]) -> Iterator[None]:
    """Appends the number of the layer to an error, where layers differ."""
    try:
        yield
    except ValueError as error:
        if all(each is options[0] for each in options):
            raise
        raise type(error)(f"{error} (in layer {layer})") from None


_PADDING = Padding(torch.ones(1, 1, dtype=torch.bool))


def _mechanism(
    key: str, spec: Spec, role: Role, masks: Sequence[Mask], position: Spec, dim: int
) -> Attention:
    for mask in masks:
        refusal = ATTENTION.get(spec.name).refusal(role, mask, position.name)
        if refusal is not None:
            raise ValueError(f"{key} {refusal}")
    try:
        return build_attention(spec, dim, position=position)
    except ValueError as error:
        if key == "attention":  # the error names the option, which is enough
            raise
        raise type(error)(f"{key}: {error}") from None


def needs_documents(options: Sequence[LayerOptions]) -> bool:
    """Returns True if the mask of a layer needs the documents of a batch."""
    return any(mask.needs_documents for mask in distinct_masks(options)[0])


def embedding_position(
    options: Sequence[LayerOptions], otherwise: Spec, dim: int, max_seq_len: int
) -> EmbeddingPosition | None:
    """Returns the encoding that is added to the embeddings, if a layer names one; else None.

    Args:
        options: options of all layers.
        otherwise: the encoding of a model without layers.
        dim: width C.
        max_seq_len: longest sequence.

    Raises:
        ValueError: if layers name different ones.
    """
    different_layers = {id(each): each for each in options}.values()
    specs = [each.position for each in different_layers] or [otherwise]
    added = [spec for spec in specs if POSITIONS.get(spec.name).acts_on == "embeddings"]
    named = [spec for spec in added if spec.name != "none"]
    different = [spec for i, spec in enumerate(named) if spec not in named[:i]]
    if len(different) > 1:
        names = " and ".join(spec.name for spec in different)
        raise ValueError(
            f"position: layers name {names}, which are added to the embeddings that all layers "
            "share; name one of them"
        )
    chosen = (different or added)[:1]
    return POSITIONS.build(chosen[0], dim, max_seq_len) if chosen else None
