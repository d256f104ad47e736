"""Laws about the attention map: it is the map that gave the output."""

from __future__ import annotations

import functools

import torch

from attnkit.attention.maps import attention_map
from attnkit.checks.case import Broken, Case, demand, demand_close, require
from attnkit.checks.influence import observed_reach, reached
from attnkit.registry import options_of


@torch.no_grad()
def values_are_mixed_linearly(case: Case) -> None:
    """Heads are linear in the values, unless `linear_in_values` is False, so that a map describes
    them completely.
    """
    require(case.mechanism.linear_in_values, "declared not to be linear in its values")
    attention = case.attention
    q, k, v = case.heads()
    other = v.roll(1, dims=0).flip(2) + 1
    mix = functools.partial(attention.mix, mask=case.mask, **case.beside())
    mixed = mix(q, k, 2 * v - other)
    parts = 2 * mix(q, k, v) - mix(q, k, other)
    demand_close(mixed, parts, "heads of 2 v - w, against those of v and w", atol=5e-5)


def is_not_linear_in_values(case: Case) -> bool:
    """Returns True if heads are not linear in the values."""
    try:
        values_are_mixed_linearly(case)
    except Broken:
        return True
    except Exception:
        return False
    return False


def map_reproduces_the_output(case: Case) -> None:
    """The map times the values, merged, is the output, whichever kernel computed it."""
    require(case.mechanism.linear_in_values, "its map is a Jacobian, which reproduces nothing")
    attention = case.attention
    with torch.no_grad():
        _, _, v = case.heads()
        weights = case.map
        demand(
            _has_its_shape(case),
            f"the map has the shape {tuple(weights.shape)}, "
            f"for {case.B} sequences, {attention.num_heads} heads, {case.T} queries and "
            f"{case.S} keys",
        )
        shared = v.repeat_interleave(attention.num_heads // v.shape[1], dim=1)
        rebuilt = attention.merge(weights @ shared, case.x)
    what = "map @ values, merged, against the output"
    right = [b for b in range(case.B) if _agree(rebuilt[b], case.output[b])]
    if right and len(right) < case.B:
        what += f" (sequence {right[0]} of {case.B} is right)"
    demand_close(rebuilt, case.output, what)


def _has_its_shape(case: Case) -> bool:
    return case.map.shape == (case.B, case.attention.num_heads, case.T, case.S)


def _agree(computed: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(torch.isclose(computed, expected, rtol=1e-4, atol=1e-4).all())


def map_is_zero_where_the_mask_forbids(case: Case) -> None:
    """A pair that the mask forbids has weight zero, in every head."""
    require(not bool(case.allowed.all()), "the mask forbids nothing here")
    weight = float((case.map * ~case.allowed[:, None]).abs().max())
    demand(weight == 0, f"a forbidden pair has the weight {weight:.1e}")


def map_rows_are_what_is_declared(case: Case) -> None:
    """Rows are what `map_rows` declares: `sum to 1` means non-negative with total 1 (0 where
    nothing is allowed), `unnormalised` non-negative, `signed` any finite numbers, as in a Jacobian.
    """
    require(_has_its_shape(case), "another law reports that its shape is wrong")
    weights = case.map
    declared = case.mechanism.map_rows if case.mechanism.linear_in_values else "signed"
    demand(bool(weights.isfinite().all()), "the map contains NaN or infinity")
    if declared != "signed":
        least = float(weights.min())
        demand(least >= -1e-6, f"declared `{declared}`, but a weight is {least:.1e}")
    if declared == "sum to 1":
        total = (case.allowed[:, None] & reached(case)).any(dim=-1).float()
        total = total.expand(weights.shape[:3])
        demand_close(weights.sum(dim=-1), total, "sums of the map's rows", atol=1e-5)


def observed_rows(case: Case) -> str:
    """Returns the `map_rows` of the map of a case; if allowed rows are empty, its `reaches`."""
    sums = case.map.sum(dim=-1)
    if float(case.map.min()) < -1e-6:
        return '`map_rows = "signed"`'
    if bool(((sums - 1).abs().minimum(sums.abs()) < 1e-5).all()):
        return observed_reach(case)
    return '`map_rows = "unnormalised"`'


def map_is_taken_before_dropout(case: Case) -> None:
    """A map computed in training mode is that of evaluation mode, and training mode stays on."""
    options = {"dropout": 0.5} if "dropout" in options_of(case.mechanism) else {}
    attention = case.build(**options).train()
    taken = attention_map(attention, case.x, case.context, case.mask)
    demand(attention.training, "taking a map ended training mode")
    demand_close(taken, case.map, "the map while training", atol=1e-6)
