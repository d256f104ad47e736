"""Computes values once per forward pass that several layers need: dense masks, rotary tables, block
masks, positions.

A model decorates its forward method with `@one_pass`. Within it, `once` computes a value on its
first call and returns it again later; at the end of the pass the values are dropped, so that no
batch sees those of another. Outside of a pass, and under `torch.compile`, `once` computes on each
call: a compiler merges equal computations itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_known: ContextVar[dict[tuple, tuple[Any, tuple]] | None] = ContextVar("known", default=None)

_BY_VALUE = (int, float, str, type(None), torch.dtype, torch.device)


def one_pass(forward: Callable[P, R]) -> Callable[P, R]:
    """Decorates the method that runs a model's forward pass."""

    @functools.wraps(forward)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or _known.get() is not None:
            return forward(*args, **kwargs)
        token = _known.set({})
        try:
            return forward(*args, **kwargs)
        finally:
            _known.reset(token)

    return run


def once(compute: Callable[..., R], *arguments: Any) -> R:
    """Returns `compute(*arguments)`, computed on the first call in a forward pass.

    Args:
        compute: a function without randomness. Its result is shared between layers, so it must not
            be changed in place.
        arguments: numbers, strings, types and devices are compared by value; others, such as
            tensors and masks, by identity.
    """
    known = None if torch.compiler.is_compiling() else _known.get()
    if known is None:
        return compute(*arguments)
    # A tensor made in inference mode cannot be used in a pass with gradients.
    key = (compute, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    key += tuple(a if isinstance(a, _BY_VALUE) else id(a) for a in arguments)
    if key not in known:
        known[key] = compute(*arguments), arguments  # kept alive, so that no id is reused
    return known[key][0]


def positions(start: int | Tensor, count: int, device: torch.device | None) -> Tensor:
    """Returns `count` positions from `start` on, an integer or a () tensor of one: (count,)."""
    return once(_positions, start, count, device)


def _positions(start: int | Tensor, count: int, device: torch.device | None) -> Tensor:
    if isinstance(start, int):
        return torch.arange(start, start + count, device=device)
    return torch.arange(count, device=device) + start
