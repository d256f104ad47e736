"""The head clinic: what each head of a model does, and what the model loses without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention, Role
from attnkit.attention.maps import AttentionMap, attention_maps
from attnkit.data.pair_batch import IGNORED
from attnkit.listeners.map_records import site_of
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.models.language_model import LanguageModel
from attnkit.models.layers import Layer
from attnkit.tensorboard.clinic_history import WORDS, HeadName, word_of
from attnkit.understanding.head_outputs import mechanisms, on_head_outputs
from attnkit.understanding.head_scores import (
    PATTERNS,
    Scores,
    copying_scores,
    data_scores,
    repeated_scores,
)

Replacement = Literal["zero", "mean"]

REPLACEMENTS: tuple[Replacement, ...] = ("zero", "mean")
"""What replaces the output of a head that is knocked out: zero, or its mean over the data."""

SEQUENCES = 16
"""Number of sequences whose maps are scored."""

MOST_TOKENS = 256
"""Longest sequence whose maps are scored: a map takes memory with the square of the length."""

SHORT = (4, 32)
"""Number of sequences and tokens where a map is a Jacobian: one backward pass per number."""

FEWEST_REPEATED = 4
"""Least number of random tokens that are repeated."""

SINK = 0.3
"""Mean mass on the first token above which a head counts as a sink, as in arXiv:2410.10781."""


@dataclass(frozen=True)
class Head:
    """A head and its scores.

    Attributes:
        mechanism: path of the mechanism in the model.
        site: `self`, `decoder.cross` and the like.
        layer: from 0, within the site.
        head: from 0.
        scores: name -> number; a score that is not defined for the head is missing.
    """

    mechanism: str
    site: str
    layer: int
    head: int
    scores: Mapping[str, float]

    @property
    def name(self) -> str:
        """`L1H2`; in a model with several sites `decoder.cross L1H2`."""
        return str(HeadName(self.site, self.layer, self.head))

    @property
    def word(self) -> str:
        """The head's function in a word: its clearest pattern, or how its weights are spread."""
        return word_of(self.scores)

    @property
    def evidence(self) -> str:
        """The scores behind the word: `induction 0.83, knock-out +0.41`."""
        scores = {word: name for name, word in WORDS.items()}
        scores |= {"even": "evenness", "local": "distance", "mixed": "entropy"}
        score = scores[self.word]
        parts = (
            [f"{score.replace('_', ' ')} {self.scores[score]:.2f}"] if score in self.scores else []
        )
        if (lost := self.lost) is not None:
            parts.append(f"knock-out {lost:+.2f}")
        return ", ".join(parts)

    @property
    def lost(self) -> float | None:
        """Rise of the loss when the head is replaced by its mean, or else by zero."""
        return self.scores.get("knock_out_mean", self.scores.get("knock_out_zero"))


@dataclass(frozen=True)
class Examination:
    """What the clinic found.

    Attributes:
        heads: in the order of the model.
        loss: of the whole model on the data of the knock-outs, in the unit of its task; None: no
            head was knocked out.
        num_targets: number of targets of that loss.
        notes: what was not measured, and why.
    """

    heads: Sequence[Head]
    loss: float | None = None
    num_targets: int = 0
    notes: Sequence[str] = field(default_factory=list)

    @property
    def ranked(self) -> list[Head]:
        """The heads, sorted by their need: the largest rise of the loss first."""
        return sorted(self.heads, key=lambda head: -(head.lost or 0.0))

    def scalars(self) -> dict[str, float]:
        """Returns a few numbers of the whole model: the highest score on each pattern, the share of
        heads that are a sink, the means of entropy, distance and effective rank, the largest score,
        and the largest rise of the loss.
        """

        def all_of(name: str) -> list[float]:
            return [head.scores[name] for head in self.heads if name in head.scores]

        found: dict[str, float] = {}
        for name in (*PATTERNS, "diagonality", "largest_score"):
            if values := all_of(name):
                found[f"heads/{name}"] = max(values)
        for name in ("entropy", "distance", "effective_rank"):
            if values := all_of(name):
                found[f"heads/{name}"] = sum(values) / len(values)
        if first := all_of("first"):
            found["heads/sink_rate"] = sum(value > SINK for value in first) / len(first)
        if lost := [head.lost for head in self.heads if head.lost is not None]:
            found["heads/knock_out"] = max(lost)
        return found


@torch.no_grad()
def examine(
    task: Any, *, max_tokens: int = 4096, replacements: Sequence[Replacement] = REPLACEMENTS
) -> Examination:
    """Scores every head of a task's model on validation data.

    Scores of maps are defined in `head_scores.py`. `knock_out_zero` and `knock_out_mean` are the
    rise of the validation loss when the output of the head is replaced in every position by zero,
    or by its mean over the same data.

    Args:
        task: a `Task` whose data is prepared, on the device to run on.
        max_tokens: tokens of the knock-outs; at least one batch.
        replacements: the knock-outs; empty: none.

    Raises:
        ValueError: if the model has no mechanism.
    """
    model: nn.Module = task.model
    found = mechanisms(model)
    if not found:
        raise ValueError(f"{type(model).__name__} has no layers, so it has no heads to examine")
    batches = _batches(task, max_tokens)
    with task.plain_model():
        first = batches[0][0]
        scores, roles, notes = _map_scores(model, first, found)
        _add_copying(model, found, scores)
        loss, added = None, {}
        if replacements:
            loss, added = knock_outs(task, batches, replacements)
    for name, values in added.items():
        scores[name].update(values)
    for number, of_mechanism in task.head_metrics().items():
        for name, values in of_mechanism.items():
            scores[name][number] = torch.as_tensor(values)
    heads = []
    layers: dict[str, int] = {}
    for name, attention in found.items():
        if name not in roles:
            continue
        site = site_of(name, roles[name])
        layer = layers[site] = layers.get(site, -1) + 1
        lists = {number: values.tolist() for number, values in scores[name].items()}
        for head in range(attention.num_heads):
            of_head = {number: values[head] for number, values in lists.items()}
            of_head = {number: x for number, x in of_head.items() if x == x}  # not NaN
            heads.append(Head(name, site, layer, head, of_head))
    return Examination(heads, loss, sum(number for _, number in batches), notes)


def _batches(task: Any, max_tokens: int) -> list[tuple[Any, int]]:
    """Returns validation batches on the task's device, each with its number of targets."""
    batches = task.data.val_batches(max_tokens)
    on_host = [batches[i] for i in range(len(batches))]
    return [
        (task.transfer_batch_to_device(batch, task.device, 0), task.num_targets(batch))
        for batch in on_host
    ]


def knock_outs(
    task: Any, batches: Sequence[tuple[Any, int]], replacements: Sequence[Replacement]
) -> tuple[float, dict[str, Scores]]:
    """Returns the loss of the whole model, and mechanism -> its rise without each head.

    Args:
        task: inside `task.plain_model()`.
        batches: each with its number of targets.
        replacements: what replaces a head.
    """
    model, total = task.model, max(sum(number for _, number in batches), 1)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    current: Any = None

    def collect(name: str, heads: Tensor) -> None:
        real = _real_tokens(current, name)
        outputs = heads.flatten(0, 1) if real is None else heads[real]
        sums[name] = sums.get(name, 0) + outputs.double().sum(dim=0)  # (H, D)
        counts[name] = counts.get(name, 0) + len(outputs)

    def loss() -> float:
        nonlocal current
        parts = []
        for current, number in batches:  # `collect` reads the current one
            parts.append(task.measure(current)["loss"].double() * number)
        return float(torch.stack(parts).sum()) / total

    with on_head_outputs(model, collect):
        whole = loss()
    found: dict[str, Scores] = {}
    for name, attention in mechanisms(model).items():
        if name not in sums:
            continue
        mean = sums[name] / counts[name]
        for kind in replacements:
            replacement = mean if kind == "mean" else torch.zeros_like(mean)
            rises = []
            for head in range(attention.num_heads):
                with on_head_outputs(model, _without(name, head, replacement[head])):
                    rises.append(loss() - whole)
            found.setdefault(name, {})[f"knock_out_{kind}"] = torch.tensor(rises)
    return whole, found


def _without(name: str, head: int, replacement: Tensor) -> Callable[[str, Tensor], Tensor | None]:
    """Replaces the output of one head."""

    def act(called: str, heads: Tensor) -> Tensor | None:
        if called != name:
            return None
        heads = heads.clone()
        heads[:, :, head] = replacement.to(heads.dtype)
        return heads

    return act


def _real_tokens(batch: Any, name: str) -> Tensor | None:
    """Returns which queries of a mechanism are not padding, (B, T); None: all."""
    if not hasattr(batch, "source_keep"):
        return None
    return batch.source_keep if "encoder" in name.split(".") else batch.predicted != IGNORED


def _map_scores(
    model: nn.Module, batch: Any, found: Mapping[str, Attention]
) -> tuple[dict[str, Scores], dict[str, Role], list[str]]:
    """Returns mechanism -> scores of its map, its role; and notes on what could not be scored."""
    exact = all(attention.linear_in_values for attention in found.values())
    rows, longest = (SEQUENCES, MOST_TOKENS) if exact else SHORT
    maps, real = _maps_of_data(model, batch, rows, longest)
    scores: dict[str, Scores] = {name: {} for name in found}
    roles: dict[str, Role] = {}
    for one in maps:
        roles[one.name] = one.role
        scores[one.name].update(data_scores(one, real(one.name)))
        if one.largest_score is not None:
            scores[one.name]["largest_score"] = one.largest_score.amax(dim=0)
    notes = []
    repeated = repeated_tokens(model, batch, rows, longest)
    if repeated is None:
        notes.append(
            "no repeated random tokens: the model reads no tokens, or too few; so there are no "
            f"scores {', '.join(PATTERNS)}"
        )
        return scores, roles, notes
    for one in attention_maps(model, repeated):
        if one.role == "self":
            scores[one.name].update(repeated_scores(one.weights, one.allowed))
    return scores, roles, notes


def _maps_of_data(
    model: nn.Module, batch: Any, rows: int, longest: int
) -> tuple[list[AttentionMap], Callable[[str], Tensor | None]]:
    """Returns the maps of a batch's first sequences, and which queries of a mechanism are real."""
    if isinstance(model, LanguageModel):
        tokens = batch.tokens[:rows, :longest]
        documents = getattr(batch, "documents", None)
        documents = torch.zeros_like(tokens) if documents is None else documents[:rows, :longest]
        maps = attention_maps(model, lambda: model(tokens, documents), largest_scores=True)
        return maps, lambda name: None
    if isinstance(model, EncoderDecoder):
        parts = (batch.source, batch.source_keep, batch.target, batch.predicted)
        source, keep, target, predicted = (part[:rows, :longest] for part in parts)
        maps = attention_maps(model, lambda: model(source, keep, target), largest_scores=True)
        cut = type(batch)(source, keep, target, predicted, 0)
        return maps, lambda name: _real_tokens(cut, name)
    return attention_maps(model, batch, largest_scores=True), lambda name: None


def repeated_tokens(
    model: nn.Module, batch: Any, rows: int = SEQUENCES, longest: int = MOST_TOKENS
) -> Callable[[], Any] | None:
    """Returns a forward pass over random tokens x_1 ... x_n x_1 ... x_n, all different if there are
    enough; None if the model reads no tokens, or fewer than 16.

    n is a quarter of the longest sequence; such distances also occur in training data.

    The tokens are drawn from those of the batch, so that the model knows them, always with the same
    seed.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(known: Tensor, room: int) -> Tensor | None:
        known = known.unique().cpu()
        n = min(room, longest) // 4
        n = min(n, max(len(known), FEWEST_REPEATED))
        if n < FEWEST_REPEATED or len(known) < 2:
            return None
        chances = torch.ones(rows, len(known))
        drawn = torch.multinomial(chances, n, replacement=n > len(known), generator=generator)
        return known[drawn].repeat(1, 2).to(batch[0].device)

    if isinstance(model, LanguageModel):
        tokens = draw(batch.tokens, model.max_seq_len)
        return None if tokens is None else lambda: model(tokens, torch.zeros_like(tokens))
    if isinstance(model, EncoderDecoder):
        if batch.source.is_floating_point():  # a sound, which has no tokens
            return None
        # Real tokens only; the end token is one of them.
        source = draw(batch.source[batch.source_keep], model.max_seq_len)
        target = draw(batch.predicted[batch.predicted != IGNORED], model.max_seq_len)
        if source is None or target is None:
            return None
        return lambda: model(source, torch.ones_like(source, dtype=torch.bool), target)
    return None


def _add_copying(
    model: nn.Module, found: Mapping[str, Attention], scores: dict[str, Scores]
) -> None:
    """Adds the copying scores of self-attention between an embedding and a head of the model."""
    for stack, embedding, head in _stacks(model):
        for layer in stack.layers:
            name = next(name for name, module in found.items() if module is layer.attention)
            assert isinstance(layer, Layer)
            place = layer.norms_of("attention")[0]
            before = None if layer.is_normalised else getattr(layer, place)
            values = copying_scores(layer.attention, embedding, head, before, stack.norm)
            if values is not None:
                scores[name]["copying"] = values


def _stacks(model: nn.Module) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yields each stack with its embedding and its head."""
    if isinstance(model, LanguageModel):
        yield model, model.embedding.weight, model.head.weight
    elif isinstance(model, EncoderDecoder):
        yield model.decoder, model.target_embedding.weight, model.head.weight
