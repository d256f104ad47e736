"""What a whole model remembers while it decodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.attention.cache import Cache
from attnkit.masks import Mask, Padding


@dataclass
class ModelCache:
    """One cache a layer, and the number of tokens seen.

    Attributes:
        layers: one cache a layer.
        length: tokens seen; of a cache of fixed size, as it was fixed.
        position: of a cache of fixed size: where the next token stands, see `Cache`.
    """

    layers: list[Cache]
    length: int = 0
    position: Tensor | None = None

    def source_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the source that a layer looks at; None: it looks at none."""
        return None

    @property
    def seen(self) -> int | Tensor:
        """Position of the next token."""
        return self.length if self.position is None else self.position

    def advance(self, num_tokens: int) -> None:
        """Moves on, after all layers have taken up their tokens."""
        if self.position is None:
            self.length += num_tokens
        else:
            self.position.add_(num_tokens)

    def fix(self, room: int, device: torch.device) -> None:
        """Gives the cache a fixed size, after it has taken up the first tokens: steps of equally
        many tokens are then one graph, whose tensors keep their sizes and places.

        Args:
            room: tokens to have room for, those seen included.
            device: the model's.
        """
        self.position = torch.tensor(self.length, device=device)
        for layer in self.layers:
            layer.fix(room, self.position)

    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        own = [] if self.position is None else [self.position]
        return own + [tensor for layer in self.layers for tensor in layer.tensors()]

    def num_bytes(self) -> int:
        """Bytes that the tokens seen so far need."""
        return sum(layer.num_bytes() for layer in self.layers)


@dataclass(kw_only=True)
class DecoderCache(ModelCache):
    """What a decoder remembers of the source, computed once, and of the target so far.

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
        """Real source tokens."""
        return Padding(self.source_keep)

    def select_hypotheses(self, rows: Tensor) -> None:
        """Keeps these rows of the target's caches, in this order."""
        for layer in self.layers:
            layer.select(rows)

    def select_sources(self, rows: Tensor) -> None:
        """Keeps these sources, in this order."""
        self.source = [
            (keys.index_select(0, rows), values.index_select(0, rows))
            for keys, values in self.source
        ]
        self.source_keep = self.source_keep.index_select(0, rows)

    def num_bytes(self) -> int:
        of_source = sum(t.numel() * t.element_size() for pair in self.source for t in pair)
        return of_source + super().num_bytes()
