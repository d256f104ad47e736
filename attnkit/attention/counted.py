"""Counts the costs that a mechanism does not declare, by running it on the meta device, where
tensors have shapes but no data.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attnkit.masks import Causal, NoMask

if TYPE_CHECKING:
    from attnkit.attention.base import Attention

STEPS = frozenset(
    (
        "forward",
        "project_query",
        "project_context",
        "convolve",
        "carry",
        "expand",
        "place",
        "scores",
        "normalize",
        "weights",
        "bias",
        "mix",
        "advance",
        "new_cache",
        "decode",
        "merge",
    )
)
"""Methods that compute: overriding one invalidates the costs declared by a parent."""

SAMPLES = (32, 64)
"""Lengths at which costs are counted if the meta device cannot run a mechanism."""


def says_itself(cls: type, cost: str) -> bool:
    """Returns True if a class declares a cost (the name of a method) for its own steps: not if a
    parent declares it and the class overrides a step.
    """
    for owner in cls.__mro__:
        if cost in vars(owner):
            return True
        if STEPS & vars(owner).keys():
            return False
    return False


def mixing_flops(attention: Attention, num_tokens: int, pairs: int) -> int:
    """Returns `attention.mixing_flops` if it is declared and the position encoding adds no
    products; otherwise counts them.
    """
    adjusted = attention.position is not None and attention.position.acts_on == "content"
    if says_itself(type(attention), "mixing_flops") and not adjusted:
        return attention.mixing_flops(num_tokens, pairs)
    return counted_mixing_flops(attention, num_tokens, pairs)


def cache_elements(attention: Attention, num_tokens: int) -> int:
    """Returns `attention.cache_elements` if it is declared; otherwise counts them."""
    if says_itself(type(attention), "cache_elements"):
        return attention.cache_elements(num_tokens)
    return counted_cache_elements(attention, num_tokens)


def counted_mixing_flops(attention: Attention, num_tokens: int, pairs: int) -> int:
    """Counts the FLOPs of a forward pass without those of `projection_flops`.

    They are a n + b n² for n tokens; the number of `pairs` replaces n².
    """
    n = num_tokens
    try:
        once, twice = _twice(_on_meta(attention), n)
    except ValueError:  # a mechanism of limited length
        n = max(num_tokens // 2, 1)
        once, twice = _twice(_on_meta(attention), n)
    except (RuntimeError, NotImplementedError):  # needs data, or holds tensors of its own
        n = SAMPLES[0]
        once, twice = _twice(attention, n)
    square = (twice - 2 * once) / (2 * n * n)
    each = once / n - square * n - attention.projection_flops()
    return round(each * num_tokens + square * pairs)


def counted_cache_elements(attention: Attention, num_tokens: int) -> int:
    """Counts the elements of a cache for one sequence."""
    if not attention.has_cache:
        return 0
    try:
        return _held(_on_meta(attention), num_tokens)
    except (RuntimeError, NotImplementedError):
        one, two = (_held(attention, n) for n in SAMPLES)
        return one + (two - one) * (num_tokens - SAMPLES[0]) // (SAMPLES[1] - SAMPLES[0])


def _on_meta(attention: Attention) -> Attention:
    """Returns a copy whose parameters and buffers have no data."""
    empty: dict[int, Any] = {}
    for parameter in attention.parameters():
        shape = torch.empty_like(parameter, device="meta")
        empty[id(parameter)] = nn.Parameter(shape)
    for buffer in attention.buffers():
        empty[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(attention, empty).eval()


def _twice(attention: Attention, num_tokens: int) -> tuple[int, int]:
    """Returns the FLOPs of a number of tokens, and of twice as many."""
    return _flops(attention, num_tokens), _flops(attention, 2 * num_tokens)


@torch.no_grad()
def _flops(attention: Attention, num_tokens: int) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=_MORE)
    x = _tokens(attention, num_tokens)
    mask = Causal() if type(attention).refusal("self", NoMask(), "none") else NoMask()
    with counter:
        attention(x, x, mask)
    return counter.get_total_flops()


@torch.no_grad()
def _held(attention: Attention, num_tokens: int) -> int:
    x, cache = _tokens(attention, num_tokens), attention.new_cache()
    attention(x, x, Causal(), cache)
    return cache.num_bytes() // (attention.cache_dtype or x.dtype).itemsize


def _tokens(attention: Attention, num_tokens: int) -> Tensor:
    first = next(attention.parameters())
    return torch.zeros(1, num_tokens, attention.dim, device=first.device, dtype=first.dtype)


def _cdist(left: torch.Size, right: torch.Size, *args: Any, **kwargs: Any) -> int:
    """A difference, its square and a sum for each pair and feature."""
    return 3 * functools.reduce(int.__mul__, left, 1) * right[-2]


_MORE: dict[Any, Callable[..., int]] = {torch.ops.aten._cdist_forward: _cdist}
