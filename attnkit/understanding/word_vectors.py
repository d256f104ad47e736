"""The vectors of a word in sentences, layer by layer, and how well they separate its senses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from attnkit.data.sources.ambiguous_words import Usage, place_of
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError
from attnkit.models.language_model import LanguageModel

BATCH = 64
"""Sentences per forward pass."""

NEIGHBOURS = 5
"""Nearest sentences that are compared; fewer if a sense has fewer."""

RESAMPLES = 1000
"""Bootstrap samples of an interval."""

SHUFFLES = 200
"""Permutations of the senses from which chance is estimated."""


@torch.no_grad()
def word_vectors(
    model: LanguageModel,
    tokenizer: Tokenizer,
    usages: Sequence[Usage],
    without: Collection[int] = (),
) -> np.ndarray:
    """Returns the vectors of the word of each sentence.

    Args:
        model: the model.
        tokenizer: of its vocabulary.
        usages: N sentences, each with its word.
        without: layers whose attention adds nothing, from 0.

    Returns:
        (L + 1, N, C): the embedding, and the output of each of L layers; the mean over the tokens
        of the word.

    Raises:
        DataError: if a word or a sentence cannot be read completely.
    """
    read = sorted(
        ((n, *_tokens(model, tokenizer, usage)) for n, usage in enumerate(usages)),
        key=lambda each: len(each[1]),
    )
    found: dict[int, Tensor] = {}
    was_training = model.training
    model.eval()
    try:
        # Sentences of one length, since padding would be attended to.
        for _, group in groupby(read, key=lambda each: len(each[1])):
            same = list(group)
            for start in range(0, len(same), BATCH):
                batch = same[start : start + BATCH]
                states = hidden_states(model, [ids for _, ids, _ in batch], without)
                for row, (n, _, places) in enumerate(batch):
                    found[n] = states[:, row, places].mean(dim=1)
    finally:
        model.train(was_training)
    return torch.stack([found[n] for n in range(len(usages))], dim=1).cpu().numpy()


def hidden_states(
    model: LanguageModel, ids: Sequence[Sequence[int]], without: Collection[int] = ()
) -> Tensor:
    """Returns the input of the first layer and the output of each, (L + 1, B, T, C) float32.

    Args:
        model: the model.
        ids: B sequences of T tokens.
        without: layers whose attention adds nothing, from 0.
    """
    states: list[Tensor] = []

    def first_input(_: nn.Module, args: tuple) -> None:
        states.append(args[0])

    def layer_output(_: nn.Module, args: tuple, output: Tensor) -> None:
        states.append(output)

    hooks = [model.layers[0].register_forward_pre_hook(first_input)]
    hooks += [layer.register_forward_hook(layer_output) for layer in model.layers]
    tokens = torch.tensor(ids, device=model.embedding.weight.device)
    try:
        with attention_off(model, without):
            model(tokens, torch.zeros_like(tokens))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(states).float()


@contextmanager
def attention_off(model: LanguageModel, layers: Collection[int]) -> Iterator[None]:
    """Within the block, the self-attention of some layers adds nothing."""

    def nothing(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    hooks = [model.layers[i].attention.register_forward_hook(nothing) for i in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tokens(
    model: LanguageModel, tokenizer: Tokenizer, usage: Usage
) -> tuple[list[int], list[int]]:
    """Returns the tokens of a sentence, and the places of its word among them."""
    place = place_of(usage)
    assert place is not None  # checked when the sentence was read
    encoding = tokenizer.encode(usage.sentence)
    start, stop = place
    places = [i for i, (a, b) in enumerate(encoding.offsets) if a < stop and b > start]
    if any(encoding.ids[i] == tokenizer.unknown_id for i in places):
        raise DataError(
            f"the run's vocabulary lacks the word {usage.sentence[start:stop]!r}; choose another "
            "word, or train with sentences that contain it"
        )
    if len(encoding.ids) > model.max_seq_len:
        raise DataError(
            f"a sentence has {len(encoding.ids)} tokens and the model reads {model.max_seq_len}; "
            f"shorten it: {usage.sentence[:60]!r}"
        )
    return encoding.ids, places


@dataclass(frozen=True)
class Separation:
    """How well the vectors of one layer separate senses.

    Attributes:
        purity: share of a sentence's nearest neighbours that have its sense, mean over sentences.
        interval: its 95 % interval: percentiles of the mean of resampled sentences.
        chance: mean purity with shuffled senses, and its 97.5th percentile.
        silhouette: mean silhouette coefficient (Rousseeuw 1987), from -1 to 1.
        per_sentence: (N,) the purity of each sentence.
    """

    purity: float
    interval: tuple[float, float]
    chance: tuple[float, float]
    silhouette: float
    per_sentence: np.ndarray

    @property
    def is_above_chance(self) -> bool:
        """True if the whole interval is above the purities of shuffled senses."""
        return self.interval[0] > self.chance[1]


def separation(vectors: np.ndarray, senses: Sequence[str]) -> Separation:
    """Measures how well vectors separate senses.

    Args:
        vectors: (N, C)
        senses: of each; at least two senses, with two sentences each.
    """
    _, labels = np.unique(np.asarray(senses), return_inverse=True)
    distances = _distances(vectors)
    same = labels[:, None] == labels
    share = neighbours(distances, min(NEIGHBOURS, int(same.sum(axis=1).min()) - 1))
    scores = (share * same).sum(axis=1)
    numbers = np.random.default_rng(0)
    means = scores[numbers.integers(len(scores), size=(RESAMPLES, len(scores)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    shuffled = []
    for _ in range(SHUFFLES):
        mixed = numbers.permutation(labels)
        shuffled.append((share * (mixed[:, None] == mixed)).sum(axis=1).mean())
    chance = (float(np.mean(shuffled)), float(np.quantile(shuffled, 0.975)))
    interval = (float(low), float(high))
    return Separation(float(scores.mean()), interval, chance, silhouette(distances, labels), scores)


def _distances(vectors: np.ndarray) -> np.ndarray:
    """Returns Euclidean distances (N, N). Differences within rounding errors count as 0."""
    x = vectors.astype(np.float64)
    slack = 1e-10 * (x**2).sum(axis=1).max()
    x = x - x.mean(axis=0)
    lengths = (x**2).sum(axis=1)
    squares = lengths[:, None] + lengths - 2 * x @ x.T
    squares[squares <= slack] = 0.0
    return np.sqrt(squares)


def neighbours(distances: np.ndarray, k: int) -> np.ndarray:
    """Returns the weight of each other point among the k nearest, (N, N); rows sum to 1.

    Points at equal distance, such as identical vectors, share the remaining places, so the order of
    the data has no influence.
    """
    d = distances.copy()
    np.fill_diagonal(d, np.inf)
    farthest = np.partition(d, k - 1, axis=1)[:, k - 1 : k]
    slack = 1e-9 * farthest
    nearer = d < farthest - slack
    tied = (d <= farthest + slack) & ~nearer
    places = k - nearer.sum(axis=1, keepdims=True)
    return (nearer + tied * places / tied.sum(axis=1, keepdims=True)) / k


def silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of (b - a) / max(a, b) over points, where a is the mean distance to the
    others of the same label and b the smallest mean distance to another label; 0 where both are 0.
    """
    member = labels[:, None] == np.unique(labels)  # (N, K)
    sums, counts = distances @ member, member.sum(axis=0)
    same = (sums * member).sum(axis=1) / ((counts - 1) * member).sum(axis=1)
    other = np.where(member, np.inf, sums / counts).min(axis=1)
    larger = np.maximum(same, other)
    return float(np.where(larger > 0, (other - same) / np.where(larger > 0, larger, 1), 0).mean())


def flattened(vectors: np.ndarray) -> np.ndarray:
    """Returns the first two principal components, (N, 2); zeros for identical vectors."""
    x = vectors.astype(np.float64)
    x = x - x.mean(axis=0)
    _, _, directions = np.linalg.svd(x, full_matrices=False)
    flat = np.zeros((len(x), 2))
    found = x @ directions[:2].T
    flat[:, : found.shape[1]] = found
    size = np.abs(vectors).max()
    return np.where(np.abs(flat) > 1e-5 * size, flat, 0.0)
