"""Beam search: finds likely translations by following several hypotheses at a time.

Hypotheses are compared by log p(Y | X) / lp(Y), with the length penalty of Wu et al. 2016
(arXiv:1609.08144, section 7): lp(Y) = ((5 + |Y|) / 6)^alpha, where |Y| counts the end token. A
hypothesis that ends leaves the beam, which is then narrower by one. So a beam of one is greedy
search, and a beam that is wide enough finds the best translation of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnkit.models.cache import DecoderCache
from attnkit.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        tokens: token ids, without begin and end.
        score: log-probability divided by the length penalty, in nats.
        ended: False if it was cut at the maximum length.
    """

    tokens: list[int]
    score: float
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Search:
    """The options of a search.

    Args:
        beam: number of hypotheses to follow; 1: greedy search.
        length_penalty: alpha; 0: no penalty; larger values favour longer translations.
        n_best: number of translations to return for each source, at most `beam`.
        max_ratio: a target has at most this many times the tokens of its source, plus ten.
        cached: cache keys and values, if the model can; otherwise each step reads the whole target
            again.

    Raises:
        ValueError: if an option is out of range.
    """

    beam: int = 5
    length_penalty: float = 1.0
    n_best: int = 1
    max_ratio: float = 2.0
    cached: bool = True

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ValueError(f"beam must be at least 1, got {self.beam}")
        if not 1 <= self.n_best <= self.beam:
            raise ValueError(f"n_best must be from 1 to beam {self.beam}, got {self.n_best}")
        if self.length_penalty < 0:
            raise ValueError(f"length_penalty must be at least 0, got {self.length_penalty}")
        if self.max_ratio <= 0:
            raise ValueError(f"max_ratio must be above 0, got {self.max_ratio}")

    def penalty(self, length: Tensor | int) -> Tensor:
        """Returns lp(Y) for a number of tokens, including the end token."""
        return ((5 + torch.as_tensor(length)) / 6).double() ** self.length_penalty


@dataclass
class _Finished:
    """The finished hypotheses of one source, best first."""

    hypotheses: list[Hypothesis] = field(default_factory=list)

    def add(self, hypothesis: Hypothesis) -> None:
        self.hypotheses.append(hypothesis)
        self.hypotheses.sort(key=lambda one: -one.score)

    def worst_of(self, n_best: int) -> float:
        """Returns the score that an unfinished hypothesis must exceed to be returned."""
        if len(self.hypotheses) < n_best:
            return float("-inf")
        return self.hypotheses[n_best - 1].score


@torch.no_grad()
def beam_search(
    model: EncoderDecoder, source: Tensor, source_keep: Tensor, end: int, search: Search
) -> list[list[Hypothesis]]:
    """Translates a batch of sources.

    The search for a source stops once no unfinished hypothesis can win. Log-probabilities only
    decrease, so the score of a hypothesis is bounded by its log-probability divided by the penalty
    of the maximum length.

    Args:
        model: in evaluation mode.
        source: (B, S) token ids, padded at the right.
        source_keep: (B, S) boolean, True where a token is real.
        end: the target's end token, which also begins a target.
        search: the options.

    Returns:
        For each source its `n_best` hypotheses, best first (fewer if the search found fewer).
    """
    device, width = source.device, search.beam
    room = model.max_seq_len
    longest = (source_keep.sum(dim=1) * search.max_ratio + 10).long().clamp(max=room)  # (B,)
    found = [_Finished() for _ in range(len(source))]
    steps = (
        _CachedSteps(model, source, source_keep)
        if search.cached and model.can_cache
        else _PlainSteps(model, source, source_keep)
    )
    active = torch.arange(len(source), device=device)
    tokens = torch.full((len(source), 1, 1), end, device=device)  # (B, n, t), including begin
    scores = torch.zeros(len(source), 1, dtype=torch.double, device=device)
    for length in range(1, int(longest.max()) + 1):
        logits = steps.next(tokens.flatten(0, 1))  # (B n, V)
        n, vocab_size = tokens.shape[1], logits.shape[-1]
        # The likeliest of each hypothesis first: the softmax over the vocabulary is never formed.
        likeliest, word = logits.float().topk(min(width, vocab_size))
        log_probability = likeliest - logits.float().logsumexp(dim=-1, keepdim=True)
        candidates = scores[:, :, None] + log_probability.view(len(active), n, -1)  # (B, n, w)
        best, place = candidates.flatten(1).topk(min(width, candidates[0].numel()))  # (B, k)
        parent = place // candidates.shape[-1]
        word = word.view(len(active), -1).gather(1, place)
        # Each hypothesis that has ended makes the beam narrower by one.
        left = torch.tensor(
            [width - len(found[i].hypotheses) for i in active.tolist()], device=device
        )
        valid = (torch.arange(best.shape[1], device=device) < left[:, None]) & best.isfinite()
        tokens = torch.cat(
            (tokens.gather(1, parent[..., None].expand(-1, -1, length)), word[..., None]), dim=-1
        )
        at_limit = (longest[active] == length)[:, None]
        finished = valid & ((word == end) | at_limit)
        _collect(found, active, finished, tokens, best, end, search)
        scores = best.masked_fill(~valid | finished, float("-inf"))
        bound = (scores.amax(dim=1) / search.penalty(longest[active])).tolist()
        unfinished = [
            row
            for row, i in enumerate(active.tolist())
            if bound[row] > found[i].worst_of(search.n_best)
        ]
        if not unfinished:
            break
        rows = torch.tensor(unfinished, device=device)
        parents = rows[:, None] * n + parent[rows]  # the old hypothesis that each one continues
        steps.select(parents.flatten(), rows if len(unfinished) < len(active) else None)
        active, tokens, scores = active[rows], tokens[rows], scores[rows]
    return [one.hypotheses[: search.n_best] for one in found]


def _collect(
    found: list[_Finished],
    active: Tensor,
    finished: Tensor,
    tokens: Tensor,
    scores: Tensor,
    end: int,
    search: Search,
) -> None:
    """Moves the finished hypotheses out of the beam."""
    length = tokens.shape[-1] - 1
    penalised = (scores / search.penalty(length).to(scores.device)).tolist()
    sources = active.tolist()
    for row, column in finished.nonzero().tolist():
        written = tokens[row, column, 1:].tolist()
        ended = written[-1] == end
        found[sources[row]].add(
            Hypothesis(written[:-1] if ended else written, penalised[row][column], ended)
        )


class _CachedSteps:
    """Predicts next tokens with a cache: each step reads one token."""

    def __init__(self, model: EncoderDecoder, source: Tensor, source_keep: Tensor) -> None:
        self.model = model
        self.cache: DecoderCache = model.new_cache(source, source_keep)

    def next(self, tokens: Tensor) -> Tensor:
        """(B n, t) tokens -> (B n, V) logits of the next."""
        return self.model.decode(tokens[:, -1:], self.cache)[:, -1]

    def select(self, hypotheses: Tensor, sources: Tensor | None) -> None:
        """Keeps these hypotheses, and these sources (None: all)."""
        unchanged = torch.arange(len(hypotheses), device=hypotheses.device)
        if sources is not None or not torch.equal(hypotheses, unchanged):
            self.cache.select_hypotheses(hypotheses)
        if sources is not None:
            self.cache.select_sources(sources)


class _PlainSteps:
    """Predicts next tokens without a cache: each step reads the whole target again."""

    def __init__(self, model: EncoderDecoder, source: Tensor, source_keep: Tensor) -> None:
        self.model = model
        self.source = source
        self.keep = source_keep

    def next(self, tokens: Tensor) -> Tensor:
        """(B n, t) tokens -> (B n, V) logits of the next."""
        n = len(tokens) // len(self.source)
        source, keep = (t.repeat_interleave(n, dim=0) for t in (self.source, self.keep))
        return self.model(source, keep, tokens)[:, -1]

    def select(self, hypotheses: Tensor, sources: Tensor | None) -> None:
        """Keeps these sources (None: all)."""
        if sources is not None:
            self.source, self.keep = self.source[sources], self.keep[sources]


def in_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yields the indices of sentences in batches of similar length, the longest first.

    Args:
        lengths: number of tokens of each sentence.
        batch_tokens: maximum number of tokens in a batch, including padding; a longer sentence is a
            batch of its own.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
