"""What a model computes differently on a CPU, where moving numbers costs more than computing them
and each call costs some microseconds. On another device these functions change nothing.
`attention/kernels/cpu_bf16.py` is the kernel for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_JOINED_UP_TO_DIM = 512


def residual(x: Tensor) -> Tensor:
    """The sum that a model's layers add to, in the type in which a model keeps it: bfloat16 under
    bfloat16 autocast on a CPU, elsewhere the type of `x`. (On a GPU autocast norms in float32, so
    that a narrower sum would only add casts.) Both cost the same loss: 0.001 apart at most after
    2,000 steps of width 128, three seeds.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return x
    return x.to(torch.bfloat16) if torch.get_autocast_dtype("cpu") == torch.bfloat16 else x


def joined(x: Tensor, linears: tuple[nn.Linear, ...]) -> Tensor | None:
    """What the linear layers make of `x`, side by side, from one product instead of several small
    ones: (..., C) -> (..., their outputs in all). None where that does not pay: on another device,
    for wide inputs, or where a layer is more than a plain one.
    """
    if x.device.type != "cpu" or x.shape[-1] > _JOINED_UP_TO_DIM:
        return None
    if any(type(linear) is not nn.Linear for linear in linears):
        return None
    weight = torch.cat([linear.weight for linear in linears])
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return F.linear(x, weight, torch.cat(biases) if biases else None)
