"""bfloat16 on a CPU: softmax(scale q kᵀ) v with few calls and a hand-written backward pass.

On a CPU, memory traffic costs more than computation, and each call costs some microseconds. This
module is used on CPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnkit.attention.kernels import thresholds
from attnkit.attention.kernels.call import Call, Kernel, Verdict, Where, share_heads
from attnkit.masks import Mask, NoMask
from attnkit.masks.once import once

SHORT = thresholds.CPU_BF16_KEYS
WHY = f"bfloat16 on a CPU: faster than sdpa up to {SHORT} keys"


def is_short_bfloat16_on_a_cpu(call: Call, where: Where) -> bool:
    """True if the written-out products are fastest."""
    on_cpu = where.device == "cpu" and where.dtype == torch.bfloat16
    return on_cpu and call.num_keys <= SHORT and call.weights is None


class CpuBf16(Kernel):
    """The standard equation, with fewer calls than automatic differentiation needs."""

    name = "cpu_bf16"
    any_place = True

    def refusal(self, call: Call) -> str | None:
        """Supports neither bias nor dropout."""
        if call.weights is not None:
            return call.why_own
        if call.has_bias:
            return "it does not support a bias"
        return "it does not support dropout" if call.dropout > 0 else None

    def suits(self, call: Call, where: Where) -> Verdict:
        """Used for short bfloat16 inputs on a CPU, unless a compiler fuses the reference."""
        if where.compiling:
            return Verdict(False, "a compiler fuses the written-out steps itself")
        if is_short_bfloat16_on_a_cpu(call, where):
            return Verdict(True, WHY)
        return Verdict(False, f"only for bfloat16 on a CPU, up to {SHORT} keys")

    def __call__(self, call: Call) -> Tensor:
        q, k, v = call.q, share_heads(call.k, call.q.shape[1]), share_heads(call.v, call.q.shape[1])
        if isinstance(call.mask, NoMask):
            return _Explicit.apply(q, k, v, None, call.scale, False)
        added = once(_forbidden, call.mask, call.num_queries, call.num_keys, q.device, q.dtype)
        empty_rows = not call.mask.has_no_empty_row(call.num_queries, call.num_keys)
        return _Explicit.apply(q, k, v, added, call.scale, empty_rows)


def _forbidden(
    mask: Mask, num_queries: int, num_keys: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Returns the mask as a term of the scores, (B or 1, 1, T, S): 0 where a query may attend to a
    key, a very negative number elsewhere.
    """
    allowed = mask.dense(num_queries, num_keys, device)
    added = torch.zeros_like(allowed, dtype=dtype)
    return added.masked_fill_(~allowed, torch.finfo(dtype).min / 2)


class _Explicit(torch.autograd.Function):
    """weights = softmax(scale q kᵀ + forbidden); output = weights v.

    With dO the gradient of the output and W the weights, row by row:

        dV = Wᵀ dO              dW = dO Vᵀ              dS = W (dW - sum(W dW))
        dQ = scale dS K         dK = scale dSᵀ Q
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        forbidden: Tensor | None,
        scale: float,
        empty_rows: bool,
    ) -> Tensor:
        (B, H, T, _), S = q.shape, k.shape[2]
        q, k, v = (heads.flatten(0, 1) for heads in (q, k, v))  # (B H, tokens, D)
        if forbidden is None:
            scores = _scaled_product(q, k.transpose(1, 2), scale)
        else:
            shared = forbidden.shape[0] == 1
            added = forbidden[0] if shared else forbidden.expand(B, H, T, S).flatten(0, 1)
            scores = torch.baddbmm(added, q, k.transpose(1, 2), alpha=scale)
        weights = torch.softmax(scores, dim=-1, out=scores)
        if empty_rows:
            assert forbidden is not None
            nothing = (forbidden < 0).expand(B, H, T, S).flatten(0, 1)
            weights = weights.masked_fill(nothing, 0.0)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v).unflatten(0, (B, H))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        d_output = gradients[0].flatten(0, 1)
        d_weights = torch.bmm(d_output, v.transpose(1, 2))
        d_scores = torch._softmax_backward_data(  # pyright: ignore[reportPrivateImportUsage]
            d_weights, weights, -1, weights.dtype, grad_input=d_weights
        )
        d_q = _scaled_product(d_scores, k, ctx.scale)
        d_k = _scaled_product(d_scores.transpose(1, 2), q, ctx.scale)
        d_v = torch.bmm(weights.transpose(1, 2), d_output)
        shape = gradients[0].shape[:2]
        return (*(d.unflatten(0, shape) for d in (d_q, d_k, d_v)), None, None, None)


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Returns scale left @ right for batches of matrices, in one call."""
    unused = left.new_empty(())  # not read, since beta = 0
    return torch.baddbmm(unused, left, right, beta=0, alpha=scale)
