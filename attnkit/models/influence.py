"""Measures whether later tokens influence earlier predictions. If they do, a language model sees
the answers, and its loss is not honest.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.masks import Mask
from attnkit.models.language_model import LanguageModel

PROBED_TOKENS = 64
"""Maximum length of the probed sequence."""

LARGE = 20_000_000
"""From this number of parameters on, only eight tokens are changed, so that it takes seconds."""


@dataclass(frozen=True)
class LaterInfluence:
    """The largest change of a prediction after a change of a later token.

    Attributes:
        change: largest absolute change of a logit, in units of the logits' standard deviation.
        changed_token: position of the changed token.
        moved_output: the earlier position whose prediction changed most.
        num_moved: number of positions whose prediction changed at all, among `num_positions`.
        num_positions: number of positions that have a later token.
    """

    change: float
    changed_token: int
    moved_output: int
    num_moved: int
    num_positions: int


@torch.no_grad()
def measure_later_influence(model: LanguageModel, seed: int = 0) -> LaterInfluence:
    """Changes each token of a random sequence in turn, and measures the change of earlier
    predictions.

    It measures a copy of the model with noise on all parameters, since output matrices that are
    still zero would hide a leak.
    """
    probe = copy.deepcopy(model).eval().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in probe.parameters():
        parameter.add_(
            0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        )
    T, vocab_size = min(model.max_seq_len, PROBED_TOKENS), model.head.out_features
    tokens = torch.randint(vocab_size, (T,), generator=generator)
    changed = tokens.expand(T, T).clone()  # row j differs at token j
    changed.diagonal().add_(1).remainder_(vocab_size)
    documents = torch.zeros(1, T, dtype=torch.long)
    base = probe(tokens[None], documents)  # (1, T, V)
    moves = torch.zeros(T, T, dtype=base.dtype)  # changed token x output
    step = 1 if sum(p.numel() for p in probe.parameters()) < LARGE else max(T // 8, 1)
    for j in range(T - 1, 0, -step):
        moves[j] = (probe(changed[j : j + 1], documents) - base).abs().amax(dim=-1)[0]
    moves = moves.tril(-1) / base.std()  # keep outputs before the changed token
    worst = int(moves.argmax())
    return LaterInfluence(
        change=float(moves.max()),
        changed_token=worst // T,
        moved_output=worst % T,
        num_moved=int((moves.amax(dim=0) > 1e-9).sum()),
        num_positions=T - 1,
    )


def allowed_by_masks(model: LanguageModel, influence: LaterInfluence) -> bool:
    """Returns True if no more predictions changed than the masks allow: none under causal masks."""
    num_tokens = influence.num_positions + 1
    allowed = sees_later_tokens(model.layer_masks(), num_tokens)
    return influence.num_moved <= int(allowed.sum())


def scored_positions(model: LanguageModel, num_tokens: int) -> tuple[list[int] | None, bool]:
    """Returns the positions whose predictions count in a loss, and whether the loss is honest.

    By the masks, these are the predictions that have not seen the answer. None: all positions
    count, since none has seen it, or all have; in that case the loss is not honest.
    """
    leaks = sees_later_tokens(model.layer_masks(), num_tokens)
    is_honest = not bool(leaks[:-1].all()) or num_tokens == 1
    partial = bool(leaks.any()) and is_honest
    return torch.nonzero(~leaks).flatten().tolist() if partial else None, is_honest


def sees_later_tokens(masks: Sequence[Mask], num_tokens: int) -> Tensor:
    """Returns which positions (T,) may depend on a later token, according to the masks.

    Args:
        masks: masks of the layers, the lowest first.
        num_tokens: T.
    """
    position = torch.arange(num_tokens)
    if all(mask.ahead == 0 for mask in masks):
        return torch.zeros(num_tokens, dtype=torch.bool)
    furthest = position
    for mask in masks:
        bound = mask.bind(documents=torch.zeros(1, num_tokens, dtype=torch.long))
        allowed = bound.dense(num_tokens, num_tokens)[0, 0].expand(num_tokens, num_tokens)
        furthest = torch.where(allowed, furthest, 0).amax(dim=1).maximum(furthest)
    return furthest > position
