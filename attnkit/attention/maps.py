"""Computes the exact attention map of any mechanism, outside of training.

A `ScoreAttention` has its map in `weights`. For another mechanism that is linear in its values,
one-hot values give the map: if the value is 1 at key j and 0 elsewhere, the output is column j.
Each call gives D columns, so S / D calls give all of them.

For a mechanism that is not linear in its values (`linear_in_values = False`) there is no complete
map. The result is then the Jacobian of the heads with respect to the values, averaged over the D
features of d head[i, f] / d value[j, f]: identical to the map for linear mechanisms, and the best
linear approximation at this input for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention, Prepared, Role
from attnkit.attention.score_attention import ScoreAttention
from attnkit.attention.stream import Stream
from attnkit.masks import Mask, NoMask
from attnkit.masks.grid import Grid
from attnkit.registry import ATTENTION

TakenFrom = Literal["weights", "one-hot values", "Jacobian"]


@dataclass(frozen=True)
class AttentionMap:
    """One map, before dropout.

    Attributes:
        name: path of the mechanism in the model ("layers.0.attention").
        weights: (B, H, T, S), float32, on the CPU.
        allowed: (B or 1, 1, T, S) boolean, on the CPU: True where the mask allows attention.
        role: self-attention or cross-attention.
        rows: normalisation of a row.
        taken_from: origin of the map: the mechanism's weights, one-hot values, or the Jacobian.
        mechanism: its registered name.
        value_lengths: (B, H, S), the length of the vector that each head adds for each key at a
            weight of 1: ||v_j W_O|| (arXiv:2004.10102); None: not requested, or the mechanism is
            not linear in its values, or `merge` is not linear in the heads.
        largest_score: (B, H), the largest score of an allowed pair before the normalisation; None:
            not requested, or the mechanism has no such scores.
    """

    name: str
    weights: Tensor
    allowed: Tensor
    role: Role
    rows: Literal["sum to 1", "unnormalised", "signed"]
    taken_from: TakenFrom = "weights"
    mechanism: str = ""
    largest_score: Tensor | None = None
    value_lengths: Tensor | None = None


@torch.no_grad()
def attention_map(
    attention: Attention,
    x: Tensor,
    context: Tensor,
    mask: Mask | None = None,
    stream: Stream | None = None,
) -> Tensor:
    """Returns the map that `attention(x, context, mask)` uses, in evaluation mode and full
    precision.

    Args:
        attention: any mechanism.
        x: (B, T, C)
        context: (B, S, C)
        mask: as in `Attention.forward`.
        stream: as in `Attention.forward`.

    Returns:
        (B, H, T, S)
    """
    mask = NoMask() if mask is None else mask
    with evaluating(attention), torch.autocast(x.device.type, enabled=False):
        return _map(attention, _prepared(attention, x, context, mask, stream), mask)


def _prepared(
    attention: Attention, x: Tensor, context: Tensor, mask: Mask, stream: Stream | None
) -> Prepared:
    """Returns the inputs of the mixing in full precision, with keys and values expanded."""
    asking = x.to(attention.dtype)
    answering = asking if context is x else context.to(attention.dtype)
    beside: dict[str, Any] = {} if stream is None else {"stream": stream}
    q, k, v, carried = attention.prepare(asking, answering, mask, **beside)
    if stream is not None:  # tensors of another layer may have a narrower dtype
        k, v = k.to(q.dtype), v.to(q.dtype)
    k, v = attention.expand(k, v)
    return Prepared(q, k, v, carried)


def _map(attention: Attention, prepared: Prepared, mask: Mask) -> Tensor:
    q, k, v, carried = prepared
    source = taken_from(attention)
    if source == "weights":
        assert isinstance(attention, ScoreAttention)
        return attention.map(q, k, mask, carried)
    by = _map_by_one_hot_values if source == "one-hot values" else _map_by_jacobian
    return by(attention, q, k, v, mask)


def _largest_score(attention: Attention, prepared: Prepared, mask: Mask) -> Tensor | None:
    """Returns (B, H); None if the weights are not one normalisation of the scores."""
    if not isinstance(attention, ScoreAttention) or type(attention).weights is not _WEIGHTS:
        return None
    q, k, _, carried = prepared
    scores = attention.biased_scores(q, k, Grid.of(q, k, mask, carried))
    num_queries, num_keys = scores.shape[-2:]
    allowed = mask.dense(num_queries, num_keys, scores.device)
    return scores.masked_fill(~allowed, -torch.inf).amax(dim=(-2, -1))


_WEIGHTS = ScoreAttention.weights


@torch.no_grad()
def largest_by_head(
    attention: ScoreAttention,
    x: Tensor,
    context: Tensor,
    mask: Mask | None = None,
    stream: Stream | None = None,
) -> Tensor | None:
    """Returns the largest score of an allowed pair for each head, over a batch: (H,).

    The scores are those that `scores` returns, without what positions or an overridden `weights`
    add, in evaluation mode and full precision. Arguments as in `attention_map`.

    Returns:
        None if the mechanism computes its map without `scores`.
    """
    mask = NoMask() if mask is None else mask
    found: list[Tensor] = []
    scores_of = attention.scores

    def keep(*args: Any, **options: Any) -> Tensor:
        scores = scores_of(*args, **options)
        allowed = mask.dense(scores.shape[-2], scores.shape[-1], scores.device)
        found.append(scores.masked_fill(~allowed, -torch.inf).amax(dim=(0, 2, 3)))
        return scores

    attention.scores = keep  # shadows the method
    try:
        with evaluating(attention), torch.autocast(x.device.type, enabled=False):
            q, k, _, carried = _prepared(attention, x, context, mask, stream)
            if type(attention).weights is _WEIGHTS:
                attention.biased_scores(q, k, Grid.of(q, k, mask, carried))
            else:
                attention.map(q, k, mask, carried)
    finally:
        del attention.scores
    return torch.stack(found).amax(dim=0) if found else None


def handed_over(attention: Attention, v: Tensor, x: Tensor) -> Tensor | None:
    """Returns what each head would add to a token that attends to a single key: (B, H, S, C).

    Args:
        attention: the mechanism.
        v: expanded values (B, H_kv, S, D).
        x: tokens for the queries (B, T, C); the result does not depend on them.

    Returns:
        None if it depends on more than the key: the mechanism is not linear in its values, or its
        `merge` gates or normalises the heads.
    """
    is_plain = type(attention).merge is Attention.merge or attention.merges_linearly
    if not attention.linear_in_values or not is_plain:
        return None
    H = attention.num_heads
    v = v.repeat_interleave(H // v.shape[1], dim=1)  # (B, H, S, D)
    asking = x[:, :1].expand(-1, v.shape[2], -1)
    nothing = attention.merge(torch.zeros_like(v), asking)  # the bias
    alone = torch.eye(H, dtype=v.dtype, device=v.device)[:, None, :, None, None]
    return torch.stack([attention.merge(v * one, asking) - nothing for one in alone], dim=1)


def taken_from(attention: Attention) -> TakenFrom:
    """Returns the origin of a mechanism's map."""
    if not attention.linear_in_values:
        return "Jacobian"
    return "weights" if isinstance(attention, ScoreAttention) else "one-hot values"


def _map_by_jacobian(attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Takes one backward pass per query and feature; for grouped heads, one per head of a group."""
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        heads = attention.mix(q, k, v, mask)
        B, H, T, D = heads.shape
        shared = H // v.shape[1]
        jacobian = v.new_zeros(B, H, T, v.shape[2])
        for t in range(T):
            for feature in range(D):
                for head in range(shared):  # one per group: their values are separate
                    out = heads[:, head::shared, t, feature].sum()
                    (slope,) = torch.autograd.grad(out, v, retain_graph=True)
                    jacobian[:, head::shared, t] += slope[..., feature] / D
    return jacobian


def _map_by_one_hot_values(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Mask
) -> Tensor:
    num_keys, width = v.shape[2:]
    columns = []
    for start in range(0, num_keys, width):
        count = min(width, num_keys - start)
        one_hot = torch.zeros_like(v)
        index = torch.arange(count, device=v.device)
        one_hot[:, :, start + index, index] = 1.0
        columns.append(attention.mix(q, k, one_hot, mask)[..., :count])
    return torch.cat(columns, dim=-1)


def has_attention(model: nn.Module) -> bool:
    """Returns True if a model has maps: one without layers has none."""
    return any(isinstance(module, Attention) for module in model.modules())


def attention_maps(
    model: nn.Module,
    batch: Any,
    *,
    largest_scores: bool = False,
    value_lengths: bool = False,
) -> list[AttentionMap]:
    """Runs a model once and returns the map of every mechanism in it, in the order of its modules.

        attention_maps(model, tokens)                  one tensor, or a tuple of them
        attention_maps(model, next(iter(loader)))      a batch of the kit
        attention_maps(model, lambda: model.encode(x)) any other way to call it

    Pass the original module: a model compiled by `torch.compile` does not call hooks.

    Args:
        model: any module that contains attnkit mechanisms.
        batch: a tensor; a tuple or list of arguments; a mapping or a named tuple, from which the
            model takes the parameters of its `forward`; or a function that runs the forward pass.
        largest_scores: also compute `largest_score`.
        value_lengths: also compute `value_lengths`.

    Raises:
        ValueError: if no mechanism was called.
    """
    found: dict[str, AttentionMap] = {}
    names = {
        module: name for name, module in model.named_modules() if isinstance(module, Attention)
    }

    def take(
        module: Attention, x: Tensor, context: Tensor, mask: Mask | None, stream: Stream | None
    ) -> None:
        mask = NoMask() if mask is None else mask
        T, S = x.shape[1], context.shape[1]
        largest = handed = None
        with torch.autocast(x.device.type, enabled=False):
            prepared = _prepared(module, x, context, mask, stream)
            weights = _map(module, prepared, mask)
            if largest_scores:
                largest = _largest_score(module, prepared, mask)
            if value_lengths:
                handed = handed_over(module, prepared.v, x.to(module.dtype))
        found[names[module]] = AttentionMap(
            name=names[module],
            weights=weights.float().cpu(),
            allowed=mask.dense(T, S, x.device).expand(-1, -1, T, S).cpu(),
            role="self" if context is x else "cross",
            rows=module.map_rows if module.linear_in_values else "signed",
            taken_from=taken_from(module),
            mechanism=ATTENTION.name_of(type(module)),
            largest_score=None if largest is None else largest.float().cpu(),
            value_lengths=None if handed is None else handed.float().norm(dim=-1).cpu(),
        )

    with before_each_mechanism(model, take), evaluating(model), torch.no_grad():
        _call(model, batch)
    if not found:
        raise ValueError(
            f"{type(model).__name__} called no attnkit mechanism, so there is no map to return"
        )
    return [found[name] for name in names.values() if name in found]


Visit = Callable[[Attention, Tensor, Tensor, Mask | None, Stream | None], None]
"""Receives a mechanism and the arguments of its call, as in `Attention.forward`."""


@contextmanager
def before_each_mechanism(model: nn.Module, visit: Visit) -> Iterator[None]:
    """Calls `visit` in the block before each mechanism of the model runs. A model compiled by
    `torch.compile` never calls it.
    """

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        assert isinstance(module, Attention)
        visit(module, *_bind(*args, **kwargs))

    hooks = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _call(model: nn.Module, batch: Any) -> None:
    """Runs the forward pass."""
    if isinstance(batch, Tensor):
        model(batch)
    elif hasattr(batch, "_asdict") or isinstance(batch, Mapping):
        named = batch if isinstance(batch, Mapping) else batch._asdict()
        model(
            **{name: named[name] for name in signature(model.forward).parameters if name in named}
        )
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        batch()


def _bind(
    x: Tensor,
    context: Tensor,
    mask: Mask | None = None,
    cache: Any = None,
    stream: Stream | None = None,
) -> tuple[Tensor, Tensor, Mask | None, Stream | None]:
    """Returns the arguments of `Attention.forward`, positional or by keyword."""
    return x, context, mask, stream


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode, and restores the mode of each module afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
