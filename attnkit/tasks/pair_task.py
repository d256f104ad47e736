"""The base of tasks with an encoder-decoder: predicts each target token from a source and the
tokens before it, decodes at intervals, and averages the last weights.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor
from torch.nn import functional as F

from attnkit.data.pair_batch import IGNORED, TranslationBatch
from attnkit.data.pair_batches import SOURCE_STEP
from attnkit.data.pair_store import PairStore
from attnkit.data.tokenizer_base import UNKNOWN, UNREADABLE
from attnkit.data.translation import TranslationData
from attnkit.listeners.listener import Listener
from attnkit.models.beam_search import Search
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.tasks.translating import decoded_line, translate_ids
from attnkit.tasks.weight_history import WeightHistory, average, write_average
from attnkit.training.probe import Probe
from attnkit.training.task import Task

HYPOTHESES = "hypotheses"
"""Folder in a run's directory for the decoded test sets."""


SAMPLE_SENTENCES = 5


class PairTask(Task):
    """Mean cross-entropy of the next target token, in nats, with label smoothing in training.

    A subclass overrides `interim_metrics` and `final_metrics`, and what a `Task` shows.

    Args:
        model: the encoder-decoder.
        data: prepared data.
        arguments: as for every task.
        validate_every: steps between validations.
        label_smoothing: share of each target's probability that is spread over the vocabulary.
        search: the search at the end; None: the defaults.
        decode_every: steps between decodings of a part of the validation split; None: with each
            validation.
        decode_sentences: number of sentences in that part.
        average_last: number of last weights that are averaged at the end; 0: no average.
        num_probes: number of pairs whose attention is drawn.
        options: as for every task.
    """

    size_keys = ("trainer.batch_tokens", "model.max_seq_len")

    model: EncoderDecoder

    def __init__(
        self,
        model: EncoderDecoder,
        data: TranslationData,
        *arguments: Any,
        validate_every: int,
        label_smoothing: float = 0.1,
        search: Search | None = None,
        decode_every: int | None = None,
        decode_sentences: int = 200,
        average_last: int = 0,
        num_probes: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(model, data, *arguments, dynamic_shapes=True, **options)
        self.validate_every = validate_every
        self.label_smoothing = label_smoothing
        self.search = Search() if search is None else search
        self.decode_every = decode_every
        self.decode_sentences = decode_sentences
        self.average_last = average_last
        self.num_probes = num_probes
        self._directory: Path | None = None
        self.found: dict[str, Any] = {}

    def configure_callbacks(self) -> list[L.Callback]:
        return [WeightHistory(self.average_last, self.validate_every)] if self.average_last else []

    def losses(self, batch: TranslationBatch) -> dict[str, Tensor]:
        """Returns the mean cross-entropy of the real targets, with label smoothing."""
        source, keep = batch.source, batch.source_keep
        if self.replays:  # one size for a bucket: each size is captured
            room = self.model.max_seq_len - source.shape[1]
            missing = min(-source.shape[1] % SOURCE_STEP, room)
            inner = (0, 0) * (source.dim() - 2)  # features of a source that has no tokens
            source, keep = F.pad(source, (*inner, 0, missing)), F.pad(keep, (0, missing))
        loss = self.run_model(
            source,
            keep,
            batch.target,
            predicted=batch.predicted,
            label_smoothing=self.label_smoothing,
        )
        return {"cross_entropy": loss}

    def measure(self, batch: TranslationBatch) -> dict[str, Tensor]:
        """The loss without label smoothing, and the share of targets that are the likeliest."""
        logits = self.run_model(batch.source, batch.source_keep, batch.target)
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.predicted.flatten(), ignore_index=IGNORED
        )
        right = (logits.argmax(dim=-1) == batch.predicted).sum()  # none of what is ignored
        return {"loss": loss, "token_accuracy": right / batch.num_tokens}

    def metrics(self) -> dict[str, float]:
        """Returns loss and accuracy; at intervals also `interim_metrics`; at the end
        `final_metrics`.
        """
        metrics = self.means()
        metrics["perplexity"] = math.exp(min(metrics["loss"], 700.0))
        if self.is_final:
            return metrics | self.final_metrics()
        if self._is_time_to_decode():
            with self.whole_weights():
                metrics |= self.interim_metrics()
        return metrics

    def _is_time_to_decode(self) -> bool:
        """Returns True at the first validation at or after each multiple of `decode_every`. Depends
        only on the step, so that a resumed run decodes at the same steps. The extra validation of a
        run that is stopped in between does not decode.
        """
        step, validate_every = self.global_step, self.validate_every
        if not self.decode_sentences or step % validate_every:
            return False
        every = self.decode_every or validate_every
        return step // every > (step - validate_every) // every

    @abstractmethod
    def interim_metrics(self) -> dict[str, float]:
        """Returns metrics of a part of the validation split, decoded greedily."""

    @abstractmethod
    def final_metrics(self) -> dict[str, float]:
        """Returns metrics of every test set."""

    def decoded(self, store: PairStore, chosen: Sequence[int], search: Search) -> list[str]:
        """Returns the decoded output for some sources of a store."""
        sources = [store.sources[i] for i in chosen]
        best = translate_ids(self.model, sources, store.pad_sources, store.ends[1], search)
        return [decoded_line(self.data.tokenizers[1], one[0]) for one in best]

    def write_hypotheses(self, split: str, hypotheses: list[str]) -> None:
        """Writes the decoded output for a test set to the run's directory."""
        if self._directory is None or not self.trainer.is_global_zero:
            return
        folder = self._directory / HYPOTHESES
        folder.mkdir(exist_ok=True)
        lines = "".join(f"{line}\n" for line in hypotheses)
        (folder / f"{split}.txt").write_text(lines, encoding="utf-8")

    def begin_final(self, directory: Path) -> None:
        """Loads the average of the last weights, if the recipe requests it."""
        super().begin_final(directory)
        self._directory = directory
        if not self.average_last:
            return
        checkpoints = directory / "checkpoints"
        found = average(checkpoints)
        if found is None:
            return
        weights, steps = found
        self.model.load_state_dict(weights)
        self.found["averaged_steps"] = steps
        if self.trainer.is_global_zero:
            write_average(checkpoints, weights, steps)

    def record(self) -> dict[str, Any]:
        """Returns what the final metrics found, the steps of averaged weights, the share of the
        validation split that was used, and the share of unknown target tokens.
        """
        unknown_id = self.data.tokenizers[1].unknown_id
        return {
            **self.found,
            "validation_share": self.data.val_batches(self.data.final_max_tokens).share,
            "unknown_share": self.data.val_store.unknown_share(unknown_id),
        }

    def num_tokens(self, batch: TranslationBatch) -> int:
        """Returns the number of real target tokens."""
        return batch.num_tokens

    def log_start(self, listeners: Listener) -> None:
        store = self.data.train_store
        batches = self.data.train_batches(0, 1)
        source = self.data.source
        listeners.text(
            "data",
            f"{source.source_language} -> {source.target_language}\n"
            f"{len(store):,} training pairs in {batches.num_per_epoch:,} batches an epoch, "
            f"{padding_share(batches):.1%} of their tokens are padding\n"
            f"dropped: {store.dropped}",
            0,
        )

    @abstractmethod
    def probe_store(self, text: str) -> PairStore:
        """Returns the pair that a user wrote as `logging.probe`.

        Raises:
            DataError: if the text is not a pair, or too long.
        """

    @abstractmethod
    def probe(self, name: str, store: PairStore, i: int) -> Probe:
        """Returns a pair of a store as an example whose attention is logged."""

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        """Returns validation pairs of at most `num_tokens` tokens per side, or the given pair.

        Raises:
            DataError: if the text is not a pair, or too long.
        """
        if text is not None:
            return [self.probe("probe", self.probe_store(text), 0)]
        store = self.data.val_store
        longest = [
            max(s, t) for s, t in zip(store.source_lengths, store.target_lengths, strict=True)
        ]
        fitting = [i for i, length in enumerate(longest) if length <= num_tokens]
        if not fitting:  # all are longer: use the shortest
            fitting = [min(range(len(longest)), key=longest.__getitem__)]
        chosen = [fitting[i] for i in spread(len(fitting), self.num_probes)]
        return [self.probe(f"probe{n}", store, i) for n, i in enumerate(chosen)]

    def sample(self, final: bool = False) -> str:
        """Returns the decoded output for a few fixed validation sentences, with references."""
        store = self.data.val_store
        chosen = spread(len(store), SAMPLE_SENTENCES)
        search = self.search if final else Search(beam=1)
        hypotheses = self.decoded(store, chosen, search)
        return "\n\n".join(
            f"source     {store.pairs[i].source}\n"
            f"model      {hypothesis.replace(UNKNOWN, UNREADABLE)}\n"
            f"reference  {store.pairs[i].target}"
            for i, hypothesis in zip(chosen, hypotheses, strict=True)
        )


def spread(total: int, count: int) -> list[int]:
    """Returns `count` numbers below `total`, evenly spread; all if there are fewer."""
    count = min(total, count)
    return [i * total // count for i in range(count)]


def padding_share(batches: Any) -> float:
    """Returns the share of padding in the tokens of an epoch, both sides together."""
    store, bounds = batches.store, batches.bounds
    order, _ = batches.shuffle(0)
    real = int(store.source_lengths.sum() + store.target_lengths.sum())
    total = 0
    for start, stop in pairwise(bounds):
        members = order[start:stop]
        widths = store.source_lengths[members].max() + store.target_lengths[members].max()
        total += int(widths) * len(members)
    return 1 - real / total
