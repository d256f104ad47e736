"""By which of a mechanism's steps a token reaches an output that it must not reach."""

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
"""What moves by less stays as it is."""

MIXED_AXES = "it mixes heads with tokens, as a `view` without `transpose(1, 2)` does"
OTHER_WEIGHTS = (
    "its map: the weights of other keys depend on it; if scores are mixed, first set them to 0 "
    "where `grid.allowed` is False (it is None where nothing is hidden)"
)


@torch.no_grad()
def way_in(case: Case, place: tuple[int, int, int], joined: bool) -> str:
    """The step by which an output feels a token, as the end of an evidence; empty where that cannot
    be told.

    Args:
        case: where it is felt.
        place: sequence, output and token.
        joined: the token changes as a query too.
    """
    try:
        return next((f", by {step}" for step in _steps(case, place, joined)), "")
    except Exception:  # whatever it raises, the evidence stands
        return ""


def _steps(case: Case, place: tuple[int, int, int], joined: bool) -> Iterator[str]:
    """The steps in which something feels the token that must not, the first one first."""
    b, t, s = place
    attention, mask = case.attention, case.mask
    context = case.context.clone()
    context[:, s] = 2 * context[:, s].flip(-1)
    asked = (case.x, context if joined else case.x)
    answered = (case.context, context)

    def projected(step: str, before: Tensor, after: Tensor) -> Iterator[str]:
        if _others_move(before, after, s):
            mixed = not _others_move(_apart(before), _apart(after), s)
            yield f"`{step}`: {MIXED_AXES if mixed else 'other tokens feel it there'}"

    queries = [attention.project_query(tokens) for tokens in asked]
    yield from projected("project_query", *queries)
    offers = [attention.project_context(tokens) for tokens in answered]
    for before, after in zip(*offers, strict=True):
        yield from projected("project_context", before, after)
    past = Past(mask, None, attention)
    seen = [attention.convolve(q, k, v, past) for q, (k, v) in zip(queries, offers, strict=True)]
    for before, after in zip(*seen, strict=True):
        if case.role == "self" and bool(_moves(before, after)[:s].any()):
            yield "`convolve`: earlier tokens feel it there"
    prepared = [attention.prepare(x, c, mask) for x, c in zip(asked, answered, strict=True)]
    for before, after in zip(prepared[0][:2], prepared[1][:2], strict=True):
        if not attention.looks_back() and _others_move(before, after, s):
            yield "`place`: other tokens feel it there"
    heads = [attention.mixed(each, mask) for each in prepared]
    if not _differ(heads[0][b, :, t], heads[1][b, :, t]):
        yield f"`merge`: {MIXED_AXES if _merges_mixed(case, heads[0]) else 'its head does not'}"
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
    """(N,): tokens of (B, H, N, D) whose numbers differ."""
    return (after - before).abs().amax(dim=(0, 1, 3)) > NOTICED


def _others_move(before: Tensor, after: Tensor, token: int) -> bool:
    moves = _moves(before, after)
    return bool(moves[:token].any() or moves[token + 1 :].any())


def _apart(heads: Tensor) -> Tensor:
    """(B, H, N, D) as it is if its numbers lie as (B, N, H, D)."""
    B, H, N, D = heads.shape
    return heads.reshape(B, N, H, D).transpose(1, 2)


def _merges_mixed(case: Case, heads: Tensor) -> bool:
    """True if outputs take their numbers from (B, H, T, D) as if that were (B, T, H, D)."""
    B, H, T, D = heads.shape
    other = heads.reshape(B, T, H, D).clone()
    other[:, 0] += 1
    outputs = [case.attention.merge(h, case.x) for h in (heads, other.view(B, H, T, D))]
    return T > 1 and not _differ(outputs[0][:, 1:], outputs[1][:, 1:])
