"""The values that pass through the layers of a model beside the tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from attnkit.attention.cache import Cache
from attnkit.masks import Mask


@dataclass
class Stream:
    """The values that pass through the layers of one forward pass beside the tokens.

    Pass one to a model to get its auxiliary losses: `model(tokens, stream=Stream())`. Each layer
    gets one with the same `shared` and `losses`, and with the other attributes of that layer.

    Attributes:
        mask: which token may attend to which; None: all.
        cache: cache of the self-attention; None: no cache.
        context: (B, S, C), the input of cross-attention; None: there is none, or `source` replaces
            it.
        source: keys and values (B, H_kv, S, D) of the context, computed once for many calls.
        context_mask: which token may attend to which token of the context.
        real: (B, T), True for real tokens; None: all are real.
        shared: name -> a value for later layers, such as a layer's values.
        losses: name -> () weighted term of the loss; None: losses are not needed.
    """

    mask: Mask | None = None
    cache: Cache | None = None
    context: Tensor | None = None
    source: tuple[Tensor, Tensor] | None = None
    context_mask: Mask | None = None
    real: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] | None = field(default_factory=dict)

    def at(
        self, mask: Mask, cache: Cache | None = None, source: tuple[Tensor, Tensor] | None = None
    ) -> Stream:
        """Returns the stream of one layer."""
        return Stream(
            mask,
            cache,
            self.context,
            source,
            self.context_mask,
            self.real,
            self.shared,
            self.losses,
        )

    def add_loss(self, name: str, term: Tensor) -> None:
        """Adds a () term to the losses; terms of the same name are summed."""
        if self.losses is not None:
            before = self.losses.get(name)
            self.losses[name] = term if before is None else before + term
