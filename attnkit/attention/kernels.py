"""Which computation runs, and why. All of them compute `weights @ v` of a `ScoreAttention`.

reference   softmax(q kᵀ) v written out: the truth, for any mechanism; memory grows with T x S
explicit    the same products, with a backward pass written by hand (bfloat16 on a CPU, short)
sdpa        torch's fused scaled_dot_product_attention: memory grows with T
windowed    sdpa over chunks of queries, each with the few keys that its window reaches
flex        FlexAttention, compiled for the mask and the bias (GPU)
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attnkit.masks import Causal, Mask, NoMask, name_of
from attnkit.positions.base import AttentionPosition

if TYPE_CHECKING:
    from attnkit.attention.base import ScoreAttention

log = logging.getLogger("attnkit")

Kernel = Literal["reference", "explicit", "sdpa", "windowed", "flex"]

EXPLICIT_BF16_KEYS = 256
"""On a CPU in bfloat16, sdpa's backward is slower than the written-out products up to about this
many keys.
"""

LONG_REFERENCE_KEYS = 2048
"""From here on, running the reference is worth a word: its map takes 16 MiB a head and more."""

FLEX_MIN_KEYS = 1024
"""Below this, FlexAttention's compilation and its block mask cost more than they save."""


@dataclass(frozen=True)
class Choice:
    """A kernel and the reason for it."""

    kernel: Kernel
    why: str


def choose(
    attention: ScoreAttention,
    num_queries: int,
    num_keys: int,
    mask: Mask,
    device: torch.device,
    dtype: torch.dtype,
) -> Choice:
    """Picks the fastest kernel for this mechanism under this mask, at this length, here."""
    own = attention.overridden_steps()
    if own:
        return Choice(
            "reference", f"{type(attention).__name__} computes its own {' and '.join(own)}"
        )
    if device.type == "cpu" and dtype == torch.bfloat16 and num_keys <= EXPLICIT_BF16_KEYS:
        dropping = attention.training and attention.dropout > 0
        # A compiler joins the reference's steps itself.
        plain = not (dropping or attention.has_bias() or torch.compiler.is_compiling())
        return Choice(
            "explicit" if plain else "reference",
            f"bfloat16 on a CPU: faster than sdpa up to {EXPLICIT_BF16_KEYS} keys",
        )
    if num_queries == num_keys and mask.back is not None and mask.ahead is not None:
        reach = mask.back + mask.ahead + 1
        if num_keys >= 4 * reach:
            return Choice("windowed", f"a query reaches {reach} of {num_keys} keys")
    if _flex_pays(attention, num_queries, num_keys, mask, device):
        return Choice(
            "flex", f"mask {name_of(mask)} on a GPU: blocks without an allowed pair are skipped"
        )
    if _is_plain_causal(attention, mask, num_queries, num_keys):
        return Choice("sdpa", "plain causal mask: fused, without a mask tensor")
    return Choice("sdpa", "fused; scores and softmax are the standard ones")


def _is_plain_causal(
    attention: ScoreAttention, mask: Mask, num_queries: int, num_keys: int
) -> bool:
    """True if sdpa's own `is_causal` means our mask: it aligns at the start, we at the end."""
    return isinstance(mask, Causal) and num_queries == num_keys and not attention.has_bias()


def _flex_pays(
    attention: ScoreAttention, num_queries: int, num_keys: int, mask: Mask, device: torch.device
) -> bool:
    """True on a GPU, for long inputs whose mask or bias would otherwise be a dense tensor."""
    has_bias, position = attention.has_bias(), attention.position
    own_bias = attention.has_own_bias()  # only a position's bias comes as a score_mod
    expressible = not has_bias or (
        not own_bias
        and position is not None
        and type(position).score_mod is not AttentionPosition.score_mod
    )
    plain = isinstance(mask, NoMask | Causal) and not has_bias
    dropping = attention.training and attention.dropout > 0
    long = num_queries >= 128 and num_keys >= FLEX_MIN_KEYS
    return device.type == "cuda" and long and expressible and not plain and not dropping


def attend(attention: ScoreAttention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Mixes values: (B, H, T, D), (B, H_kv, S, D), (B, H_kv, S, D) -> (B, H, T, D)."""
    choice = choose(attention, q.shape[2], k.shape[2], mask, q.device, v.dtype)
    if choice.kernel == "reference":
        if k.shape[2] >= LONG_REFERENCE_KEYS:
            _say_slow(type(attention).__name__, choice.why)
        return reference(attention, q, k, v, mask)
    q, k = (
        q.to(v.dtype),
        k.to(v.dtype),
    )  # norms of queries and keys leave bfloat16; fused kernels want one dtype
    run = {"explicit": explicit, "sdpa": sdpa, "windowed": windowed, "flex": flex}[choice.kernel]
    return run(attention, q, k, v, mask)


@functools.cache
def _say_slow(name: str, why: str) -> None:
    log.warning(
        "%s runs the reference kernel, whose memory grows with the square of the length: %s",
        name,
        why,
    )


def positions(num_queries: int, num_keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Absolute positions of queries (T, 1) and keys (1, S), aligned at the end."""
    query = torch.arange(num_keys - num_queries, num_keys, device=device)
    return query.view(-1, 1), torch.arange(num_keys, device=device).view(1, -1)


def reference(attention: ScoreAttention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """The equation as it is written."""
    weights = attention.weights(q, k, mask)
    if attention.training and attention.dropout > 0:
        weights = F.dropout(weights, attention.dropout)
    return weights.to(v.dtype) @ attention.share_heads(v)


def explicit(attention: ScoreAttention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """The standard equation in fewer calls than automatic differentiation takes; without bias and
    dropout.
    """
    forbidden = None
    num_queries, num_keys = q.shape[2], k.shape[2]
    if not isinstance(mask, NoMask):
        forbidden = _forbidden(mask, num_queries, num_keys, q.device, q.dtype)
    k, v = attention.share_heads(k), attention.share_heads(v)
    empty_rows = not (isinstance(mask, NoMask) or mask.has_no_empty_row(num_queries, num_keys))
    return _Explicit.apply(q, k, v, forbidden, attention.scale, empty_rows)


@functools.lru_cache(maxsize=8)  # all layers of a forward pass share one mask
def _forbidden(
    mask: Mask, num_queries: int, num_keys: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What is added to the scores, (B or 1, 1, T, S): 0, or where nothing is allowed a number that
    no score outweighs.
    """
    allowed = mask.dense(num_queries, num_keys, device)
    added = torch.zeros_like(allowed, dtype=dtype)
    return added.masked_fill_(~allowed, torch.finfo(dtype).min / 2)


class _Explicit(torch.autograd.Function):
    """weights = softmax(scale q kᵀ + forbidden); output = weights v.

    With dO the gradient by the output and W the weights, row by row:

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
    """scale left @ right for batches of matrices, in one call."""
    unused = left.new_empty(())  # beta = 0: what it holds is not read
    return torch.baddbmm(unused, left, right, beta=0, alpha=scale)


def sdpa(attention: ScoreAttention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """torch's fused kernel; a bias goes in as a float mask."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if _is_plain_causal(attention, mask, num_queries, num_keys):
        return _fused(attention, q, k, v, None, is_causal=True)
    last_sees_all = isinstance(mask, Causal) and num_queries == 1
    allowed = None
    if not (isinstance(mask, NoMask) or last_sees_all):
        allowed = mask.dense(num_queries, num_keys, q.device)
    bias = attention.bias(*positions(num_queries, num_keys, q.device))
    return _fused(attention, q, k, v, _joined(bias, allowed, q.dtype))


def _joined(bias: Tensor | None, allowed: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One mask tensor for sdpa: boolean, or float with -inf where nothing is allowed."""
    if bias is None:
        return allowed
    bias = bias.to(dtype).unsqueeze(0)
    return bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))


def _fused(
    attention: ScoreAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool = False,
) -> Tensor:
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=attention.dropout if attention.training else 0.0,
        is_causal=is_causal,
        scale=attention.scale,
        enable_gqa=k.shape[1] != q.shape[1],
    )


def windowed(attention: ScoreAttention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Chunks of queries, each over its own chunk of keys and the neighbours that the mask can
    reach.

    Time and memory grow with T x window instead of T x S. For T = S and a mask that reaches `back`
    and `ahead`.
    """
    assert mask.back is not None
    assert mask.ahead is not None
    B, H, num_tokens, _ = q.shape
    chunk = -(-max(mask.back, mask.ahead, 1) // 16) * 16  # a multiple that vector units like
    num_chunks = -(-num_tokens // chunk)
    before, after = (chunk if mask.back else 0), (chunk if mask.ahead else 0)
    reach = before + chunk + after
    missing = num_chunks * chunk - num_tokens

    # Chunks stand where sdpa has heads, and heads in its batch: so chunks are views. Of the G heads
    # that share keys and values, the chunks follow one another as if they were one.
    group = H // k.shape[1]

    def by_group(of_heads: Tensor) -> Tensor:  # (N G, n, chunk, X) -> (N, n, G chunk, X)
        return of_heads.unflatten(0, (-1, group)).transpose(1, 2).flatten(2, 3)

    def chunks(heads: Tensor) -> Tensor:  # (B, H, T, D) -> (B H, n, chunk, D)
        padded = F.pad(heads, (0, 0, 0, missing)) if missing else heads
        return padded.flatten(0, 1).unflatten(1, (num_chunks, chunk))

    def with_neighbours(heads: Tensor) -> Tensor:  # (B, H_kv, T, D) -> (B H_kv, n, reach, D)
        # Beyond both ends stand zeros; the rule below never allows them, since their positions do
        # not exist.
        padded = F.pad(heads, (0, 0, before, missing + after))
        return _Overlapping.apply(padded.flatten(0, 1), reach, chunk)

    start = torch.arange(num_chunks, device=q.device).view(-1, 1) * chunk
    query = start + torch.arange(chunk, device=q.device)  # (n, chunk)
    key = start + torch.arange(-before, chunk + after, device=q.device)  # (n, reach)
    exists = (key >= 0) & (key < num_tokens)
    batch = torch.arange(mask.batch_size, device=q.device).view(-1, 1, 1, 1)
    inside = key.clamp(0, num_tokens - 1)
    allowed = mask.allowed(batch, query.clamp(max=num_tokens - 1)[:, :, None], inside[:, None, :])
    allowed = (allowed & exists[:, None, :]).view(-1, 1, num_chunks, chunk, reach)

    bias = attention.bias(query[:, :, None], key[:, None, :])  # (n, H, chunk, reach) or None
    joined = _joined(None if bias is None else bias.transpose(0, 1), allowed, q.dtype)
    assert joined is not None  # (1 or B, 1 or H, n, chunk, reach)
    alike = joined.shape[:2] == (1, 1)  # for all examples and heads
    joined = joined.expand(*((1, group) if alike else (B, H)), *joined.shape[2:]).flatten(0, 1)
    heads = _fused(
        attention,
        by_group(chunks(q)),
        with_neighbours(k),
        with_neighbours(v),
        by_group(joined),
    )  # (B H_kv, n, G chunk, D)
    heads = heads.unflatten(2, (group, chunk)).transpose(1, 2).flatten(2, 3)
    return heads.flatten(0, 1).unflatten(0, (B, H))[:, :, :num_tokens]


class _Overlapping(torch.autograd.Function):
    """All windows of `size` tokens that begin at a multiple of `step`, which divides `size`, as a
    view: (N, T, D) -> (N, n, size, D). torch's own `unfold` has a slow backward.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, size: int, step: int) -> Tensor:
        ctx.step = step
        return tokens.unfold(1, size, step).transpose(2, 3)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        parts = gradients[0].unflatten(2, (-1, ctx.step))  # (N, n, parts, step, D)
        N, n, num_parts, step, D = parts.shape
        d_tokens = parts.new_empty(N, n + num_parts - 1, step, D)
        d_tokens[:, :n] = parts[:, :, 0]
        d_tokens[:, n:] = 0
        for part in range(1, num_parts):
            d_tokens[:, part : part + n] += parts[:, :, part]
        return d_tokens.flatten(1, 2), None, None


def flex(attention: ScoreAttention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """FlexAttention with the mask's rule as mask_mod and the position's as score_mod."""
    offset = k.shape[2] - q.shape[2]
    position = attention.position

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert position is not None
        biased = position.score_mod(score, head, query + offset, key)
        assert biased is not None
        return biased

    return _compiled_flex(q.device.type)(
        q,
        k,
        v,
        score_mod=score_mod if attention.has_bias() else None,
        block_mask=_block_mask(mask, q.shape[2], k.shape[2], q.device),
        scale=attention.scale,
        enable_gqa=k.shape[1] != q.shape[1],
    )


@functools.cache
def _compiled_flex(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention


@functools.lru_cache(maxsize=8)  # all layers of a forward pass share one mask
def _block_mask(mask: Mask, num_queries: int, num_keys: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    offset = num_keys - num_queries
    return create_block_mask(
        lambda batch, head, query, key: mask.allowed(batch, query + offset, key),
        B=mask.batch_size if mask.batch_size > 1 else None,
        H=None,
        Q_LEN=num_queries,
        KV_LEN=num_keys,
        device=str(device),
    )
