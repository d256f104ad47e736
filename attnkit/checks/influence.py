"""Laws about who may influence whom, by gradient and by perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnkit.attention.base import Attention
from attnkit.checks.case import Broken, demand, demand_close, require, scaled_to_scores
from attnkit.checks.seats import documents, keep

if TYPE_CHECKING:
    from attnkit.checks.case import Case

ROUNDING = 2e-6
"""Largest influence that counts as none; a real one is a thousand times larger."""

LARGE_SCORE = 1e4
"""Scores that a hidden key may have at the most: an `exp` of them overflows in any type."""

TRIES = 12
"""Draws in which an allowed key may show its influence: sparse attention uses few keys at a
time.
"""


def measured(case: Case) -> dict[str, Tensor]:
    """Influence (B, T, S) of each token on each output of its own row, by the way of measuring.

    `gradient` and `perturbation` change a token wherever it goes in: in self-attention it asks and
    answers. `perturbed key` changes the context alone.
    """
    ways = {}
    if case.role == "self":
        ways["perturbation"] = perturbations(case, joined=True)
    ways["perturbed key"] = perturbations(case, joined=False)
    ways["gradient"] = gradients(case)
    return ways


def gradients(case: Case) -> Tensor:
    """(B, T, S): norm of the gradient of each output by each token; one copy of the batch for each
    output, so that one backward pass gives all.
    """
    context = case.copies(case.context, case.T).requires_grad_()
    x = context if case.role == "self" else case.copies(case.x, case.T)
    output = case.attention(x, context, case.mask_of_copies(case.T))
    output = output.unflatten(0, (case.T, case.B))  # (T, B, T, C)
    generator = torch.Generator().manual_seed(6)
    own = output.diagonal(dim1=0, dim2=2).mT @ torch.randn(case.C, generator=generator)
    (gradient,) = torch.autograd.grad(own.sum(), context)
    return gradient.unflatten(0, (case.T, case.B)).norm(dim=-1).transpose(0, 1)


@torch.no_grad()
def perturbations(case: Case, joined: bool, of_heads: bool = False) -> Tensor:
    """(B, T, S), or (B, H, T, S) of heads before they are merged: largest move of each output when
    a token changes, as a query too if `joined`; one copy of the batch for each token that changes,
    and one as it is.
    """
    count, key, attention = case.S + 1, torch.arange(case.S), case.attention
    context = case.copies(case.context, count).unflatten(0, (count, case.B))
    context[key, :, key] = 2 * context[key, :, key].flip(-1)
    context = context.flatten(0, 1)
    x = context if joined else case.copies(case.x, count)
    mask = case.mask_of_copies(count)
    if of_heads:
        output = attention.mixed(attention.prepare(x, context, mask), mask)
    else:
        output = attention(x, context, mask)
    output = output.unflatten(0, (count, case.B))
    moves = (output[:-1] - output[-1]).abs().amax(dim=-1)  # (S, B, (H,) T)
    return moves.movedim(0, -1)


def demand_no_influence(case: Case, forbidden: Tensor) -> None:
    """Breaks a law if an output feels a token where `forbidden` (B or 1, T, S)."""
    forbidden = forbidden.expand(case.B, case.T, case.S)
    for way, influence in case.influences.items():
        felt = influence * forbidden
        if case.role == "self" and way != "perturbed key":  # a token's own query is its own
            felt = felt * ~torch.eye(case.T, dtype=torch.bool)
        worst = felt.nan_to_num(nan=float("inf"))
        if float(worst.max()) > ROUNDING:
            b, t, s = (int(i) for i in torch.unravel_index(worst.argmax(), worst.shape))
            if not _feels_alone(case, way, (b, t, s)):
                continue  # the copies of the batch did it, which is for another law to tell
            verb = "has a gradient of" if way == "gradient" else "moved by"
            when = "by" if way == "gradient" else "when"
            rest = "" if way == "gradient" else " changed"
            raise Broken(
                f"output {t} {verb} {float(worst[b, t, s]):.1e} {when} token {s}{rest} "
                f"({way}, sequence {b})"
            )


def _feels_alone(case: Case, way: str, place: tuple[int, int, int]) -> bool:
    """True if an output feels a token of its own row in a batch without copies, too."""
    b, t, s = place
    context = case.context.clone()
    if way == "gradient":
        context.requires_grad_()
        output = case.attention(context if case.role == "self" else case.x, context, case.mask)
        generator = torch.Generator().manual_seed(6)
        own = output[b, t] @ torch.randn(case.C, generator=generator)
        (gradient,) = torch.autograd.grad(own, context)
        return not float(gradient[b, s].norm()) <= ROUNDING
    context[:, s] = 2 * context[:, s].flip(-1)
    x = case.x
    if case.role == "self":
        x = context if way == "perturbation" else case.x.clone()
    with torch.no_grad():
        before = case.attention(case.x, case.context.clone(), case.mask)
        after = case.attention(x, context, case.mask)
    return not float((after - before)[b, t].abs().max()) <= ROUNDING


def _places(case: Case) -> tuple[Tensor, Tensor]:
    query = torch.arange(case.S - case.T, case.S).view(1, -1, 1)
    return query, torch.arange(case.S).view(1, 1, -1)


def later_tokens_have_no_influence(case: Case) -> None:
    """Under a mask with `ahead == 0` no output depends on a later token."""
    require(case.mask.ahead == 0, "the mask lets queries look ahead")
    query, key = _places(case)
    demand_no_influence(case, key > query)


def padded_keys_have_no_influence(case: Case) -> None:
    """No output depends on a padded token, and no gradient reaches it."""
    require(case.mask_case.padded, "nothing is padded")
    demand_no_influence(case, ~keep(case.B, case.S)[:, None, :])


def nothing_outside_the_window_has_influence(case: Case) -> None:
    """No output depends on a key further back than the mask's `back`, or further ahead than its
    `ahead`.
    """
    require(case.mask.back is not None, "the mask has no window")
    query, key = _places(case)
    outside = key < query - (case.mask.back or 0)
    if case.mask.ahead is not None:
        outside = outside | (key > query + case.mask.ahead)
    demand_no_influence(case, outside)


def documents_do_not_see_each_other(case: Case) -> None:
    """No output depends on a token of another document."""
    require("document" in case.mask_case.name, "the mask knows no documents")
    of_key = documents(case.B, case.S)
    demand_no_influence(case, of_key[:, -case.T :, None] != of_key[:, None, :])


def forbidden_keys_have_no_influence(case: Case) -> None:
    """An output depends on no key that the mask forbids, whatever the mask, also where there are
    fewer queries than keys.
    """
    require(not bool(case.allowed.all()), "the mask forbids nothing here")
    demand_no_influence(case, ~case.allowed)


def every_allowed_key_has_influence(case: Case) -> None:
    """Each key that the mask allows, and that is within the mechanism's own `reaches`, can move the
    output in one of several draws of tokens; and each head, where weights are `smooth`.
    """
    within = reached(case)
    felt = case.influences["perturbed key"] > ROUNDING
    _demand_influence(case, felt, case.allowed & within.any(dim=0), of_heads=False)
    cls = case.mechanism
    if cls.smooth and cls.linear_in_values and cls.forward is Attention.forward:
        expected = case.allowed[:, None] & within
        expected = expected.expand(-1, case.attention.num_heads, -1, -1)
        _demand_influence(case, torch.zeros_like(expected), expected, of_heads=True)


def _demand_influence(case: Case, felt: Tensor, expected: Tensor, of_heads: bool) -> None:
    """Breaks the law unless all that is expected is felt in one of `TRIES` draws."""
    for seed in range(case.seed, case.seed + TRIES):
        if bool(felt[expected].all()):
            return
        other = case if seed == case.seed else case.resized(seed=seed)
        felt = felt | (perturbations(other, joined=False, of_heads=of_heads) > ROUNDING)
    missing = (expected & ~felt).nonzero()
    if len(missing):
        *_, t, s = missing[0].tolist()
        head = f"head {int(missing[0][1])} of " * of_heads
        raise Broken(f"{head}output {t} never moved when token {s} changed, which the mask allows")


def nothing_beyond_its_own_reach_has_influence(case: Case) -> None:
    """A key that no head `reaches`, by the mechanism's own word, moves nothing."""
    own = reached(case).any(dim=0)
    require(not bool(own.all()), "it declares that it reaches all keys")
    demand_no_influence(case, case.allowed & ~own)


def reached(case: Case) -> Tensor:
    """(H or 1, T, S): what the mechanism's `reaches` says."""
    query, key = (places[0] for places in _places(case))  # (T, 1), (1, S)
    own = case.attention.reaches(query, key)
    if own is None:
        return torch.ones(1, case.T, case.S, dtype=torch.bool)
    return own.expand(*own.shape[:-2], case.T, case.S).reshape(-1, case.T, case.S)


def batch_entries_do_not_see_each_other(case: Case) -> None:
    """A sequence's output depends on no other sequence of the batch, and neither does its
    gradient.
    """
    require(case.B > 1, "one sequence alone")
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    output = case.attention(x, context, case.mask)
    (gradient,) = torch.autograd.grad(output[0].square().sum(), context)
    leak = float(gradient[1:].abs().max())
    demand(leak == 0, f"output of sequence 0 has a gradient of {leak:.1e} by another sequence")
    other = case.context.clone()
    other[1:] = 3 * other[1:].flip(1)
    asked = other if case.role == "self" else case.x
    with torch.no_grad():
        moved = case.attention(asked, other, case.mask)
    demand_close(
        moved[0], case.output[0], "output of sequence 0 when sequence 1 changed", atol=1e-6
    )


def cross_attention_reads_the_context_and_only_it(case: Case) -> None:
    """An output of cross-attention depends on its own query and on the context: on no other query,
    and it does move with the context, also with one that is as long as the queries' sequence, or
    shorter.
    """
    require(case.role == "cross", "self-attention")
    for context in (case.context, case.context[:, : case.T], case.context[:, : case.T - 4]):
        if context.shape[1] >= case.T or case.mask_case.kind in ("none", "causal", "padding"):
            _reads_the_context(case, context)


@torch.no_grad()
def _reads_the_context(case: Case, context: Tensor) -> None:
    mask, x = case.mask_over(context.shape[1]), case.x.clone()
    x[:, 0] = 2 * x[:, 0].flip(-1)
    output = case.attention(case.x, context, mask)
    moved = case.attention(x, context, mask)
    elsewhere = case.attention(case.x, 2 * context.flip(-1), mask)
    sizes = f"{case.T} queries and {context.shape[1]} keys"
    demand_close(
        moved[:, 1:], output[:, 1:], f"other outputs when query 0 changed, {sizes}", atol=1e-6
    )
    allowed = mask.dense(case.T, context.shape[1]).expand(case.B, 1, case.T, -1)[:, 0]
    asks = allowed.any(dim=-1)  # a sparse map may be empty in some rows, not in all
    feels = ((elsewhere - output).abs().amax(dim=-1) * asks).amax(dim=-1)[asks.any(dim=-1)]
    demand(feels.numel() == 0 or float(feels.min()) > 0, f"the context has no influence, {sizes}")


@torch.no_grad()
def forbidden_keys_have_no_influence_in_bfloat16(case: Case) -> None:
    """In bfloat16 too, and where scores are as large as they get, no output moves when a token
    changes that the mask hides: a number that is meant to forbid outweighs all scores.
    """
    require(not bool(case.allowed.all()), "the mask forbids nothing here")
    attention = case.build()
    large = scaled_to_scores(case, attention, LARGE_SCORE)
    for factor, autocast in ((1.0, True), (large, True), (large, False)):
        x, context = factor * case.x, factor * case.context
        x = context if case.role == "self" else x
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            base = attention(x, context, case.mask)
            if not bool(base.isfinite().all()):
                continue  # another law tells
            for s in range(case.S):
                other = context.clone()
                other[:, s] = 2 * other[:, s].flip(-1)
                moved = attention(other if case.role == "self" else x, other, case.mask)
                felt = (moved - base).abs().amax(dim=-1) * ~case.allowed[:, :, s]
                if case.role == "self":
                    felt[:, s] = 0  # its own query is its own
                worst = felt.nan_to_num(nan=float("inf"))
                if float(worst.max()) > ROUNDING * max(1.0, float(base.abs().max())):
                    b, t = divmod(int(worst.argmax()), case.T)
                    raise Broken(
                        f"output {t} moved by {float(worst[b, t]):.1e} when token {s} changed "
                        f"({'bfloat16' if autocast else 'float32'}, tokens times {factor:g})"
                    )


@torch.no_grad()
def an_accepted_position_has_an_effect(case: Case) -> None:
    """A position encoding that the mechanism accepts changes its output."""
    require(case.position != "none", "asked with a position encoding")
    require(case.T > 2, "too few tokens")
    attention = case.build()
    attention.position = None
    moved = float((case.run(attention) - case.output).abs().max())
    demand(moved > ROUNDING, f"position {case.position} is accepted, and changes no output")


def order_of_the_keys_does_not_matter(case: Case) -> None:
    """Without a position encoding, a mask, and an order of its own, a mechanism gives the same
    outputs when the keys change places together with their values.
    """
    require(not case.mechanism.knows_order, "the mechanism itself tells positions apart")
    require(case.position == "none", "the position encoding tells positions apart")
    require(bool(case.allowed.all()), "the mask tells positions apart")
    with torch.no_grad():
        turned = case.attention(case.x, case.context.roll(1, dims=1), case.mask)
        plain = case.attention(case.x, case.context.clone(), case.mask)
    demand_close(turned, plain, "output when all keys moved by one place")
