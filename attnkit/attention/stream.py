"""What travels beside the tokens through the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from attnkit.attention.cache import Cache
from attnkit.masks import Mask


@dataclass
class Stream:
    """What travels beside the tokens through the layers of one forward pass.

    A model takes one to hand back auxiliary losses, `model(tokens, stream=Stream())`, and gives
    each layer one with the same `shared` and `losses` and with the rest as it is at that layer.

    Attributes:
        mask: which token may look at which; None: each at all.
        cache: what the self-attention keeps of earlier calls; None: nothing.
        context: (B, S, C), what cross-attention looks at; None where there is none, or where
            `source` stands in its place.
        source: keys and values (B, H_kv, S, D) of the context, computed once for many calls.
        context_mask: which token may look at which of the context.
        real: (B, T), True where a token is real; None: all are.
        shared: name -> what a layer leaves for later layers, such as its values.
        losses: name -> () term of the loss to be minimised, with its weight; None: nobody asks.
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
        """The stream at one layer."""
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
        """Adds a () term to the losses; those of all layers under one name are summed."""
        if self.losses is not None:
            before = self.losses.get(name)
            self.losses[name] = term if before is None else before + term
