"""torch's fused scaled_dot_product_attention: memory grows with T, or T x S with a mask tensor."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from attnkit.attention.kernels import cpu_bf16
from attnkit.attention.kernels.bias import whole_bias
from attnkit.attention.kernels.call import Call, Kernel, Verdict, Where
from attnkit.masks import Causal, NoMask


class Sdpa(Kernel):
    """One fused call; a bias is passed as a float mask."""

    name = "sdpa"
    any_place = True

    def refusal(self, call: Call) -> str | None:
        """Supports the standard formula only."""
        return call.why_own if call.weights is not None else None

    def suits(self, call: Call, where: Where) -> Verdict:
        """Used where no special kernel is faster."""
        if cpu_bf16.is_short_bfloat16_on_a_cpu(call, where):
            return Verdict(False, cpu_bf16.WHY)
        if is_plain_causal(call):
            return Verdict(True, "plain causal mask: fused, without a mask tensor")
        return Verdict(True, "fused; scores and softmax are the standard ones")

    def __call__(self, call: Call) -> Tensor:
        if is_plain_causal(call):
            return fused(call, call.q, call.k, call.v, None, is_causal=True)
        num_queries, num_keys, device = call.num_queries, call.num_keys, call.q.device
        last_sees_all = isinstance(call.mask, Causal) and num_queries == 1
        allowed = None
        if not (isinstance(call.mask, NoMask) or last_sees_all):
            allowed = call.mask.dense(num_queries, num_keys, device)
        bias = whole_bias(call, call.q.dtype)
        return fused(call, call.q, call.k, call.v, joined(bias, allowed))


def is_plain_causal(call: Call) -> bool:
    """True if sdpa's own `is_causal` is our mask: it aligns at the start, we align at the end."""
    square = call.num_queries == call.num_keys
    return square and isinstance(call.mask, Causal) and not call.has_bias


def joined(bias: Tensor | None, allowed: Tensor | None) -> Tensor | None:
    """Returns one mask tensor for sdpa: boolean, or float with -inf where nothing is allowed."""
    if bias is None:
        return allowed
    bias = bias.unsqueeze(0)
    return bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))


def fused(
    call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False
) -> Tensor:
    """Calls sdpa with these tensors, and the call's scale and dropout."""
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=call.dropout,
        is_causal=is_causal,
        scale=call.scale,
        enable_gqa=k.shape[1] != q.shape[1],
    )
