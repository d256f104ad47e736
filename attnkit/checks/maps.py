"""Laws about the attention map: it is what the output was made with."""

from __future__ import annotations

import functools

import torch

from attnkit.attention.maps import attention_map
from attnkit.checks.case import Broken, Case, demand, demand_close, require
from attnkit.checks.influence import reach_that_was_seen, reached
from attnkit.registry import options_of


@torch.no_grad()
def values_are_mixed_linearly(case: Case) -> None:
    """Twice the values give twice the heads, and sums give sums, where it is not declared
    otherwise (`linear_in_values`); so that a map can say all.
    """
    require(case.mechanism.linear_in_values, "declared not to be linear in its values")
    attention = case.attention
    q, k, v = case.heads()
    other = v.roll(1, dims=0).flip(2) + 1
    mix = functools.partial(attention.mix, mask=case.mask, **case.beside())
    mixed = mix(q, k, 2 * v - other)
    parts = 2 * mix(q, k, v) - mix(q, k, other)
    demand_close(mixed, parts, "heads of 2 v - w, against those of v and w", atol=5e-5)


def bends_its_values(case: Case) -> bool:
    """True if heads are not linear in the values."""
    try:
        values_are_mixed_linearly(case)
    except Broken:
        return True
    except Exception:
        return False
    return False


def map_reproduces_the_output(case: Case) -> None:
    """The map times the values, merged, is what the mechanism gives, by whichever kernel."""
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
    """`map_rows`: `sum to 1` means non-negative rows with total 1 (0 where nothing is allowed),
    `unnormalised` non-negative ones, `signed` anything finite, as a Jacobian is.
    """
    require(_has_its_shape(case), "another law tells that its shape is wrong")
    weights = case.map
    declared = case.mechanism.map_rows if case.mechanism.linear_in_values else "signed"
    demand(bool(weights.isfinite().all()), "the map holds NaN or infinity")
    if declared != "signed":
        least = float(weights.min())
        demand(least >= -1e-6, f"declared `{declared}`, and a weight is {least:.1e}")
    if declared == "sum to 1":
        total = (case.allowed[:, None] & reached(case)).any(dim=-1).float()
        total = total.expand(weights.shape[:3])
        demand_close(weights.sum(dim=-1), total, "sums of the map's rows", atol=1e-5)


def rows_that_were_seen(case: Case) -> str:
    """The `map_rows` that a map shows; or, where rows are empty that a mask allows, `reaches`."""
    sums = case.map.sum(dim=-1)
    if float(case.map.min()) < -1e-6:
        return '`map_rows = "signed"`'
    if bool(((sums - 1).abs().minimum(sums.abs()) < 1e-5).all()):
        return reach_that_was_seen(case)
    return '`map_rows = "unnormalised"`'


def map_is_taken_before_dropout(case: Case) -> None:
    """A map taken while training is the one of evaluation mode, and training goes on."""
    options = {"dropout": 0.5} if "dropout" in options_of(case.mechanism) else {}
    attention = case.build(**options).train()
    taken = attention_map(attention, case.x, case.context, case.mask)
    demand(attention.training, "taking a map ended training mode")
    demand_close(taken, case.map, "the map while training", atol=1e-6)
