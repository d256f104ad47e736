"""Normalisations: over the features of a token, or of a head."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

NormName = Literal["layer_norm", "rms_norm", "none"]


class RMSNorm(nn.RMSNorm):
    """torch's RMS norm (arXiv:1910.07467), computed in the type of its gain. Under autocast that
    differs from the type of the input, for which torch has no kernel and warns; `LayerNorm` has
    one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return super().forward(x.to(self.weight.dtype))


class HeadNorm(RMSNorm):
    """Brings each head to one size, with a gain for each feature.

    Args:
        head_dim: width D of a head.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__(head_dim, eps=1e-5)


def build_norm(name: NormName, dim: int, *, bias: bool = False) -> nn.Module:
    """Makes a normalisation over the last axis; `none` leaves its input as it is.

    `layer_norm` is arXiv:1607.06450, `rms_norm` arXiv:1910.07467.
    """
    if name == "layer_norm":
        return nn.LayerNorm(dim, bias=bias)
    return RMSNorm(dim) if name == "rms_norm" else nn.Identity()
