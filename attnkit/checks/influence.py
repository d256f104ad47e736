"""Laws about who may influence whom, by gradient and by perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnkit.checks.case import Broken, demand, demand_close, require
from attnkit.checks.seats import documents, keep

if TYPE_CHECKING:
    from attnkit.checks.case import Case

ROUNDING = 2e-6
"""Largest influence that counts as none; a real one is a thousand times larger."""

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
def perturbations(case: Case, joined: bool) -> Tensor:
    """(B, T, S): largest move of each output when a token changes, as a query too if `joined`; one
    copy of the batch for each token that changes, and one as it is.
    """
    count, key = case.S + 1, torch.arange(case.S)
    context = case.copies(case.context, count).unflatten(0, (count, case.B))
    context[key, :, key] = 2 * context[key, :, key].flip(-1)
    context = context.flatten(0, 1)
    x = context if joined else case.copies(case.x, count)
    output = case.attention(x, context, case.mask_of_copies(count))
    output = output.unflatten(0, (count, case.B))
    return (output[:-1] - output[-1]).abs().amax(dim=-1).permute(1, 2, 0)


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
            verb = "has a gradient of" if way == "gradient" else "moved by"
            when = "by" if way == "gradient" else "when"
            rest = "" if way == "gradient" else " changed"
            raise Broken(
                f"output {t} {verb} {float(worst[b, t, s]):.1e} {when} token {s}{rest} "
                f"({way}, sequence {b})"
            )


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
    """Each key that the mask allows can move the output, in one of several draws of tokens."""
    felt = case.influences["perturbed key"] > ROUNDING
    tries = 1
    while not bool(felt[case.allowed].all()) and tries < TRIES:
        other = case.resized(seed=case.seed + tries)
        felt = felt | (perturbations(other, joined=False) > ROUNDING)
        tries += 1
    missing = (case.allowed & ~felt).nonzero()
    demand(
        len(missing) == 0,
        lambda: (
            f"output {int(missing[0][1])} never moved when token {int(missing[0][2])} changed, "
            "which the mask allows"
        ),
    )


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
    and it does move with the context, also with one that is as long as the queries' sequence.
    """
    require(case.role == "cross", "self-attention")
    for context in (case.context, case.context[:, : case.T]):
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
