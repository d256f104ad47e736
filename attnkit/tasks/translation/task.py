"""Translation: predicts each target token from the source and the tokens before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.data.alignments import gold_of, words
from attnkit.data.pair_batch import IGNORED, ROW_NOTE, TranslationBatch, pair_texts
from attnkit.data.pair_batches import SOURCE_STEP
from attnkit.data.pair_store import PairStore, pair_store
from attnkit.data.pairs.base import Pair
from attnkit.data.tokenizer_base import UNKNOWN, UNREADABLE
from attnkit.data.translation import TranslationData
from attnkit.errors import DataError
from attnkit.listeners.lightning import Listeners
from attnkit.listeners.listener import Listener
from attnkit.models.beam_search import Search
from attnkit.models.encoder_decoder import EncoderDecoder
from attnkit.tasks.translation import alignment
from attnkit.tasks.translation.scores import Scores, score
from attnkit.tasks.translation.translating import decoded_line, translate_ids
from attnkit.tasks.translation.weight_history import WeightHistory, average, write_average
from attnkit.training.probe import Probe
from attnkit.training.task import Task

SAMPLE_SENTENCES = 5
EXAMPLES = 50
"""Validation sentences among which `example` chooses."""

ALIGNED_SENTENCES = 100
"""Sentences for the alignment error rate during training."""

HYPOTHESES = "hypotheses"
"""Folder of a run for the translations of each test set."""


class TranslationTask(Task):
    """Mean cross-entropy of the next target token, in nats, with label smoothing in training.

    Args:
        model: the encoder-decoder.
        data: prepared data.
        arguments: as for every task.
        validate_every: steps between validations.
        label_smoothing: share of each target's probability that is spread over the vocabulary.
        search: the search at the end; None: its defaults.
        decode_every: steps between translations of a part of the validation split; None: with each
            validation.
        decode_sentences: how many sentences.
        average_last: how many of the last weights are averaged in the end; 0: none.
        num_probes: sentence pairs whose attention is drawn.
        options: as for every task.
    """

    size_keys = ("trainer.batch_tokens", "model.max_seq_len")

    model: EncoderDecoder
    data: TranslationData

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
        self._found: dict[str, Any] = {}

    def configure_callbacks(self) -> list[L.Callback]:
        return [WeightHistory(self.average_last, self.validate_every)] if self.average_last else []

    def losses(self, batch: TranslationBatch) -> dict[str, Tensor]:
        """Mean cross-entropy of the real targets, in nats per token, with label smoothing."""
        source, keep = batch.source, batch.source_keep
        if self.replays:  # one size for a bucket: each size is captured
            missing = -source.shape[1] % SOURCE_STEP
            source, keep = F.pad(source, (0, missing)), F.pad(keep, (0, missing))
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
        """Returns loss and accuracy; at intervals also scores of translations and alignments; at
        the end the scores of each test set.
        """
        metrics = self.means()
        metrics["perplexity"] = math.exp(min(metrics["loss"], 700.0))
        if self.is_final:
            return metrics | self._final_metrics()
        if self._is_time_to_decode():
            with self.whole_weights():
                metrics |= self._interim_metrics()
        return metrics

    def _is_time_to_decode(self) -> bool:
        """At the first validation from each multiple of `decode_every` on: a function of the step
        alone, or a run that resumes would do it at others. The validation of a run that is stopped
        between two that are due has none.
        """
        step, validate_every = self.global_step, self.validate_every
        if not self.decode_sentences or step % validate_every:
            return False
        every = self.decode_every or validate_every
        return step // every > (step - validate_every) // every

    def _interim_metrics(self) -> dict[str, float]:
        """Greedy translations of a fixed part of the validation split, and its alignments."""
        part = spread(len(self.data.val_store), self.decode_sentences)
        _, scores = self._translated(self.data.val_store, part, Search(beam=1))
        metrics = self._of_scores(scores)
        aligned = self._alignment(self.data.val_store, ALIGNED_SENTENCES)
        if aligned:
            for row in alignment.ROWS:
                best = aligned[alignment.best_place(aligned, row)]
                metrics[f"alignment/error_rate_{row}_row"] = best.error_rate
                metrics[f"alignment/pointing_precision_{row}_row"] = best.precision
            self._write_table("alignment", aligned)
        return metrics

    def _final_metrics(self) -> dict[str, float]:
        """Beam search over every test set, whose translations go into the run's directory."""
        metrics: dict[str, float] = {}
        place = None
        aligned = self._alignment(self.data.val_store, None)
        if aligned:
            place = alignment.best_place(aligned)
            self._write_table("alignment_whole_split", aligned)
            self._found["alignment_read_from"] = str(place)
        for split in self.data.source.test_splits:
            store = self.data.test_store(split)
            hypotheses, scores = self._translated(store, range(len(store)), self.search)
            self._write_hypotheses(split, hypotheses)
            for name, value in self._of_scores(scores).items():
                metrics[f"{name}_{split}"] = value
            self._found["signatures"] = scores.signatures
            if place is not None and (tested := self._alignment(store, None)):
                for row in alignment.ROWS:
                    error_rate = tested[place._replace(row=row)].error_rate
                    metrics[f"alignment_error_rate_{row}_row_{split}"] = error_rate
        return metrics

    def _of_scores(self, scores: Scores) -> dict[str, float]:
        found = {"bleu": scores.bleu, "chrf": scores.chrf}
        return found | ({"exact_match": scores.exact_match} if self.data.source.exact_match else {})

    def _translated(
        self, store: PairStore, chosen: Sequence[int], search: Search
    ) -> tuple[list[str], Scores]:
        best = translate_ids(self.model, [store.sources[i] for i in chosen], store.ends, search)
        hypotheses = [decoded_line(self.data.tokenizers[1], one[0]) for one in best]
        return hypotheses, score(hypotheses, [store.pairs[i].target for i in chosen])

    def _alignment(
        self, store: PairStore, limit: int | None
    ) -> dict[alignment.Place, alignment.AlignmentScore]:
        """Scores against gold, of `limit` sentences (None: all); empty where there is no gold."""
        if store.pairs[0].links is None:
            return {}
        chosen = spread(len(store), limit or len(store))
        found = (gold_sentence(store.pairs[i]) for i in chosen)
        return alignment.score_places(self.model, self.data.tokenizers, found)

    def head_metrics(self) -> dict[str, dict[str, list[float]]]:
        """Returns the alignment error rate of each cross-attention head (predicting rows), where
        the data has gold alignments.
        """
        scores = self._alignment(self.data.val_store, ALIGNED_SENTENCES)
        found: dict[str, list[float]] = {}
        for place, of_place in sorted(scores.items()):
            if place.row == "predicting" and alignment.MEAN not in place:
                name = f"decoder.layers.{place.layer}.cross_attention"
                found.setdefault(name, []).append(of_place.error_rate)
        return {"alignment_error": found} if found else {}

    def _write_table(self, tag: str, scores: dict[Any, Any]) -> None:
        Listeners(self.loggers).text(tag, alignment.table(scores), self.global_step)

    def _write_hypotheses(self, split: str, hypotheses: list[str]) -> None:
        if self._directory is None or not self.trainer.is_global_zero:
            return
        folder = self._directory / HYPOTHESES
        folder.mkdir(exist_ok=True)
        lines = "".join(f"{line}\n" for line in hypotheses)
        (folder / f"{split}.txt").write_text(lines, encoding="utf-8")

    def begin_final(self, directory: Path) -> None:
        """Takes the average of the last weights, if the recipe asks for it."""
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
        self._found["averaged_steps"] = steps
        if self.trainer.is_global_zero:
            write_average(checkpoints, weights, steps)

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
        listeners.text("signatures", "\n".join(score(["a"], ["a"]).signatures.values()), 0)

    def record(self) -> dict[str, Any]:
        """Signatures of the scores, where alignments were read, which weights were averaged, the
        share of the validation split that was used, and that of its target tokens that the
        vocabulary lacks.
        """
        unknown_id = self.data.tokenizers[1].unknown_id
        return {
            **self._found,
            "validation_share": self.data.val_batches(self.data.final_max_tokens).share,
            "unknown_share": self.data.val_store.unknown_share(unknown_id),
        }

    def num_tokens(self, batch: TranslationBatch) -> int:
        """Real target tokens."""
        return batch.num_tokens

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        """Some validation pairs of at most `num_tokens` tokens a side, or the pair that is given as
        `source ||| target`.

        Raises:
            DataError: if the text is no pair, or too long.
        """
        store = self.data.val_store
        if text is not None:
            source, bar, target = text.partition("|||")
            if not bar or not source.strip() or not target.strip():
                raise DataError(
                    "logging.probe must be a sentence and its translation, `source ||| target`, or "
                    "null for pairs of the validation split"
                )
            pair = Pair(source.strip(), target.strip())
            store = pair_store(
                [pair],
                self.data.tokenizers,
                split="probe",
                max_seq_len=self.model.max_seq_len,
                max_ratio=None,
            )
            return [self._probe("probe", store, 0)]
        longest = [
            max(s, t) for s, t in zip(store.source_lengths, store.target_lengths, strict=True)
        ]
        fitting = [i for i, length in enumerate(longest) if length <= num_tokens]
        if not fitting:  # all are longer: the shortest must do
            fitting = [min(range(len(longest)), key=longest.__getitem__)]
        chosen = [fitting[i] for i in spread(len(fitting), self.num_probes)]
        return [self._probe(f"probe{n}", store, i) for n, i in enumerate(chosen)]

    def _probe(self, name: str, store: PairStore, i: int) -> Probe:
        batch = store.batch(torch.tensor([i]).numpy())
        texts, pair = pair_texts(batch, self.data.tokenizers), store.pairs[i]
        return Probe(
            name,
            (batch.source, batch.source_keep, batch.target),
            texts.predicts,
            texts.source,
            f"{pair.source}\n{pair.target}",
            note=ROW_NOTE,
            site_tokens=texts.by_site,
        )

    def sample(self, final: bool = False) -> str:
        """Returns translations of a few fixed validation sentences, with their references."""
        store = self.data.val_store
        chosen = spread(len(store), SAMPLE_SENTENCES)
        search = self.search if final else Search(beam=1)
        hypotheses, _ = self._translated(store, chosen, search)
        return "\n\n".join(
            f"source     {store.pairs[i].source}\n"
            f"model      {hypothesis.replace(UNKNOWN, UNREADABLE)}\n"
            f"reference  {store.pairs[i].target}"
            for i, hypothesis in zip(chosen, hypotheses, strict=True)
        )

    def example(self) -> str:
        """Returns the shortest of some validation sentences, without unknown words if possible."""
        store, unknown = self.data.val_store, self.data.tokenizers[0].unknown_id
        chosen = spread(len(store), EXAMPLES)
        known = [i for i in chosen if unknown not in store.sources[i].tolist()] or chosen
        return min((store.pairs[i].source for i in known), key=len)


def spread(total: int, wanted: int) -> list[int]:
    """Returns `wanted` numbers below `total`, evenly spread; all if there are fewer."""
    count = min(total, wanted)
    return [i * total // count for i in range(count)]


def gold_sentence(pair: Pair) -> tuple[alignment.Sentence, alignment.Gold]:
    """Returns the words of a pair and its gold links between words."""
    sentence = alignment.Sentence(pair.source, pair.target, words(pair.source), words(pair.target))
    return sentence, gold_of(pair.links or (), sentence.source_words, sentence.target_words)


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
