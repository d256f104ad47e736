"""Chooses the kernel of a call: the first of `KERNELS` that can compute it and is fast for it."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.attention.kernels.call import (
    Bias,
    Call,
    CannotServe,
    DistanceBias,
    Kernel,
    ScoreMod,
    Verdict,
    Where,
)
from attnkit.attention.kernels.chunked import Chunked
from attnkit.attention.kernels.cpu_bf16 import CpuBf16
from attnkit.attention.kernels.flex import Flex
from attnkit.attention.kernels.reference import Reference
from attnkit.attention.kernels.sdpa import Sdpa
from attnkit.attention.kernels.windowed import Windowed
from attnkit.masks import Mask, NoMask, Placed, Recent, name_of

log = logging.getLogger("attnkit")

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (CpuBf16(), Windowed(), Flex(), Chunked(), Sdpa(), Reference())
}
"""Kernels by name, in the order in which they are tried."""

_only: Kernel | None = None

LONG_REFERENCE_KEYS = 2048
"""From this length on the reference is reported: its map takes at least 16 MiB per head."""


@dataclass(frozen=True)
class Choice:
    """A kernel with the reason for choosing it."""

    kernel: Kernel
    why: str


def offer(kernel: Kernel) -> Kernel:
    """Puts a plugin's kernel first. If its `outside` is True, it needs a certificate before it
    runs.

    Raises:
        ValueError: if another kernel has its name.
    """
    others = {name: known for name, known in KERNELS.items() if type(known) is not type(kernel)}
    if kernel.name in others:
        raise ValueError(f"kernel name {kernel.name!r} is taken; choose another one")
    KERNELS.clear()
    KERNELS.update({kernel.name: kernel, **others})
    return kernel


Seat = tuple[str, str, torch.dtype, int, str, bool]
"""Kernel, device, dtype, D, mask, has a bias: the scope of a certificate."""

_certified: dict[Seat, str | None] = {}


def seat_of(kernel: Kernel, call: Call, where: Where) -> Seat:
    """Returns the scope of a certificate for this call."""
    width, mask = call.v.shape[-1], name_of(call.mask)
    return kernel.name, where.device, where.dtype, width, mask, call.has_bias


def trust(seat: Seat, doubt: str | None) -> None:
    """Stores the result of a certification; a doubt disables the kernel for this scope."""
    _certified[seat] = doubt


def _doubt(kernel: Kernel, call: Call, where: Where) -> str | None:
    """Returns why a kernel is not trusted with a call that it claims to compute; None: it is."""
    if not kernel.outside and not _certified:
        return None
    seat = seat_of(kernel, call, where)
    missing = "it was not certified on this machine" if kernel.outside else None
    return _certified.get(seat, missing)


def _misplaced(kernel: Kernel, call: Call) -> str | None:
    """Returns why a kernel cannot serve a cache with reserved memory, or one that has dropped its
    first keys; None: it can.
    """
    if kernel.any_place or not isinstance(call.mask, Placed | Recent):
        return None
    if isinstance(call.mask, Recent):
        return "the first keys are dropped"
    return "the position of the queries is a tensor"


def verdicts(call: Call, where: Where) -> Iterator[tuple[Kernel, Verdict]]:
    """Yields the kernels in order with their verdicts, up to the first that takes the call."""
    for kernel in KERNELS.values():
        refusal = _misplaced(kernel, call) or kernel.refusal(call) or _doubt(kernel, call, where)
        verdict = kernel.suits(call, where) if refusal is None else Verdict(False, refusal)
        yield kernel, verdict
        if verdict.takes:
            return


def choose(call: Call, where: Where | None = None) -> Choice:
    """Chooses the fastest kernel for this call.

    Args:
        call: the call; tensors on the meta device are sufficient.
        where: the place; None: that of the call's tensors.
    """
    if _only is not None:
        return Choice(_only, "forced by `only`")
    where = Where.of(call) if where is None else where
    *_, (kernel, verdict) = verdicts(call, where)
    return Choice(kernel, verdict.why)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    bias: Bias | None = None,
    distance_bias: DistanceBias | None = None,
    score_mod: ScoreMod | None = None,
) -> Tensor:
    """Computes softmax(scale q kᵀ + bias) v with the fastest kernel.

    Args:
        q: queries (B, H, T, D).
        k: keys (B, H_kv, S, D), where H is a multiple of H_kv.
        v: values (B, H_kv, S, E).
        mask: which query may attend to which key; None: all. The last query is at the last key.
        scale: factor of q kᵀ; None: 1 / sqrt(D).
        dropout: share of the weights to drop.
        bias: positions of queries (T, 1) and keys (1, S) -> (H, T, S), added to the scores.
        distance_bias: the same bias, if it only depends on distances: key position minus query
            position (N,) -> (H, N). It replaces `bias`.
        score_mod: the same bias for one score, head, query position and key position. With it,
            FlexAttention can compute the call.

    Returns:
        (B, H, T, E)
    """
    mask = NoMask() if mask is None else mask
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k = q.to(v.dtype), k.to(v.dtype)
    biases = {"bias": bias, "distance_bias": distance_bias, "score_mod": score_mod}
    return run(Call(q, k, v, mask, scale, dropout, **biases))


def run(call: Call) -> Tensor:
    """Computes a call with the kernel from `choose`: (B, H, T, E). If that one fails, warns once
    and uses another one.
    """
    choice = choose(call)
    # Counting costs on the meta device takes no memory.
    is_long = call.num_keys >= LONG_REFERENCE_KEYS and not call.q.is_meta
    if choice.kernel.name == "reference" and is_long:
        _warn_slow(choice.why)
    try:
        return choice.kernel(call)
    except CannotServe as error:  # it refuses such calls from now on
        if _only is not None:
            raise
        log.warning("The %s kernel cannot serve here: %s", choice.kernel.name, error)
    return run(call)


@contextmanager
def only(name: str) -> Iterator[None]:
    """Makes one kernel compute every call, for measurements and tests."""
    global _only
    before, _only = _only, KERNELS[name]
    try:
        yield
    finally:
        _only = before


@functools.cache
def _warn_slow(why: str) -> None:
    log.warning(
        "The reference kernel runs, whose memory grows with the square of the length: %s", why
    )
