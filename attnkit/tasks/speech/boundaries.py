"""The times of words, from cross-attention by dynamic time warping.

A path through the map (letters down, time across) assigns each letter an interval of time, in order
(Sakoe and Chiba 1978; on attention as in Whisper's word times). The gain of a cell is the logarithm
of its weight over a uniform one, so that the best path omits silence before and after a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnkit.attention.maps import attention_maps
from attnkit.data.pair_batch import IGNORED
from attnkit.data.sound.formants import Span
from attnkit.data.sound.log_mel import edges
from attnkit.data.speech_store import SpeechStore
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.tasks.translation.alignment import MEAN, Place

FLOOR = 1e-4
"""Smaller weights count as this one."""

TOGETHER = 16
"""Number of utterances whose maps are computed at once."""


def stretches(weights: np.ndarray) -> np.ndarray:
    """Returns the best monotonic path through maps.

    Args:
        weights: (..., T, S) attention of T letters over S positions, rows sum to 1.

    Returns:
        (..., T, 2) first and last position of each letter. A letter begins at the last position of
        the previous one, or one later; the first may begin and the last may end anywhere.
    """
    gains = np.log(np.maximum(weights, FLOOR) * weights.shape[-1])
    flat = gains.reshape(-1, *gains.shape[-2:])  # (N, T, S)
    sums = flat.cumsum(axis=-1)
    before = np.zeros_like(flat[:, 0])  # the best path to a cell's left or upper left, (N, S)
    row, begins, comes_from = before, [], []
    for t in range(flat.shape[1]):
        # From position k of this row to position s: before[k] + gains k to s.
        start = before - sums[:, t] + flat[:, t]
        best = np.maximum.accumulate(start, axis=-1)
        place = np.where(start == best, np.arange(start.shape[-1]), 0)
        begins.append(np.maximum.accumulate(place, axis=-1))  # (N, S)
        row = best + sums[:, t]
        above = np.concatenate((np.full((len(row), 1), -np.inf), row[:, :-1]), axis=1)
        before = np.maximum(row, above)
        comes_from.append(above > row)
    found = np.empty((*flat.shape[:2], 2), np.int64)
    everyone = np.arange(len(flat))
    last = row.argmax(axis=-1)
    for t in reversed(range(flat.shape[1])):
        first = begins[t][everyone, last]
        found[:, t, 0], found[:, t, 1] = first, last
        if t:
            last = first - comes_from[t - 1][everyone, first]
    return found.reshape(*weights.shape[:-1], 2)


def word_times(text: str, letters: np.ndarray) -> list[Span]:
    """Returns start and end of each word of a text in seconds.

    Args:
        text: words with single spaces between them.
        letters: (T, 2) first and last position of each letter, from `stretches`.
    """
    spans, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        first, last = letters[at, 0], letters[min(at + len(word), len(letters)) - 1, 1]
        spans.append((edges(int(first))[0], edges(int(last))[1]))
        at += len(word)
    return spans


def cross_weights(model: EncoderDecoder, inputs: tuple) -> dict[Place, np.ndarray]:
    """Returns the cross-attention (B, T, S) of every head, and of the mean of each layer's heads.

    Args:
        model: on any device.
        inputs: source, True for its real positions, and target.
    """
    device = next(model.parameters()).device
    found = attention_maps(model, lambda: model(*(tensor.to(device) for tensor in inputs)))
    maps: dict[Place, np.ndarray] = {}
    for layer, one in enumerate(m for m in found if m.role == "cross"):
        weights = one.weights.numpy()
        for head in range(weights.shape[1]):
            maps[Place(layer, head, "predicting")] = weights[:, head]
        maps[Place(layer, MEAN, "predicting")] = weights.mean(axis=1)
    return maps


def boundary_errors(
    model: EncoderDecoder, store: SpeechStore, chosen: Sequence[int]
) -> dict[Place, np.ndarray]:
    """Returns the errors of the starts and ends of words, for every place.

    Args:
        model: on any device.
        store: with word times; utterances without them are left out.
        chosen: indices of the utterances.

    Returns:
        Place -> errors in milliseconds, two for each word; empty if no word times are known.
    """
    errors: dict[Place, list[float]] = {}
    known = [i for i in chosen if store.words[i] is not None]
    for start in range(0, len(known), TOGETHER):
        members = known[start : start + TOGETHER]
        batch = store.batch(np.array(members))
        maps = cross_weights(model, (batch.source, batch.source_keep, batch.target))
        for place, weights in maps.items():
            for row, i in enumerate(members):
                length = int((batch.predicted[row] != IGNORED).sum())
                own = weights[row, :length, : int(batch.source_keep[row].sum())]
                found = word_times(store.pairs[i].target, stretches(own))
                gold = store.words[i] or ()
                # A truncated text has fewer words than the sound.
                pairs = zip(np.ravel(found), np.ravel(gold), strict=False)
                errors.setdefault(place, []).extend(1000 * abs(a - b) for a, b in pairs)
    return {place: np.array(of_place) for place, of_place in errors.items()}


def best_place(errors: dict[Place, np.ndarray]) -> Place:
    """Returns the place with the smallest median error."""
    return min(errors, key=lambda place: (float(np.median(errors[place])), place))


def table(errors: dict[Place, np.ndarray]) -> str:
    """Returns median and mean error of all places, as lines of text."""
    lines = ["layer  head   median, mean error of word boundaries (ms)"]
    for place in sorted(errors):
        head = "mean" if place.head == MEAN else place.head
        of_place = errors[place]
        lines.append(
            f"{place.layer:>5}  {head:>4}   {np.median(of_place):6.0f}  {of_place.mean():6.0f}"
        )
    return "\n".join(lines)
