"""Normalisations over the features of a token, or of a head.

A class is registered in `NORMS`; its arguments are the width, and `bias` to allow a bias vector.
"""

from __future__ import annotations

from torch import Tensor, nn

from attnkit.registry import NORMS, Spec


@NORMS.register("layer_norm")
class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance over the features of a token, with a learned gain.
    arXiv:1607.06450.

    Args:
        dim: width C of a token.
        bias: add a learned bias vector.
        eps: added to the variance.
    """

    def __init__(self, dim: int, bias: bool = False, *, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps, bias=bias)


@NORMS.register("rms_norm")
class RMSNorm(nn.RMSNorm):
    """Unit mean square over the features of a token, with a learned gain. arXiv:1910.07467.
    Computed in the dtype of its weight.

    Args:
        dim: width C of a token.
        bias: ignored; RMS norm has no bias.
        eps: added to the mean square; null: the machine epsilon of the dtype.
    """

    def __init__(self, dim: int, bias: bool = False, *, eps: float | None = None) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        # Under autocast the input has another dtype. torch's RMS norm has no kernel for that and
        # warns; torch's layer norm has one.
        return super().forward(x.to(self.weight.dtype))


@NORMS.register("none")
class NoNorm(nn.Identity):
    """The identity."""

    def __init__(self, dim: int, bias: bool = False) -> None:
        super().__init__()


class HeadNorm(RMSNorm):
    """Normalises each head to unit RMS, with a weight per feature.

    Args:
        head_dim: width D of a head.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__(head_dim, eps=1e-5)


def build_norm(norm: Spec | str, dim: int, *, bias: bool = False) -> nn.Module:
    """Makes a normalisation over the last axis.

    Raises:
        RegistryError: if a name or an option is unknown.
    """
    return NORMS.build(norm, dim, bias)
