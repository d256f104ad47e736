"""Normalisations of tokens and heads."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

NormName = Literal["layer_norm", "rms_norm", "none"]


class RMSNorm(nn.RMSNorm):
    """RMS norm (arXiv:1910.07467), computed in the dtype of its weight."""

    # Under autocast the input has another dtype, for which torch's RMS norm has no kernel and
    # warns;
    # its LayerNorm has one.

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return super().forward(x.to(self.weight.dtype))


class HeadNorm(RMSNorm):
    """Normalises each head to unit RMS, with a weight per feature.

    Args:
        head_dim: width D of a head.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__(head_dim, eps=1e-5)


def build_norm(name: NormName, dim: int, *, bias: bool = False) -> nn.Module:
    """Makes a normalisation over the last axis; `none` is the identity.

    `layer_norm` is arXiv:1607.06450, `rms_norm` arXiv:1910.07467.
    """
    if name == "layer_norm":
        return nn.LayerNorm(dim, bias=bias)
    return RMSNorm(dim) if name == "rms_norm" else nn.Identity()
