"""Laws about lengths: caches, fewer queries than keys, rows with nothing allowed, any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from attnkit.attention.counted import cache_elements
from attnkit.checks.case import Case, demand, demand_close, require
from attnkit.masks import Causal, Padding, build_mask

_ALL_AT_ONCE = "it reads all tokens at once (has_cache = False)"


@torch.no_grad()
def decoded(case: Case, chunks: Iterable[int]) -> Tensor:
    """Returns the outputs (B, T, C) of all tokens, decoded in chunks of these sizes."""
    cache = case.attention.new_cache()
    outputs = []
    for stop in itertools.accumulate(chunks):
        stop = min(stop, case.T)
        if stop == cache.length:
            break
        new = case.x[:, cache.length : stop]
        outputs.append(case.attention(new, new, case.mask_over(stop), cache))
        demand(cache.length == stop, f"after {stop} tokens the cache has length {cache.length}")
    return torch.cat(outputs, dim=1)


def _require_decoding(case: Case) -> None:
    require(case.role == "self", "cross-attention does not decode")
    require(case.mask.ahead == 0, "the mask lets queries look ahead")
    require(case.mechanism.has_cache, _ALL_AT_ONCE)


def decoding_token_by_token_equals_the_full_pass(case: Case) -> None:
    """A causal mechanism gives each token the same output from its cache as in one pass."""
    _require_decoding(case)
    demand_close(decoded(case, [1] * case.T), case.output, "decoded token by token")


def decoding_in_chunks_equals_the_full_pass(case: Case) -> None:
    """The same in chunks of any size: first a prompt, then some tokens, then one; and short chunks
    before longer ones.
    """
    _require_decoding(case)
    for chunks in ([4, 1, 3, case.T], [case.T - 1, 1], [2, 3, case.T], [1, 2, 4, case.T]):
        if all(chunks):
            demand_close(decoded(case, chunks), case.output, f"decoded in chunks of {chunks}")


FAR, STRIDE = 135, 9
"""Tokens of a long sequence, more than a chunk of any kernel of the kit, and tokens per step."""


def decoding_far_into_a_sequence_equals_the_full_pass(case: Case) -> None:
    """The same far into a sequence, where a full pass works in chunks and a cache has grown several
    times.
    """
    _require_decoding(case)
    far = case.resized(B=1, T=FAR)
    steps = [STRIDE] * (FAR // STRIDE)
    demand_close(decoded(far, steps), far.output, f"{FAR} tokens, decoded {STRIDE} at a time")


@torch.no_grad()
def rows_of_a_cache_go_on_alone(case: Case) -> None:
    """After a selection of rows, as in beam search, a cache continues as if it had read those
    sequences.
    """
    _require_decoding(case)
    require(case.mask.batch_size == 1, "the mask differs between sequences")
    require(case.B > 1 and case.T > 2, "nothing to select")
    half, rows = case.T // 2, torch.tensor([1, 0, 1])
    cache = case.attention.new_cache()
    read = case.x[:, :half]
    case.attention(read, read, case.mask, cache)
    cache.select(rows)
    new = case.x[rows, half:]
    demand_close(
        case.attention(new, new, case.mask, cache),
        case.output[rows, half:],
        "decoded from the selected rows 1, 0, 1 of a cache",
    )


def fewer_queries_than_keys_stand_at_the_end(case: Case) -> None:
    """The last queries alone give the same outputs as in the full pass."""
    require(case.T > 1, "a single query")
    require(case.role == "cross" or case.mechanism.has_cache, _ALL_AT_ONCE)
    require(not case.mechanism.looks_back(), "its queries need the tokens before them")
    last = max(1, case.T // 2)
    with torch.no_grad():
        outputs = case.attention(case.x[:, -last:], case.context, case.mask)
    demand_close(outputs, case.output[:, -last:], f"the last {last} queries alone")


def more_queries_than_keys_leave_the_first_rows_empty(case: Case) -> None:
    """Queries before the first key of a causal context mix to zeros."""
    require(case.mask_case.name == "causal", "a law about the causal mask")
    require(case.T > 2, "too few queries")
    require(not case.mechanism.looks_back(), "its queries need the tokens before them")
    context, attention = case.context[:, :2], case.attention
    with torch.no_grad():
        heads = attention.mixed(attention.prepare(case.x, context, Causal()), Causal())
    largest = float(heads[:, :, :-2].abs().max())
    demand(largest == 0, f"a query before the first key gave {largest:.1e}")
    demand(
        float(heads[:, :, -2:].abs().amax(dim=(0, 1, 3)).min()) > 0, "the last queries give zeros"
    )


def rows_with_nothing_allowed_give_zeros_and_finite_gradients(case: Case) -> None:
    """A sequence of nothing but padding mixes to zeros, with finite gradients and none for its own
    tokens. Other sequences of the batch are not affected.
    """
    padding = Padding(torch.ones(case.B, case.S, dtype=torch.bool))
    mask = case.mask & padding
    reason = case.mechanism.refusal(case.role, mask, case.position)
    require(reason is None, "it does not obey padding")
    padding.keep[0] = False
    attention = case.attention
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    prepared = attention.prepare(x, context, mask)
    heads = attention.mixed(prepared, mask)
    largest = float(heads[0].detach().abs().max())
    demand(largest == 0, f"a row with nothing allowed gave {largest:.1e}")
    names = ["the tokens", *(name for name, _ in attention.named_parameters())]
    slopes = torch.autograd.grad(
        heads.square().sum(),
        [context, *attention.parameters()],
        allow_unused=True,
        materialize_grads=True,
    )
    for name, gradient in zip(names, slopes, strict=True):
        demand(bool(gradient.isfinite().all()), f"the gradient by {name} is not finite")
    demand(float(slopes[0][0].abs().max()) == 0, "a gradient reaches the padded tokens")
    if case.B > 1:
        with torch.no_grad():
            alone = attention.mixed(prepared, case.mask)
        demand_close(heads[1].detach(), alone[1], "the sequence beside it")


def cache_holds_what_is_declared(case: Case) -> None:
    """`cache_elements` is the number of elements that a cache stores for one sequence of any
    length, and `cache_dtype` their dtype. A size that is not declared is counted.
    """
    _require_decoding(case)
    size = (case.attention.cache_dtype or torch.float32).itemsize
    for length in sorted({1, case.T}):
        cache = case.attention.new_cache()
        with torch.no_grad():
            case.attention(case.x[:, :length], case.x[:, :length], case.mask_over(length), cache)
        declared = case.B * cache_elements(case.attention, length) * size
        held = cache.num_bytes()
        demand(
            held == declared, f"after {length} tokens it holds {held} bytes, declared: {declared}"
        )


def outputs_do_not_depend_on_the_length(case: Case) -> None:
    """Under a mask with `ahead == 0`, tokens have the same outputs in a sequence that is six times
    as long: nothing depends on the number of later tokens.
    """
    _require_decoding(case)
    long = case.resized(T=6 * case.T + 1)
    whole = long.output[:, : case.T]
    x = long.x[:, : case.T]
    with torch.no_grad():
        short = case.attention(x, x, case.mask)
    demand_close(whole, short, f"the first {case.T} tokens of {long.T}, against {case.T} alone")


def any_batch_size_and_length_works(case: Case) -> None:
    """A single token, odd lengths and batches work, and a sequence gives the same output alone."""
    mask = build_mask(case.first_served("none", "causal"))
    for batch_size, length in ((1, 1), (2, 1), (1, 3), (3, 17)):
        sized = case.resized(B=batch_size, T=length)
        context = sized.context
        with torch.no_grad():
            output = case.attention(sized.x, context, mask)
            alone = case.attention(sized.x[-1:], context[-1:], mask)
        demand(
            output.shape == (batch_size, length, case.C),
            f"{batch_size} x {length} tokens gave the shape {tuple(output.shape)}",
        )
        demand_close(output[-1:], alone, f"one of {batch_size} x {length} tokens, against alone")
