"""Computations of a model that differ on a CPU, where memory traffic and the overhead of a call
dominate. On other devices these functions change nothing. The kernel is in
`attention/kernels/cpu_bf16.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_JOINED_UP_TO_DIM = 512


def residual(x: Tensor) -> Tensor:
    """Returns the residual stream in its dtype: bfloat16 under bfloat16 autocast on a CPU,
    otherwise that of `x`.
    """
    # On a GPU autocast computes norms in float32, so a narrower stream would only add casts. The
    # loss is the same: within 0.001 after 2,000 steps at width 128, three seeds.
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return x
    return x.to(torch.bfloat16) if torch.get_autocast_dtype("cpu") == torch.bfloat16 else x


def joined(x: Tensor, linears: tuple[nn.Linear, ...]) -> Tensor | None:
    """Applies several linear layers to `x` with one product: (..., C) -> (..., sum of the outputs).

    Returns None where that is not faster: on another device, for wide inputs, or for subclasses of
    `nn.Linear`.
    """
    if x.device.type != "cpu" or x.shape[-1] > _JOINED_UP_TO_DIM:
        return None
    if any(type(linear) is not nn.Linear for linear in linears):
        return None
    weight = torch.cat([linear.weight for linear in linears])
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return F.linear(x, weight, torch.cat(biases) if biases else None)
