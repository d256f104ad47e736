"""Translation: predicts each target token from the source and the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attnkit.data.alignments import gold_of, words
from attnkit.data.pair_batch import ROW_NOTE, pair_reading, pair_texts
from attnkit.data.pair_store import PairStore, pair_store
from attnkit.data.pairs.base import Pair
from attnkit.data.translation import TranslationData
from attnkit.errors import DataError
from attnkit.listeners.lightning import Listeners
from attnkit.listeners.listener import Listener
from attnkit.models.beam_search import Search
from attnkit.tasks.pair_task import PairTask, spread
from attnkit.tasks.translation import alignment
from attnkit.tasks.translation.scores import Scores, score
from attnkit.training.probe import Probe

EXAMPLES = 50
"""Number of validation sentences among which `example` chooses."""

ALIGNED_SENTENCES = 100
"""Number of sentences for the alignment error rate during training."""


class TranslationTask(PairTask):
    """Mean cross-entropy of the next target token, in nats, with label smoothing in training."""

    data: TranslationData

    def interim_metrics(self) -> dict[str, float]:
        """Returns scores of greedy translations of a fixed part of the validation split, and of its
        alignments.
        """
        part = spread(len(self.data.val_store), self.decode_sentences)
        _, scores = self._translated(self.data.val_store, part, Search(beam=1))
        metrics = self._of_scores(scores)
        aligned = self._alignment(self.data.val_store, ALIGNED_SENTENCES)
        if aligned:
            for row in alignment.ROWS:
                best = aligned[alignment.best_place(aligned, row)]
                metrics[f"quality/alignment_error_rate_{row}_row"] = best.error_rate
                metrics[f"quality/alignment_pointing_precision_{row}_row"] = best.precision
            self._write_table("alignment", aligned)
        return metrics

    def final_metrics(self) -> dict[str, float]:
        """Returns scores of every test set by beam search, and writes the translations to the run's
        directory.
        """
        metrics: dict[str, float] = {}
        place = None
        aligned = self._alignment(self.data.val_store, None)
        if aligned:
            place = alignment.best_place(aligned)
            self._write_table("alignment_whole_split", aligned)
            self.found["alignment_read_from"] = str(place)
        for split in self.data.source.test_splits:
            store = self.data.test_store(split)
            hypotheses, scores = self._translated(store, range(len(store)), self.search)
            self.write_hypotheses(split, hypotheses)
            for name, value in self._of_scores(scores).items():
                metrics[f"{name}_{split}"] = value
            self.found["signatures"] = scores.signatures
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
        hypotheses = self.decoded(store, chosen, search)
        return hypotheses, score(hypotheses, [store.pairs[i].target for i in chosen])

    def _alignment(
        self, store: PairStore, limit: int | None
    ) -> dict[alignment.Place, alignment.AlignmentScore]:
        """Returns scores against gold alignments of `limit` sentences (None: all); empty without
        gold alignments.
        """
        if store.pairs[0].links is None:
            return {}
        chosen = spread(len(store), limit or len(store))
        found = (gold_sentence(store.pairs[i]) for i in chosen)
        return alignment.score_places(self.model, self.data.tokenizers, found)

    def head_metrics(self) -> dict[str, dict[str, list[float]]]:
        """Returns the alignment error rate of each cross-attention head (predicting rows), if the
        data has gold alignments.
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

    def log_start(self, listeners: Listener) -> None:
        super().log_start(listeners)
        listeners.text("signatures", "\n".join(score(["a"], ["a"]).signatures.values()), 0)

    def probe_store(self, text: str) -> PairStore:
        """Returns the pair that is written as `source ||| target`."""
        source, bar, target = text.partition("|||")
        if not bar or not source.strip() or not target.strip():
            raise DataError(
                "logging.probe must be a sentence and its translation, `source ||| target`, or "
                "null for pairs of the validation split"
            )
        return pair_store(
            [Pair(source.strip(), target.strip())],
            self.data.tokenizers,
            split="probe",
            max_seq_len=self.model.max_seq_len,
            max_ratio=None,
        )

    def probe(self, name: str, store: PairStore, i: int) -> Probe:
        batch = store.batch(torch.tensor([i]).numpy())
        texts, pair = pair_texts(batch, self.data.tokenizers), store.pairs[i]
        reading = pair_reading(batch, texts, self.data.tokenizers[1].token_text)
        return Probe(
            name,
            reading.inputs,
            texts.predicts,
            texts.source,
            f"{pair.source}\n{pair.target}",
            note=ROW_NOTE,
            site_tokens=texts.by_site,
            reading=reading,
        )

    def example(self) -> str:
        """Returns the shortest of some validation sentences, without unknown words if possible."""
        store, unknown = self.data.val_store, self.data.tokenizers[0].unknown_id
        chosen = spread(len(store), EXAMPLES)
        known = [i for i in chosen if unknown not in store.sources[i].tolist()] or chosen
        return min((store.pairs[i].source for i in known), key=len)


def gold_sentence(pair: Pair) -> tuple[alignment.Sentence, alignment.Gold]:
    """Returns the words of a pair and its gold links between words."""
    sentence = alignment.Sentence(pair.source, pair.target, words(pair.source), words(pair.target))
    return sentence, gold_of(pair.links or (), sentence.source_words, sentence.target_words)
