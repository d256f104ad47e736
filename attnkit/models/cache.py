"""What a whole model remembers while it decodes."""

from __future__ import annotations

from dataclasses import dataclass

from attnkit.attention.cache import Cache


@dataclass
class ModelCache:
    """One cache a layer, and the number of tokens seen."""

    layers: list[Cache]
    length: int = 0

    def num_bytes(self) -> int:
        """Bytes that the tokens seen so far need."""
        return sum(layer.num_bytes() for layer in self.layers)
