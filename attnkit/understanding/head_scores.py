"""Scores of attention heads, from their maps.

On the model's data, each is a mean over the queries that may attend to at least two keys. Rows are
divided by their sums first, and signed weights are replaced by their absolute values, as on the
Attention page:

    entropy        -sum_k p_k ln p_k, in nats
    evenness       entropy / ln(number of allowed keys): 1 for equal weights
    distance       sum_k p_k |query - key|, in tokens; self-attention only
    first          p_0, the mass on the first key. arXiv:2309.17453
    effective_rank exp of the entropy of the map's normalised singular values: the number of
                   patterns that its rows combine
    diagonality    1 - (mean distance from the diagonal) / (that of equal weights), where both
                   axes run from 0 to 1; cross-attention only

On random tokens x_1 ... x_n x_1 ... x_n, which occur in no text, a mean over the queries of the
second half (`induction`: Olsson et al. 2022, arXiv:2209.11895):

    current        mass on the query's own token
    previous       mass on the previous token
    duplicate      mass on the same token in the first half
    induction      mass on the token that followed the same token in the first half
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnkit.attention.base import Attention
from attnkit.attention.maps import AttentionMap
from attnkit.norms import LayerNorm

Scores = dict[str, Tensor]
"""Name -> (H,)."""

RANKED_MAPS = 4
"""Number of sequences whose singular values are computed, which cost more than all other scores."""

PATTERNS = ("current", "previous", "duplicate", "induction")
"""The scores on repeated random tokens."""


def data_scores(found: AttentionMap, real: Tensor | None = None) -> Scores:
    """Returns the scores of a map on data; empty if no query may attend to two keys.

    Args:
        found: the map.
        real: (B, T), False for queries that are padding; None: all are real.
    """
    weights, role = found.weights, found.role
    B, _, T, S = weights.shape
    allowed = found.allowed.expand(B, 1, T, S)
    rows, has_sum = _rows(weights, allowed)
    number = allowed.sum(dim=-1)  # (B, 1, T)
    counts = (number > 1) & has_sum
    if real is not None:
        counts = counts & real[:, None].cpu()
    if not counts.any(dim=-1).any(dim=0).all():
        return {}

    def mean(values: Tensor) -> Tensor:
        """(B, H or 1, T) -> (H,)."""
        return (values * counts).sum(dim=(0, 2)) / counts.sum(dim=(0, 2))

    entropy = torch.special.entr(rows).sum(dim=-1)
    scores = {
        "entropy": mean(entropy),
        "evenness": mean(entropy / number.clamp(min=2).log()),
        "first": mean(rows[..., 0]),
        "effective_rank": _effective_rank(weights[:RANKED_MAPS]),
    }
    query, key = torch.arange(T)[:, None], torch.arange(S)
    if role == "self":
        scores["distance"] = mean((rows * (query + S - T - key).abs()).sum(dim=-1))
        return scores
    # The axes end with the last real token, without padding.
    ends = (allowed.any(dim=2)[:, 0].sum(dim=-1), counts.any(dim=1).sum(dim=-1))  # (B,) each
    last_key, last_query = (end.clamp(min=2)[:, None, None] - 1 for end in ends)
    off = (query / last_query - key / last_key).abs()[:, None]  # (B, 1, T, S)
    even = allowed / number.clamp(min=1)[..., None]
    scores["diagonality"] = 1 - mean((rows * off).sum(-1)) / mean((even * off).sum(-1))
    return scores


def repeated_scores(weights: Tensor, allowed: Tensor) -> Scores:
    """Returns the scores of a self-attention map on n random tokens, repeated once.

    Args:
        weights: (B, H, 2n, 2n)
        allowed: (B or 1, 1, 2n, 2n)
    """
    rows, _ = _rows(weights, allowed)
    n = rows.shape[-1] // 2
    query = torch.arange(n, 2 * n)
    keys = {"current": query, "previous": query - 1, "duplicate": query - n}
    keys["induction"] = query - n + 1
    return {name: rows[..., query, key].mean(dim=(0, 2)) for name, key in keys.items()}


def _rows(weights: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Divides each row by its sum; returns also which sums are not 0."""
    masses = weights.abs() * allowed
    sums = masses.sum(dim=-1, keepdim=True)
    return masses / sums.where(sums > 0, 1.0), sums[..., 0] > 0


def _effective_rank(weights: Tensor) -> Tensor:
    """(B, H, T, S) -> (H,). Roy and Vetterli 2007, "The effective rank"."""
    singular = torch.linalg.svdvals(weights)
    shares = singular / singular.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return torch.special.entr(shares).sum(dim=-1).exp().mean(dim=0)


def copying_scores(
    attention: Attention, embedding: Tensor, head: Tensor, before: object, last: object
) -> Tensor | None:
    """Returns how much each head raises the logits of the tokens that it attends to: (H,), from -1
    to 1.

    The sum of the eigenvalues of W_U W_O W_V W_E divided by the sum of their absolute values, with
    the gains of the norms around it (Elhage et al. 2021, "A Mathematical Framework for Transformer
    Circuits"). It depends on the weights only: the path from an embedding through one head to the
    logits.

    Args:
        attention: the mechanism.
        embedding: (V, C)
        head: (V, C)
        before: the norm before the mechanism.
        last: the norm before the head.

    Returns:
        None for a mechanism whose values are not a projection of the tokens, or that changes its
        heads after mixing.
    """
    cls = type(attention)
    steps = ("merge", "project_context", "expand", "convolve", "exchange")
    if any(getattr(cls, step) is not getattr(Attention, step) for step in steps):
        return None
    if attention.value is None or attention.output is None or attention.lender is not None:
        return None
    # A norm is x -> gain * centred(x) here; its transpose acts on the rows of the head.
    read = _centred(before, embedding) * _gain(before)
    write = _centred(last, head * _gain(last))
    H, shared = attention.num_heads, attention.num_heads // attention.num_kv_heads
    value = attention.value.weight.unflatten(0, (attention.num_kv_heads, -1))  # (H_kv, D, C)
    value = value.repeat_interleave(shared, dim=0)
    out = attention.output.weight.unflatten(1, (H, -1)).transpose(0, 1)  # (H, C, D)
    # The eigenvalues of A B are those of B A, but for zeros: a matrix of D x D is enough.
    values = torch.linalg.eigvals((value @ (read.T @ write) @ out).float().cpu())
    return values.real.sum(dim=-1) / values.abs().sum(dim=-1).clamp(min=1e-12)


def _centred(norm: object, rows: Tensor) -> Tensor:
    """Returns rows (V, C), with a mean of 0 if the norm centres them."""
    return rows - rows.mean(dim=-1, keepdim=True) if isinstance(norm, LayerNorm) else rows


def _gain(norm: object) -> Tensor | float:
    """Returns the gain (C,) of a norm; 1 if there is none."""
    gain = getattr(norm, "weight", None)
    return 1.0 if gain is None else gain
