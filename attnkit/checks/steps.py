"""Finds the step of a mechanism through which a token influences an output that it must not
influence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnkit.attention.past import Past
from attnkit.attention.recurrent import Recurrent
from attnkit.attention.score_attention import ScoreAttention

if TYPE_CHECKING:
    from attnkit.checks.case import Case

NOTICED = 2e-6
"""Smaller changes count as none."""

MIXED_AXES = "it mixes heads with tokens, as a `view` without `transpose(1, 2)` does"
OTHER_WEIGHTS = (
    "its map: the weights of other keys depend on it; if scores are mixed, first set them to 0 "
    "where `grid.allowed` is False (it is None where nothing is hidden)"
)


@torch.no_grad()
def way_in(case: Case, place: tuple[int, int, int], joined: bool) -> str:
    """Returns the step through which a token influences an output, as the end of an evidence; empty
    if it is unknown.

    Args:
        case: the case that breaks a law.
        place: sequence, output and token.
        joined: the token changes as a query too.
    """
    try:
        return next((f", by {step}" for step in _steps(case, place, joined)), "")
    except Exception:  # the evidence is valid without it
        return ""


def _steps(case: Case, place: tuple[int, int, int], joined: bool) -> Iterator[str]:
    """Yields the steps in which the token has an influence that it must not have, in order."""
    b, t, s = place
    attention, mask = case.attention, case.mask
    context = case.context.clone()
    context[:, s] = 2 * context[:, s].flip(-1)
    inputs = (case.x, context if joined else case.x)
    contexts = (case.context, context)

    def projected(step: str, before: Tensor, after: Tensor) -> Iterator[str]:
        if _others_move(before, after, s):
            mixed = not _others_move(_apart(before), _apart(after), s)
            yield f"`{step}`: {MIXED_AXES if mixed else 'other tokens depend on it there'}"

    queries = [attention.project_query(tokens) for tokens in inputs]
    yield from projected("project_query", *queries)
    keys = [attention.project_context(tokens) for tokens in contexts]  # and values
    for before, after in zip(*keys, strict=True):
        yield from projected("project_context", before, after)
    past = Past(mask, None, attention)
    seen = [attention.convolve(q, k, v, past) for q, (k, v) in zip(queries, keys, strict=True)]
    for before, after in zip(*seen, strict=True):
        if case.role == "self" and bool(_moves(before, after)[:s].any()):
            yield "`convolve`: earlier tokens depend on it there"
    prepared = [attention.prepare(x, c, mask) for x, c in zip(inputs, contexts, strict=True)]
    for before, after in zip(prepared[0][:2], prepared[1][:2], strict=True):
        if not attention.looks_back() and _others_move(before, after, s):
            yield "`place`: other tokens depend on it there"
    heads = [attention.mixed(each, mask) for each in prepared]
    if not _differ(heads[0][b, :, t], heads[1][b, :, t]):
        mixed = _merges_mixed(case, heads[0])
        yield f"`merge`: {MIXED_AXES if mixed else 'the head does not depend on it'}"
    if isinstance(attention, ScoreAttention) and attention.linear_in_values:
        maps = [
            attention.map(q, attention.expand(k, v)[0], mask, carried)[b, :, t]
            for q, k, v, carried in prepared
        ]
        if weight := float(maps[0][:, s].abs().max()):
            yield f"its map, where the weight is {weight:.1e}"
        if _differ(*maps):
            yield OTHER_WEIGHTS
    yield "`advance`" if isinstance(attention, Recurrent) else "`mix`"


def _differ(before: Tensor, after: Tensor) -> bool:
    return float((after - before).abs().max()) > NOTICED


def _moves(before: Tensor, after: Tensor) -> Tensor:
    """Returns the tokens (N,) of (B, H, N, D) whose numbers differ."""
    return (after - before).abs().amax(dim=(0, 1, 3)) > NOTICED


def _others_move(before: Tensor, after: Tensor, token: int) -> bool:
    moves = _moves(before, after)
    return bool(moves[:token].any() or moves[token + 1 :].any())


def _apart(heads: Tensor) -> Tensor:
    """Returns (B, H, N, D) with its numbers read in the order (B, N, H, D)."""
    B, H, N, D = heads.shape
    return heads.reshape(B, N, H, D).transpose(1, 2)


def _merges_mixed(case: Case, heads: Tensor) -> bool:
    """Returns True if outputs read (B, H, T, D) as if it were (B, T, H, D)."""
    B, H, T, D = heads.shape
    other = heads.reshape(B, T, H, D).clone()
    other[:, 0] += 1
    outputs = [case.attention.merge(h, case.x) for h in (heads, other.view(B, H, T, D))]
    return T > 1 and not _differ(outputs[0][:, 1:], outputs[1][:, 1:])
