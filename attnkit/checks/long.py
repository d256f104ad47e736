"""Laws about sequences longer than a kernel's chunk or a wide window, and about padding at the
end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnkit.attention.score_attention import ScoreAttention
from attnkit.checks.case import Broken, Case, demand_close, require
from attnkit.checks.decoding import decoded
from attnkit.checks.influence import ROUNDING
from attnkit.masks import Padding
from attnkit.registry import MASKS

ALL_CHANGED, SOME_UP_TO, SOME, FEW = 100, 400, 12, 3
"""Each token of at most `ALL_CHANGED` is changed in turn, in self-attention without a position
encoding under the masks `ALL_UNDER`; otherwise `SOME`, and `FEW` of more than `SOME_UP_TO`.
"""

ALL_UNDER = ("causal", "sliding_window-21", "sliding_window-22-centered")


@torch.no_grad()
def long_sequences_obey_the_mask(case: Case) -> None:
    """Beyond a hundred tokens, and under wide windows, no output changes when a token changes that
    the mask hides from it.
    """
    require(not bool(case.allowed.all()), "the mask forbids nothing here")
    plain = case.role == "self" and case.position == "none"
    every = plain and case.S <= ALL_CHANGED and case.mask_case.name in ALL_UNDER
    count = case.S if every else SOME if case.S <= SOME_UP_TO else FEW
    changed = torch.linspace(1, case.S - 2, count).long() if count < case.S else torch.arange(count)
    for group in changed.split(max(1, 300_000 // case.S**2)):
        context = case.context.repeat(len(group), 1, 1)
        context[torch.arange(len(group)), group] = 2 * context[0, group].flip(-1)
        x = case.x.expand(len(group), -1, -1)
        if case.role == "self":
            x = context
        mask = case.mask_of_copies(len(group))
        moved = (case.attention(x, context, mask) - case.output).abs().amax(dim=-1)  # (n, T)
        hidden = ~case.allowed[0, :, group].T  # (n, T)
        if case.role == "self":
            hidden &= torch.arange(case.T) != group[:, None]  # a token changes its own query
        worst = (moved * hidden).nan_to_num(nan=float("inf"))
        n, t = divmod(int(worst.argmax()), case.T)
        if float(worst[n, t]) > ROUNDING and _moves_alone(case, int(group[n]), t):
            raise Broken(
                f"output {t} moved by {float(moved[n, t]):.1e} when token {int(group[n])} changed, "
                f"{_distance(case, t, int(group[n]))}"
            )


def _moves_alone(case: Case, token: int, query: int) -> bool:
    """Returns True if the output also changes without copies of the sequence in the batch."""
    context = case.context.clone()
    context[0, token] = 2 * context[0, token].flip(-1)
    x = context if case.role == "self" else case.x
    output = case.attention(x, context, case.mask)
    return float((output - case.output)[0, query].abs().max()) > ROUNDING


def _distance(case: Case, query: int, key: int) -> str:
    away = query + case.S - case.T - key
    tokens = f"{abs(away)} token{'s' * (abs(away) != 1)}"
    return f"{tokens} {'back' if away >= 0 else 'ahead'}, which the mask hides"


@torch.no_grad()
def long_sequences_are_computed_as_short_ones(case: Case) -> None:
    """At lengths that are no multiple of a chunk, a full pass gives the same outputs as the
    written-out equation, a cache, and the last queries alone.
    """
    ways = _other_ways(case)
    require(bool(ways), "it reads all tokens at once (has_cache = False)")
    for words, compute in ways.items():
        expected = compute()
        start = case.T - expected.shape[1]
        error = (case.output[:, start:] - expected).abs().amax(dim=-1)[0]
        worst = start + int(error.argmax())
        what = f"output {worst} of {case.T} tokens at once, against {words}"
        demand_close(case.output[:, start:], expected, what, atol=5e-5)


def _other_ways(case: Case) -> dict[str, Callable[[], Tensor]]:
    attention, mask = case.attention, case.mask
    ways: dict[str, Callable[[], Tensor]] = {}
    template = type(attention).forward is ScoreAttention.forward
    if isinstance(attention, ScoreAttention) and template and attention.linear_in_values:

        def written_out() -> Tensor:
            q, k, v = case.heads()
            weights = attention.map(q, k, mask, **case.beside()).to(v.dtype)
            return attention.merge(weights @ attention.share_heads(v), case.x)

        ways["the written-out equation"] = written_out
    if case.role == "self" and mask.ahead == 0 and case.mechanism.has_cache:
        ways["a cache that reads 5, 1, 48 and all other tokens"] = lambda: decoded(
            case, [5, 1, 48, case.T]
        )
    alone = case.role == "cross" or (case.mechanism.has_cache and not case.mechanism.looks_back())
    for last in (33, 1) if alone else ():
        ways[f"the last {last} queries alone"] = lambda last=last: attention(
            case.x[:, -last:], case.context, mask
        )
    return ways


@torch.no_grad()
def padding_at_the_end_changes_nothing(case: Case) -> None:
    """Tokens have the same outputs when their sequence is padded to the length of a longer one, as
    in the batches of an encoder.
    """
    appended = 5
    require(case.role == "self" or not case.mechanism.knows_order, "it counts from the last key")
    require(
        case.role == "self" or case.mask_case.name in ("none", "padding"),
        "the mask counts from the last key",
    )
    plain = not case.mask_case.padded and case.mask.batch_size == 1
    require(plain, "tested without other padding")
    real = torch.arange(case.S + appended) < case.S
    mask = case.mask_over(case.S + appended) & Padding(real.repeat(case.B, 1))
    reason = case.mechanism.refusal(case.role, mask, case.position)
    require(reason is None, "it does not obey padding")
    more = case.resized(seed=case.seed + 1).tokens(appended)
    context = torch.cat((case.context, 3 * more), dim=1)
    x = context if case.role == "self" else case.x
    with_padding = case.attention(x, context, mask)[:, : case.T]
    what = f"output with {appended} padded tokens at the end, against none"
    demand_close(with_padding, case.output, what)


def masks_without_padding(case: Case) -> str:
    """Returns `mask_names` without padding."""
    names = case.mechanism.mask_names or MASKS.names()
    left = ", ".join(map(repr, sorted({*names} - {"padding"})))
    return f"`mask_names = frozenset({{{left}}})`"
