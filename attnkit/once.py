"""What a forward pass needs once, though each layer asks for it: dense masks, rotary tables, block
masks, positions.

A model marks its forward pass with `@one_pass`. Within it, `once` computes an answer the first time
and gives it again afterwards; at the end all is forgotten, so that no batch sees what another one
left. Outside of a pass, `once` computes each time. Under `torch.compile` it does so too: a compiler
merges equal computations itself.
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
    """Decorates a method that makes a model's forward pass."""

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
    """`compute(*arguments)` the first time in a forward pass, later the same answer.

    Args:
        compute: a function without randomness. Layers share what it returns, so nobody may change
            that in place.
        arguments: numbers, strings, types and devices are told apart by value; the rest, such as
            tensors and masks, by identity.
    """
    known = None if torch.compiler.is_compiling() else _known.get()
    if known is None:
        return compute(*arguments)
    # What was made for inference cannot serve a pass that is differentiated.
    key = (compute, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    key += tuple(a if isinstance(a, _BY_VALUE) else id(a) for a in arguments)
    if key not in known:
        known[key] = compute(*arguments), arguments  # kept, so that no id is used twice
    return known[key][0]


def positions(start: int | Tensor, count: int, device: torch.device | None) -> Tensor:
    """`count` positions from `start` on, an integer or a () tensor of one: (count,)."""
    return once(_positions, start, count, device)


def _positions(start: int | Tensor, count: int, device: torch.device | None) -> Tensor:
    if isinstance(start, int):
        return torch.arange(start, start + count, device=device)
    return torch.arange(count, device=device) + start
