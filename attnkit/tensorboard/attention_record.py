"""The attention maps of one logging moment: all layers, with their tokens and masks.

Importing this module loads only the standard library; its functions load numpy when called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnkit.tensorboard.key_sound import KeySound
from attnkit.tensorboard.map_header import PLUGIN_NAME
from attnkit.tensorboard.untrusted import MapFormatError

if TYPE_CHECKING:
    import numpy as np

SIGN_TOLERANCE = 1e-4
"""Weights this far below zero, relative to the layer's largest, count as rounding errors."""

SUM_TOLERANCE = 0.02
"""Largest distance of the sum of a row from 1; bfloat16 rounds to 0.4 %."""


NORMS = ("rows", "unnormalised", "signed")
"""What is known of a layer's weights, the most specific first: no weight is negative and rows sum
to 1; no weight is negative; nothing."""


@dataclass(frozen=True, eq=False)
class LayerMap:
    """The maps of one layer.

    Args:
        name: name of the layer, as shown ("L0").
        weights: (H, Q, K) float32; masked-out cells are zero.
        norm: one of `NORMS`.
        allowed: (Q, K) or (H, Q, K) booleans, True where attending was allowed; None: everywhere.
        lengths: (H, K), length of the vector that each head adds for each key at a weight of 1;
            None: not defined.
        is_of_all_heads: the only map is the mean of all heads.
    """

    name: str
    weights: np.ndarray
    norm: str = "rows"
    allowed: np.ndarray | None = None
    lengths: np.ndarray | None = None
    is_of_all_heads: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class AttentionRecord:
    """All maps of one example at one site, at one logging moment.

    Args:
        example: name of the example ("probe0"): letters, digits, `.`, `_` and `-`.
        site: place of the attention in the model ("decoder.self"), of the same characters.
        kind: "self" or "cross".
        causal: whether queries cannot attend to later keys.
        query_tokens: Q token texts, as shown to readers.
        key_tokens: K token texts.
        layers: one entry per layer; the numbers of heads may differ.
        note: a remark for readers of the maps.
        sound: the sound whose positions are the keys, if there is one.
    """

    example: str
    site: str
    kind: str
    causal: bool
    query_tokens: Sequence[str]
    key_tokens: Sequence[str]
    layers: Sequence[LayerMap]
    note: str = ""
    sound: KeySound | None = None

    def __repr__(self) -> str:
        names = ", ".join(f"{layer.name}: {layer.weights.shape}" for layer in self.layers)
        return f"<AttentionRecord {self.tag}, maps (H, Q, K) {names}>"

    @property
    def tag(self) -> str:
        """The tag of the record in TensorBoard."""
        return f"{PLUGIN_NAME}/{self.example}/{self.site}"

    @property
    def picture_tag(self) -> str:
        """The tag of its image, which TensorBoard sorts after `loss/...`."""
        return f"maps/{self.example}/{self.site}"


def layer_map(
    name: str,
    weights: np.ndarray,
    allowed: np.ndarray | None = None,
    norm: str = "rows",
    lengths: np.ndarray | None = None,
) -> LayerMap:
    """Makes a `LayerMap` with a norm that holds for the weights.

    Args:
        name: name of the layer.
        weights: (H, Q, K).
        allowed: as in `LayerMap`.
        norm: norm that the mechanism declares. The result is at least as general, so that the maps
            of a run have the same norm, and thus the same colours, at every step.
        lengths: as in `LayerMap`.

    Raises:
        MapFormatError: if the weights are not three-dimensional or not finite.
    """
    import numpy as np

    weights = np.asarray(weights, dtype=np.float32)
    check_weights(name, weights)
    sums = weights.sum(axis=-1)
    if is_signed(weights):
        observed = "signed"
    elif np.all((abs(sums - 1) <= SUM_TOLERANCE) | (sums == 0)):  # 0: nothing was allowed
        observed = "rows"
    else:
        observed = "unnormalised"
    return LayerMap(name, weights, max(norm, observed, key=NORMS.index), allowed, lengths)


def check_weights(name: str, weights: np.ndarray) -> None:
    """Checks that a layer's weights are finite and of shape (H, Q, K).

    Raises:
        MapFormatError: if they are not.
    """
    import numpy as np

    if weights.ndim != 3 or weights.size == 0:
        raise MapFormatError(f"layer {name}: expected (heads, queries, keys), got {weights.shape}")
    if not np.isfinite(weights).all():
        raise MapFormatError(f"layer {name}: the map holds NaN or infinity; the model has diverged")


def is_signed(weights: np.ndarray) -> bool:
    """True if some weights are negative by more than rounding."""
    return bool(weights.min() < -SIGN_TOLERANCE * abs(weights).max())
