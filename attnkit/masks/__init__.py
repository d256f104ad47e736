"""Masks, the positions of queries and keys, and values that all layers of a forward pass share."""

from attnkit.masks.bigbird import BigBird
from attnkit.masks.grid import Grid, Placed, Recent
from attnkit.masks.rules import (
    AllOf,
    AnyOf,
    Causal,
    Dilated,
    Document,
    Mask,
    NoMask,
    Padding,
    Prefix,
    SlidingWindow,
    build_mask,
    name_of,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "BigBird",
    "Causal",
    "Dilated",
    "Document",
    "Grid",
    "Mask",
    "NoMask",
    "Padding",
    "Placed",
    "Prefix",
    "Recent",
    "SlidingWindow",
    "build_mask",
    "name_of",
]
