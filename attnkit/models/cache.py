"""The memory of a whole model between decoding steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.attention.cache import Cache
from attnkit.masks import Mask, Padding


@dataclass
class ModelCache:
    """The caches of all layers, and the number of tokens so far.

    Attributes:
        layers: one cache per layer.
        length: number of tokens so far; for a fixed cache, their number when it was fixed.
        position: for a fixed cache, the position of the next token, see `Cache`.
    """

    layers: list[Cache]
    length: int = 0
    position: Tensor | None = None

    def source_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Returns the keys and values of the source for a layer; None: there is no source."""
        return None

    @property
    def seen(self) -> int | Tensor:
        """Position of the next token."""
        return self.length if self.position is None else self.position

    def advance(self, num_tokens: int) -> None:
        """Adds to the number of tokens, after all layers have stored theirs."""
        if self.position is None:
            self.length += num_tokens
        else:
            self.position.add_(num_tokens)

    def fix(self, room: int, device: torch.device) -> None:
        """Fixes the size of the cache after the first tokens. Steps with the same number of tokens
        are then one graph, whose tensors keep their sizes and memory addresses.

        Args:
            room: number of tokens to reserve memory for, including those so far.
            device: device of the model.
        """
        self.position = torch.tensor(self.length, device=device)
        for layer in self.layers:
            layer.fix(room, self.position)

    def tensors(self) -> list[Tensor]:
        """Returns all of its tensors."""
        position = [] if self.position is None else [self.position]
        return position + [tensor for layer in self.layers for tensor in layer.tensors()]

    def num_bytes(self) -> int:
        """Returns the bytes needed for the tokens so far."""
        return sum(layer.num_bytes() for layer in self.layers)


@dataclass(kw_only=True)
class DecoderCache(ModelCache):
    """The cache of a decoder: the source, computed once, and the target so far.

    Attributes:
        source: keys and values (B, H_kv, S, D) of each layer's cross-attention.
        source_keep: (B, S), True where a source token is real.
    """

    source: list[tuple[Tensor, Tensor]]
    source_keep: Tensor

    def source_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return self.source[layer]

    @property
    def source_mask(self) -> Mask:
        """The padding of the source."""
        return Padding(self.source_keep)

    def select_hypotheses(self, rows: Tensor) -> None:
        """Selects rows of the target's caches, in this order."""
        for layer in self.layers:
            layer.select(rows)

    def select_sources(self, rows: Tensor) -> None:
        """Selects sources, in this order."""
        self.source = [
            (keys.index_select(0, rows), values.index_select(0, rows))
            for keys, values in self.source
        ]
        self.source_keep = self.source_keep.index_select(0, rows)

    def num_bytes(self) -> int:
        of_source = sum(t.numel() * t.element_size() for pair in self.source for t in pair)
        return of_source + super().num_bytes()
