"""The equation as written: correct for any mechanism. Memory grows with T x S."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.kernels import cpu_bf16
from attnkit.attention.kernels.bias import whole_bias
from attnkit.attention.kernels.call import Call, Kernel, Verdict, Where, share_heads
from attnkit.masks import Mask, NoMask


class Reference(Kernel):
    """softmax(scale q kᵀ + bias) v, or the mechanism's own weights times v."""

    name = "reference"
    any_place = True

    def refusal(self, call: Call) -> str | None:
        return None

    def suits(self, call: Call, where: Where) -> Verdict:
        """Always; it is tried last."""
        if call.weights is not None:
            return Verdict(True, call.why_own)
        if cpu_bf16.is_short_bfloat16_on_a_cpu(call, where):
            return Verdict(True, cpu_bf16.WHY)
        return Verdict(True, "no other kernel takes it")

    def __call__(self, call: Call) -> Tensor:
        if call.weights is None:
            weights = standard_weights(call)
        else:
            weights = call.weights(call.q, call.k, call.mask)
        if call.dropout > 0:
            weights = F.dropout(weights, call.dropout)
        return weights.to(call.v.dtype) @ share_heads(call.v, weights.shape[1])


def standard_weights(call: Call) -> Tensor:
    """Returns softmax(scale q kᵀ + bias): (B, H, T, S)."""
    scores = scaled_scores(call.q, call.k, call.scale)
    bias = whole_bias(call)
    scores = scores if bias is None else scores + bias
    return normalized_under(softmax, scores, call.mask)


def scaled_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Returns scale q kᵀ, with keys shared by groups of heads: (B, H, T, S)."""
    return (q * scale) @ share_heads(k, q.shape[1]).transpose(-2, -1)


def softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Applies softmax over the allowed keys; None: all."""
    if allowed is not None:
        # Added, not filled in: a sum needs no work in the backward pass.
        forbidden = torch.zeros_like(allowed, dtype=scores.dtype)
        scores = scores + forbidden.masked_fill_(~allowed, torch.finfo(scores.dtype).min / 2)
    return scores.softmax(dim=-1)


def normalized_under(
    normalize: Callable[[Tensor, Tensor | None], Tensor], scores: Tensor, mask: Mask
) -> Tensor:
    """Applies `normalize` under a mask, with zeros where nothing is allowed: (B, H, T, S)."""
    if isinstance(mask, NoMask):
        return normalize(scores, None)
    num_queries, num_keys = scores.shape[-2:]
    allowed = mask.dense(num_queries, num_keys, scores.device)
    weights = normalize(scores, allowed)
    if mask.has_no_empty_row(num_queries, num_keys):
        return weights
    return weights.masked_fill(~allowed, 0.0)
