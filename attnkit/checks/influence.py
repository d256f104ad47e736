"""Laws about who may influence whom, by gradient and by perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnkit.checks.case import Broken, demand, demand_close, require
from attnkit.checks.seats import documents, keep

if TYPE_CHECKING:
    from attnkit.checks.case import Case

FORBIDDEN = 2e-6
"""Largest influence that counts as none: rounding; a real one is a thousand times larger."""

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
    """(B, T, S): norm of the gradient of each output by each token."""
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    output = case.attention(x, context, case.mask)
    generator = torch.Generator().manual_seed(6)
    direction = torch.randn(case.C, generator=generator)
    rows = [
        torch.autograd.grad(output[:, t] @ direction, context, torch.ones(case.B), True)[0]
        for t in range(case.T)
    ]
    return torch.stack([row.norm(dim=-1) for row in rows], dim=1)


@torch.no_grad()
def perturbations(case: Case, joined: bool) -> Tensor:
    """(B, T, S): largest move of each output when a token changes, as a query too if `joined`."""
    x, attention = case.x, case.attention
    base = attention(x, case.context if joined else case.context.clone(), case.mask)
    columns = []
    for s in range(case.S):
        context = case.context.clone()
        context[:, s] = 2 * context[:, s].flip(-1)
        moved = attention(context if joined else x, context, case.mask) - base
        columns.append(moved.abs().amax(dim=-1))
    return torch.stack(columns, dim=2)


def demand_no_influence(case: Case, forbidden: Tensor) -> None:
    """Breaks a law if an output feels a token where `forbidden` (B or 1, T, S)."""
    forbidden = forbidden.expand(case.B, case.T, case.S)
    for way, influence in case.influences.items():
        felt = influence * forbidden
        if case.role == "self" and way != "perturbed key":  # a token's own query is its own
            felt = felt * ~torch.eye(case.T, dtype=torch.bool)
        worst = felt.nan_to_num(nan=float("inf"))
        if float(worst.max()) > FORBIDDEN:
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
    felt = case.influences["perturbed key"] > 0
    tries = 1
    while not bool(felt[case.allowed].all()) and tries < TRIES:
        other = case.resized(seed=case.seed + tries)
        felt = felt | (perturbations(other, joined=False) > 0)
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
    and it does move with the context.
    """
    require(case.role == "cross", "self-attention")
    x = case.x.clone()
    x[:, 0] = 2 * x[:, 0].flip(-1)
    with torch.no_grad():
        moved = case.attention(x, case.context, case.mask)
        elsewhere = case.attention(case.x, 2 * case.context.flip(-1), case.mask)
    demand_close(moved[:, 1:], case.output[:, 1:], "other outputs when query 0 changed", atol=1e-6)
    feels = (elsewhere - case.output).abs().amax(dim=-1)[case.allowed.any(dim=-1)]
    demand(feels.numel() == 0 or float(feels.min()) > 0, "the context has no influence")


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
