"""Seats: combinations of mask, position and role, at sizes at which a mask has an effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnkit.attention.base import Role
from attnkit.masks import Mask, Padding, build_mask
from attnkit.registry import MASKS, POSITIONS

ROLES: tuple[Role, ...] = ("self", "cross")

SMALL_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sliding_window": [{"window": 3}, {"window": 4, "centered": True}],
    "prefix": [{"length": 3}],
    "dilated": [{"dilation": 3}, {"dilation": 2, "window": 3}],
    "bigbird": [{"block_size": 2, "window": 1, "num_random": 1}],
    "all_of": [{"masks": ["causal", {"name": "sliding_window", "window": 5, "centered": True}]}],
    "any_of": [
        {"masks": ["causal", {"name": "prefix", "length": 4}]},
        {"masks": [{"name": "sliding_window", "window": 2}, {"name": "dilated", "window": 3}]},
    ],
}
"""Options with which a mask has an effect on a few tokens; other masks have their defaults."""

_LEFT, _WITHIN = (0, 1), (1, 2, 7, 8, 11)
"""Padded positions of every second sequence, and of the others."""


def keep(batch_size: int, num_keys: int) -> Tensor:
    """Returns which tokens are real: (B, S). Every second sequence is padded at the left, where a
    causal mask then leaves the first rows empty, and the others within.
    """
    real = torch.ones(batch_size, num_keys, dtype=torch.bool)
    for b in range(batch_size):
        for place in _LEFT if b % 2 else _WITHIN:
            if place < num_keys:
                real[b, place] = False
    return real


def documents(batch_size: int, num_keys: int) -> Tensor:
    """Returns documents of several lengths, including a single token: (B, S)."""
    place = torch.arange(num_keys)
    bounds = [(2, 5, 6, 20), (1, 4, 9, 30)]
    rows = [sum((place >= bound).long() for bound in bounds[b % 2]) for b in range(batch_size)]
    return torch.stack([torch.as_tensor(row) for row in rows])


@dataclass(frozen=True)
class MaskCase:
    """A mask for any number of keys.

    Args:
        name: readable, unique among the cases.
        spec: as in a recipe, or a mask.
        padded: True to add padding.
    """

    name: str
    spec: Any
    padded: bool = False

    def over(self, batch_size: int, num_keys: int, copies: int = 1) -> Mask:
        """Returns the mask for sequences of `num_keys` keys, for `copies` of the batch."""
        mask = build_mask(self.spec)
        if mask.needs_documents:
            mask = mask.bind(documents=documents(batch_size, num_keys).repeat(copies, 1))
        if not self.padded:
            return mask
        return mask & Padding(keep(batch_size, num_keys).repeat(copies, 1))

    @property
    def kind(self) -> str:
        """The name without options: `sliding_window-3` is a `sliding_window`."""
        return self.name.partition("-")[0]


def mask_cases() -> list[MaskCase]:
    """Returns all registered masks, the simplest first, and combinations with documents and
    padding.
    """
    found = []
    for name in sorted(MASKS.names(), key=lambda name: name not in ("none", "causal")):
        for options in SMALL_OPTIONS.get(name, [{}]):
            words = "-".join([name, *map(_word, options.values())])
            found.append(MaskCase(words, {"name": name, **options}))
    window = {"name": "sliding_window", "window": 4}
    return [
        *found,
        MaskCase("causal&document", ["causal", "document"]),
        MaskCase("padding", [], padded=True),
        MaskCase("causal&padding", ["causal"], padded=True),
        MaskCase("window&document&padding", [window, "document"], padded=True),
    ]


def long_mask_cases() -> list[MaskCase]:
    """Returns masks that have an effect on a hundred tokens, such as odd and even wide windows."""
    return [
        MaskCase("none", "none"),
        MaskCase("causal", "causal"),
        MaskCase("sliding_window-21", {"name": "sliding_window", "window": 21}),
        MaskCase("sliding_window-40", {"name": "sliding_window", "window": 40}),
        MaskCase("sliding_window-100", {"name": "sliding_window", "window": 100}),
        MaskCase(
            "sliding_window-21-centered",
            {"name": "sliding_window", "window": 21, "centered": True},
        ),
        MaskCase(
            "sliding_window-22-centered",
            {"name": "sliding_window", "window": 22, "centered": True},
        ),
        MaskCase("prefix-19", {"name": "prefix", "length": 19}),
        MaskCase("dilated-3-9", {"name": "dilated", "dilation": 3, "window": 9}),
        MaskCase("causal&document", ["causal", "document"]),
        MaskCase("padding", [], padded=True),
        MaskCase("causal&padding", ["causal"], padded=True),
    ]


def _word(option: object) -> str:
    """Returns the value of an option as part of a name."""
    if isinstance(option, list):
        return "+".join(part if isinstance(part, str) else part["name"] for part in option)
    return str(option)


def position_names() -> tuple[str, ...]:
    """Returns `none` and the encodings that act inside attention."""
    inside = [n for n in POSITIONS.names() if POSITIONS.get(n).acts_on != "embeddings"]
    return ("none", *inside)


def seats(
    masks: Sequence[MaskCase] | None = None,
    positions: Sequence[str] | None = None,
    roles: Sequence[Role] = ROLES,
) -> Iterator[tuple[MaskCase, str, Role]]:
    """Yields every mask, position and role, self-attention first."""
    for role in roles:
        for position in position_names() if positions is None else positions:
            for mask in mask_cases() if masks is None else masks:
                yield mask, position, role
