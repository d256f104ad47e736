"""Laws about which tokens may influence which outputs, measured by gradients and perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnkit.attention.base import Attention
from attnkit.attention.score_attention import ScoreAttention
from attnkit.checks.case import Broken, demand, demand_close, require, scaled_to_scores
from attnkit.checks.seats import documents, keep
from attnkit.checks.steps import way_in
from attnkit.masks import Mask
from attnkit.registry import POSITIONS

if TYPE_CHECKING:
    from attnkit.checks.case import Case

ROUNDING = 2e-6
"""Largest influence that counts as none; a real one is a thousand times larger."""

LARGE_SCORE = 1e4
"""Largest score of a hidden key. Its `exp` overflows in any dtype."""

SHIFT = 7
"""Positions by which all tokens are shifted."""

TRIES = 12
"""Draws in which an allowed key may show its influence: sparse attention uses few keys at a
time.
"""


WAYS = ("perturbation", "perturbed key", "gradient")
"""Ways to measure influence. `gradient` and `perturbation` change a token wherever it is used: in
self-attention as a query and as a key. `perturbed key` changes only the context.
"""


def measured(case: Case) -> dict[str, Tensor]:
    """Returns the influence (B, T, S) of each token on each output of its own row, by each of
    `WAYS`; and of perturbed keys on the heads (B, H, T, S), if `forward` is the template's.
    """
    ways = {}
    if case.role == "self":
        ways["perturbation"], _ = perturbations(case, joined=True)
    ways["perturbed key"], of_heads = perturbations(case, joined=False)
    ways["gradient"] = gradients(case)
    return ways if of_heads is None else {**ways, "heads": of_heads}


def gradients(case: Case) -> Tensor:
    """Returns the norm of the gradient of each output by each token: (B, T, S). There is one copy
    of the batch for each output, so that one backward pass gives all.
    """
    context = case.copies(case.context, case.T).requires_grad_()
    x = context if case.role == "self" else case.copies(case.x, case.T)
    output = case.attention(x, context, case.mask_of_copies(case.T))
    output = output.unflatten(0, (case.T, case.B))  # (T, B, T, C)
    generator = torch.Generator().manual_seed(6)
    own = output.diagonal(dim1=0, dim2=2).mT @ torch.randn(case.C, generator=generator)
    (gradient,) = torch.autograd.grad(own.sum(), context)
    return gradient.unflatten(0, (case.T, case.B)).norm(dim=-1).transpose(0, 1)


def changed(case: Case, joined: bool, factor: float = 1.0) -> tuple[Tensor, Tensor, Mask]:
    """Returns the inputs of a call in which each token in turn is changed, as a query too if
    `joined`: one copy of the batch for each token, and a last one unchanged.
    """
    count, key = case.S + 1, torch.arange(case.S)
    context = case.copies(factor * case.context, count).unflatten(0, (count, case.B))
    context[key, :, key] = 2 * context[key, :, key].flip(-1)
    context = context.flatten(0, 1)
    x = context if joined else case.copies(factor * case.x, count)
    return x, context, case.mask_of_copies(count)


def moves(case: Case, output: Tensor) -> Tensor:
    """Returns the largest change of each result of `changed` when a token changes: (B, T, S) for
    outputs, (B, H, T, S) for heads.
    """
    output = output.unflatten(0, (case.S + 1, case.B))
    return (output[:-1] - output[-1]).abs().amax(dim=-1).movedim(0, -1)


@torch.no_grad()
def perturbations(case: Case, joined: bool) -> tuple[Tensor, Tensor | None]:
    """Returns the largest change of each output when a token changes (B, T, S), and of the heads
    before they are merged (B, H, T, S), if `forward` is the template's.
    """
    x, context, mask = changed(case, joined)
    attention = case.attention
    if type(attention).forward is not Attention.forward:
        return moves(case, attention(x, context, mask)), None
    heads = attention.mixed(attention.prepare(x, context, mask), mask)
    return moves(case, attention.merge(heads, x)), moves(case, heads)


def demand_no_influence(case: Case, forbidden: Tensor) -> None:
    """Breaks a law if an output depends on a token where `forbidden` (B or 1, T, S)."""
    forbidden = forbidden.expand(case.B, case.T, case.S)
    lost = (~case.output.isfinite()).any(dim=-1).nonzero()
    if len(lost):
        b, t = lost[0].tolist()
        nothing = ", where nothing is allowed" * (not bool(case.allowed[b, t].any()))
        raise Broken(f"output {t} of sequence {b} is NaN or infinite{nothing}")
    for way in WAYS:
        if way not in case.influences:
            continue
        influence = case.influences[way] * forbidden
        if case.role == "self" and way != "perturbed key":  # a token changes its own query
            influence = influence * ~torch.eye(case.T, dtype=torch.bool)
        worst = influence.nan_to_num(nan=float("inf"))
        if float(worst.max()) > ROUNDING:
            b, t, s = (int(i) for i in torch.unravel_index(worst.argmax(), worst.shape))
            if not _influences_alone(case, way, (b, t, s)):
                continue  # due to the copies of the batch, which is for another law to report
            verb = "has a gradient of" if way == "gradient" else "moved by"
            when = "by" if way == "gradient" else "when"
            joined = case.role == "self" and way != "perturbed key"
            alone = " as a key" * (case.role == "self" and not joined)
            rest = "" if way == "gradient" else f" changed{alone}"
            raise Broken(
                f"output {t} {verb} {float(worst[b, t, s]):.1e} {when} token {s} "
                f"of sequence {b}{rest}{way_in(case, (b, t, s), joined)}"
            )


def _influences_alone(case: Case, way: str, place: tuple[int, int, int]) -> bool:
    """Returns True if a token also influences an output in a batch without copies."""
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
    require("document" in case.mask_case.name, "the mask has no documents")
    of_key = documents(case.B, case.S)
    demand_no_influence(case, of_key[:, -case.T :, None] != of_key[:, None, :])


def forbidden_keys_have_no_influence(case: Case) -> None:
    """No output depends on a key that the mask forbids, for any mask, and with fewer queries than
    keys too.
    """
    require(not bool(case.allowed.all()), "the mask forbids nothing here")
    demand_no_influence(case, ~case.allowed)


def every_allowed_key_has_influence(case: Case) -> None:
    """Each key that the mask and the mechanism's own `reaches` allow changes the output in one of
    several draws of tokens; and each head, if the mechanism is `smooth`.
    """
    within = reached(case)
    _demand_influence(case, "perturbed key", case.allowed & within.any(dim=0))
    cls = case.mechanism
    if cls.smooth and cls.linear_in_values and "heads" in case.influences:
        expected = case.allowed[:, None] & within
        expected = expected.expand(-1, case.attention.num_heads, -1, -1)
        _demand_influence(case, "heads", expected)


def _demand_influence(case: Case, way: str, expected: Tensor) -> None:
    """Breaks the law unless all expected influence shows in one of `TRIES` draws."""
    found = case.influences[way] > ROUNDING
    for seed in range(case.seed + 1, case.seed + TRIES):
        if bool(found[expected].all()):
            return
        of_outputs, of_heads = perturbations(case.resized(seed=seed), joined=False)
        moved = of_outputs if of_heads is None or way != "heads" else of_heads
        found = found | (moved > ROUNDING)
    missing = (expected & ~found).nonzero()
    if len(missing):
        *_, t, s = missing[0].tolist()
        head = f"head {int(missing[0][1])} of " * (way == "heads")
        raise Broken(f"{head}output {t} never moved when token {s} changed, which the mask allows")


def nothing_beyond_its_own_reach_has_influence(case: Case) -> None:
    """A key that no head `reaches`, as the mechanism declares, changes nothing."""
    own = reached(case).any(dim=0)
    require(not bool(own.all()), "it declares that it reaches all keys")
    demand_no_influence(case, case.allowed & ~own)


def reached(case: Case) -> Tensor:
    """Returns the mechanism's `reaches`: (H or 1, T, S)."""
    query, key = (places[0] for places in _places(case))  # (T, 1), (1, S)
    own = case.attention.reaches(query, key)
    if own is None:
        return torch.ones(1, case.T, case.S, dtype=torch.bool)
    return own.expand(*own.shape[:-2], case.T, case.S).reshape(-1, case.T, case.S)


OBSERVED = 67
"""Number of tokens on which the reach of each head is observed."""


def observed_reach(case: Case) -> str:
    """Returns the `reaches` that describes the keys that each head was observed to use, if these
    are a window, a stride or a block; otherwise an empty string.
    """
    require(case.role == "self", "positions of two sequences cannot be compared")
    wide = case.resized(B=1, T=OBSERVED)
    used = torch.zeros(wide.attention.num_heads, OBSERVED, OBSERVED, dtype=torch.bool)
    for seed in range(case.seed, case.seed + TRIES):
        _, of_heads = perturbations(wide.resized(seed=seed), joined=False)
        if of_heads is None:  # it overrides `forward`
            return ""
        used |= (of_heads > ROUNDING)[0]
    query, key = (places[0] for places in _places(wide))
    away = query - key if wide.mask.ahead == 0 else (query - key).abs()
    distance = "query - key" if wide.mask.ahead == 0 else "(query - key).abs()"
    sizes = torch.arange(1, OBSERVED)
    rules = {
        f"{distance} < {{}}": lambda size: away < size,
        "(query - key) % {} == 0": lambda size: (query - key) % size == 0,
        "query // {0} == key // {0}": lambda size: query // size == key // size,
    }
    for words, rule in rules.items():
        fits = torch.stack([(used == (rule(int(n)) & wide.allowed[0])).all((1, 2)) for n in sizes])
        if bool(fits.any(dim=0).all()):  # (sizes, H)
            found = sizes[fits.int().argmax(dim=0)].tolist()
            each = str(found[0])
            if len(set(found)) > 1:
                each = f"query.new_tensor({found}).view(-1, 1, 1)"
            heads = f"with {len(found)} heads " * (len(set(found)) > 1)
            return f"{heads}`def reaches(self, query, key): return {words.format(each)}`"
    return ""


def other_position_kinds(case: Case) -> str:
    """Returns `position_kinds` without the kind of a case."""
    left = case.mechanism.position_kinds - {POSITIONS.get(case.position).acts_on}
    return f"`position_kinds = frozenset({{{', '.join(map(repr, sorted(left)))}}})`"


def batch_entries_do_not_see_each_other(case: Case) -> None:
    """Neither the output of a sequence nor its gradient depends on another sequence of the
    batch.
    """
    require(case.B > 1, "a single sequence")
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    output = case.attention(x, context, case.mask)
    (gradient,) = torch.autograd.grad(output[0].square().sum(), context)
    leak = float(gradient[1:].abs().max())
    demand(leak == 0, f"output of sequence 0 has a gradient of {leak:.1e} by another sequence")
    other = case.context.clone()
    other[1:] = 3 * other[1:].flip(1)
    queries = other if case.role == "self" else case.x
    with torch.no_grad():
        moved = case.attention(queries, other, case.mask)
    demand_close(
        moved[0], case.output[0], "output of sequence 0 when sequence 1 changed", atol=1e-6
    )


def cross_attention_reads_the_context_and_only_it(case: Case) -> None:
    """An output of cross-attention depends on its own query and on the context, but on no other
    query, also if the context is as long as the sequence of queries, or shorter.
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
    reads = allowed.any(dim=-1)  # a sparse map may be empty in some rows, not in all
    change = ((elsewhere - output).abs().amax(dim=-1) * reads).amax(dim=-1)[reads.any(dim=-1)]
    demand(change.numel() == 0 or float(change.min()) > 0, f"the context has no influence, {sizes}")


@torch.no_grad()
def forbidden_keys_have_no_influence_in_bfloat16(case: Case) -> None:
    """In bfloat16, and with very large scores, no output changes when a token changes that the mask
    hides: the number that masks a score outweighs all scores.
    """
    require(not bool(case.allowed.all()), "the mask forbids nothing here")
    attention = case.attention
    (large,) = scaled_to_scores(case, attention, (LARGE_SCORE,))
    joined = case.role == "self"
    for factor, autocast in ((1.0, True), (large, True), (large, False)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = attention(*changed(case, joined, factor))
        if not bool(output[-case.B :].isfinite().all()):
            continue  # another law reports it
        change = moves(case, output) * ~case.allowed
        if joined:
            change = change * ~torch.eye(case.T, dtype=torch.bool)  # a token changes its own query
        worst = change.nan_to_num(nan=float("inf"))
        least = ROUNDING * max(1.0, float(output.abs().max()))
        if float(worst.max()) <= least:
            continue
        b, t, s = (int(i) for i in torch.unravel_index(worst.argmax(), worst.shape))
        context = factor * case.context  # now without copies in the batch
        other = context.clone()
        other[:, s] = 2 * other[:, s].flip(-1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            before = attention(context if joined else factor * case.x, context, case.mask)
            after = attention(other if joined else factor * case.x, other, case.mask)
        if not float((after - before)[b, t].abs().max()) <= least:
            size = f", tokens {factor:g} times as large" if factor != 1 else ""
            raise Broken(
                f"output {t} moved by {float(worst[b, t, s]):.1e} when token {s}, which the mask "
                f"hides, changed ({'under autocast to bfloat16' if autocast else 'float32'}{size})"
            )


@torch.no_grad()
def an_accepted_position_has_an_effect(case: Case) -> None:
    """A position encoding that the mechanism accepts changes its output. If queries and keys are
    rotated and scores are their products, a shift of all tokens does not change the map.
    """
    require(case.position != "none", "tested with a position encoding")
    require(case.T > 2, "too few tokens")
    kind = POSITIONS.get(case.position).acts_on
    demand(
        not ignores_its_position(case),
        f"position {case.position}, which acts on {kind}, is accepted but changes no output",
    )
    attention = case.build()
    attention.position = None
    if not isinstance(attention, ScoreAttention) or case.position != "rotary":
        return
    if {"scores", "weights"}.intersection(attention.overridden_steps()):
        return
    q, k, v, carried = attention.prepare(case.x, case.context, case.mask)
    maps = []
    for seen in (0, SHIFT):
        placed = case.attention.place(q, k, seen)
        expanded, _ = attention.expand(placed[1], v)
        maps.append(attention.map(placed[0], expanded, case.mask, carried))
    what = f"the map when all tokens are {SHIFT} positions later (rotary rotates queries and keys)"
    demand_close(maps[1], maps[0], what, atol=1e-4)


@torch.no_grad()
def ignores_its_position(case: Case) -> bool:
    """Returns True if the output is the same without the position encoding."""
    attention = case.build()
    attention.position = None
    return float((case.run(attention) - case.output).abs().max()) <= ROUNDING


def order_of_the_keys_does_not_matter(case: Case) -> None:
    """Without a position encoding, a mask and `knows_order`, a mechanism gives the same outputs
    when keys are permuted together with their values.
    """
    require(not case.mechanism.knows_order, "the mechanism itself distinguishes positions")
    require(case.position == "none", "the position encoding distinguishes positions")
    require(bool(case.allowed.all()), "the mask distinguishes positions")
    with torch.no_grad():
        shifted = case.attention(case.x, case.context.roll(1, dims=1), case.mask)
        plain = case.attention(case.x, case.context.clone(), case.mask)
    demand_close(shifted, plain, "output when all keys are shifted by one place")
