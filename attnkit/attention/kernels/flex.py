"""FlexAttention, with the mask's rule as mask_mod and the bias as score_mod: skips blocks of the
map in which nothing is allowed.

On a GPU it always runs compiled: otherwise it silently materialises the whole map. Each rule (a
mask and a bias, their numbers, the shape of a head) compiles its own copy of the function, since
torch counts compilations per function and gives up after eight. So no number of masks reaches that
limit, and the window of one mask is never treated as a variable. A rule that does not compile is
refused from then on, and another kernel takes the call.
"""

from __future__ import annotations

import functools
import importlib.util
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attnkit.attention.kernels import thresholds
from attnkit.attention.kernels.call import Call, CannotServe, Kernel, ScoreMod, Verdict, Where
from attnkit.masks import Causal, Mask, NoMask, name_of
from attnkit.masks.once import once

MIN_HEAD_DIM = 16
"""Smallest tile width of its Triton kernel."""

COMPILED_ON = ("cuda",)
"""On other devices it runs uncompiled, for tests."""

_refused: dict[tuple, str] = {}


class Flex(Kernel):
    """FlexAttention."""

    name = "flex"

    def refusal(self, call: Call) -> str | None:
        """Supports no dropout, and a bias only as a score_mod."""
        if call.weights is not None:
            return call.why_own
        if call.dropout > 0:
            return "it does not support dropout"
        if call.has_bias and call.score_mod is None:
            return "the bias has no score_mod"
        return _refused.get(_rule(call)) if _refused else None

    def suits(self, call: Call, where: Where) -> Verdict:
        """Used on a GPU, for long inputs whose mask or bias would otherwise be a tensor."""
        if where.device != "cuda":
            return Verdict(False, "only for a GPU")
        if call.num_queries < thresholds.FLEX_QUERIES or call.num_keys < thresholds.FLEX_KEYS:
            return Verdict(False, f"shorter than {thresholds.FLEX_KEYS} keys")
        if min(call.q.shape[-1], call.v.shape[-1]) < MIN_HEAD_DIM:
            return Verdict(False, f"heads are narrower than {MIN_HEAD_DIM}")
        if isinstance(call.mask, NoMask | Causal) and not call.has_bias:
            return Verdict(False, "there is no mask tensor or bias to avoid")
        if torch.cuda.is_available() and not _has_triton():
            return Verdict(False, "triton is not installed, so it cannot be compiled")
        return Verdict(
            True, f"mask {name_of(call.mask)} on a GPU: blocks without an allowed pair are skipped"
        )

    def __call__(self, call: Call) -> Tensor:
        device, compiling = call.q.device, torch.compiler.is_compiling()
        compiled = device.type in COMPILED_ON and not compiling
        offset, modify = call.num_keys - call.num_queries, call.score_mod
        score_mod = None
        if call.has_bias:
            assert modify is not None
            score_mod = _modified(modify, offset)
        rule = _rule(call) if compiled else ()
        attend = _compiled(_attend, rule) if compiled else _attend
        lengths = call.num_queries, call.num_keys
        block_mask = once(_block_mask, call.mask, *lengths, device, compiled)
        if compiled:
            for heads in (call.q, call.k, call.v):
                torch._dynamo.maybe_mark_dynamic(heads, (0, 2))
        try:
            grouped = call.k.shape[1] != call.q.shape[1]
            return attend(call.q, call.k, call.v, score_mod, block_mask, call.scale, grouped)
        except Exception as error:
            if not compiled or isinstance(error, torch.OutOfMemoryError):
                raise
            _refused[rule] = f"it does not compile: {type(error).__name__}"
            raise CannotServe(f"{_refused[rule]}: {_in_a_line(error)}") from error


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Callable[..., Tensor] | None,
    block_mask: Any,
    scale: float,
    grouped: bool,
) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    heads = flex_attention(
        q, k, v, score_mod=score_mod, block_mask=block_mask, scale=scale, enable_gqa=grouped
    )
    assert isinstance(heads, Tensor)
    return heads


def _modified(modify: ScoreMod, offset: int) -> Callable[..., Tensor]:
    """Returns a score_mod over absolute positions, with FlexAttention's signature."""

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return modify(score, head, query + offset, key)

    return score_mod


def _block_mask(
    mask: Mask, num_queries: int, num_keys: int, device: torch.device, compiled: bool
) -> Any:
    """Returns the blocks of the map with an allowed pair; None without a mask."""
    if isinstance(mask, NoMask):
        return None
    offset = num_keys - num_queries
    batch_size = mask.batch_size if mask.batch_size > 1 else None

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask.allowed(batch, query + offset, key)

    make = _compiled(_create, _described(mask)) if compiled else _create
    return make(mask_mod, batch_size, num_queries, num_keys, str(device))


def _create(
    mask_mod: Callable[..., Tensor],
    batch_size: int | None,
    num_queries: int,
    num_keys: int,
    device: str,
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(
        mask_mod, B=batch_size, H=None, Q_LEN=num_queries, KV_LEN=num_keys, device=device
    )


_functions: dict[tuple, Callable[..., Any]] = {}


def _compiled(function: Callable[..., Any], rule: tuple) -> Callable[..., Any]:
    """Returns the function compiled for a rule. Each rule has a copy of the code under its own
    name, by which torch counts compilations and remembers which numbers vary.
    """
    key = (function, rule)
    if key not in _functions:
        name = f"{function.__name__}_{len(_functions)}"
        code = function.__code__.replace(co_name=name)
        own = types.FunctionType(code, function.__globals__, name)
        # A whole graph or an error: at the limit torch would otherwise run uncompiled code.
        _functions[key] = torch.compile(own, fullgraph=True)
    return _functions[key]


def _rule(call: Call) -> tuple:
    """Returns what a compiled function depends on: all but lengths and the numbers in tensors."""
    heads = call.q, call.k, call.v
    shapes = tuple((h.shape[1], h.shape[3], h.dtype, h.requires_grad) for h in heads)
    modify = _described(call.score_mod) if call.has_bias else None
    square = call.num_queries == call.num_keys
    return (_described(call.mask), modify, shapes, call.scale, square, torch.is_grad_enabled())


def _described(value: Any) -> Any:
    """Returns a mask or a bias as a value: its type and its numbers; tensors by shape and dtype."""
    if isinstance(value, Tensor):
        return (value.dtype, value.ndim, value.requires_grad)
    if isinstance(value, types.MethodType):
        return (value.__func__, _described(value.__self__))
    if isinstance(value, tuple | list):
        return tuple(map(_described, value))
    if isinstance(value, nn.Module):
        tensors = (*value.named_parameters(), *value.named_buffers())
        numbers = sorted((k, v) for k, v in vars(value).items() if isinstance(v, int | float | str))
        return (type(value), tuple(numbers), tuple((n, _described(t)) for n, t in tensors))
    if isinstance(value, Mask):
        parts = {**vars(value), "batch_size": value.batch_size > 1}  # batches vary in size
        return (type(value), tuple((k, _described(v)) for k, v in sorted(parts.items())))
    return value


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
