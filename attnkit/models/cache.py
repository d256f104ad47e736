"""What a whole model remembers while it decodes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnkit.attention.cache import Cache
from attnkit.masks import Mask, Padding


@dataclass
class ModelCache:
    """One cache a layer, and the number of tokens seen."""

    layers: list[Cache]
    length: int = 0

    def num_bytes(self) -> int:
        """Bytes that the tokens seen so far need."""
        return sum(layer.num_bytes() for layer in self.layers)


@dataclass
class DecoderCache:
    """What a decoder remembers of the source, computed once, and of the target so far.

    Attributes:
        layers: one cache a layer, of the self-attention over the target.
        source: keys and values (B, H_kv, S, D) of each layer's cross-attention.
        source_keep: (B, S), True where a source token is real.
        length: target tokens seen.
    """

    layers: list[Cache]
    source: list[tuple[Tensor, Tensor]]
    source_keep: Tensor
    length: int = 0

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
        """Bytes that the source and the tokens seen so far need."""
        of_source = sum(t.numel() * t.element_size() for pair in self.source for t in pair)
        return of_source + sum(layer.num_bytes() for layer in self.layers)
