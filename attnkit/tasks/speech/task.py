"""Speech to text: predicts each next letter from the sound and the letters before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnkit.data.pair_batch import ROW_NOTE, pair_reading
from attnkit.data.pair_store import PairStore
from attnkit.data.speech_data import SpeechData
from attnkit.data.speech_store import SpeechStore
from attnkit.errors import DataError
from attnkit.listeners.lightning import Listeners
from attnkit.models.beam_search import Search
from attnkit.tasks.pair_task import PairTask, spread
from attnkit.tasks.speech import boundaries
from attnkit.tasks.speech.hearing import heard, key_sound, sound_texts, store_of
from attnkit.tasks.speech.transcriber import error_rates
from attnkit.training.probe import Probe

TIMED_UTTERANCES = 60
"""Number of utterances for word boundaries during training."""


class SpeechTask(PairTask):
    """Mean cross-entropy of the next letter, in nats, with label smoothing in training."""

    data: SpeechData

    def interim_metrics(self) -> dict[str, float]:
        """Returns error rates and word boundaries of a fixed part of the validation split."""
        store = self._val_store
        _, rates = self._transcribed(
            store, spread(len(store), self.decode_sentences), Search(beam=1)
        )
        errors = boundaries.boundary_errors(self.model, store, spread(len(store), TIMED_UTTERANCES))
        if errors:
            place = boundaries.best_place(errors)
            rates["quality/alignment_boundary_error_ms"] = float(np.median(errors[place]))
            Listeners(self.loggers).text("boundaries", boundaries.table(errors), self.global_step)
        return rates

    def final_metrics(self) -> dict[str, float]:
        """Returns error rates of every test set, and word boundaries from the head that is best on
        the whole validation split.
        """
        metrics: dict[str, float] = {}
        store = self._val_store
        errors = boundaries.boundary_errors(self.model, store, range(len(store)))
        place = boundaries.best_place(errors) if errors else None
        if place is not None:
            self.found["boundaries_from"] = {"layer": place.layer, "head": place.head}
        for split in self.data.source.test_splits:
            store = self.data.test_store(split)
            assert isinstance(store, SpeechStore)
            everyone = range(len(store))
            hypotheses, rates = self._transcribed(store, everyone, self.search)
            self.write_hypotheses(split, hypotheses)
            metrics |= {f"{name}_{split}": rate for name, rate in rates.items()}
            tested = boundaries.boundary_errors(self.model, store, everyone)
            if place is not None and tested:
                metrics[f"boundary_error_ms_{split}"] = float(np.median(tested[place]))
        return metrics

    @property
    def _val_store(self) -> SpeechStore:
        store = self.data.val_store
        assert isinstance(store, SpeechStore)
        return store

    def _transcribed(
        self, store: PairStore, chosen: Sequence[int], search: Search
    ) -> tuple[list[str], dict[str, float]]:
        hypotheses = self.decoded(store, chosen, search)
        return hypotheses, error_rates(hypotheses, [store.pairs[i].target for i in chosen])

    def head_metrics(self) -> dict[str, dict[str, list[float]]]:
        """Returns the median error of word boundaries of each cross-attention head in
        milliseconds, if the data has word times.
        """
        store = self._val_store
        errors = boundaries.boundary_errors(self.model, store, spread(len(store), TIMED_UTTERANCES))
        found: dict[str, list[float]] = {}
        for place in sorted(errors):
            if place.head != boundaries.MEAN:
                name = f"decoder.layers.{place.layer}.cross_attention"
                found.setdefault(name, []).append(float(np.median(errors[place])))
        return {"boundary_error_ms": found} if found else {}

    def probe_store(self, text: str) -> PairStore:
        """Returns a WAV file, or a sentence that the run's data can speak."""
        utterance, _ = heard(text, self.data.source, "logging.probe")
        if not utterance.text:
            raise DataError("logging.probe: write 'FILE.wav ||| what is said' for a recording")
        return store_of([utterance], self.data.tokenizer, self.model.max_seq_len)

    def probe(self, name: str, store: PairStore, i: int) -> Probe:
        batch = store.batch(np.array([i]))
        texts = sound_texts(batch, self.data.tokenizer)
        assert isinstance(store, SpeechStore)
        pair = store.pairs[i]
        utterance = store.utterances[i] if store.utterances else self.data.source.utterance(pair)
        reading = pair_reading(batch, texts, self.data.tokenizer.token_text)
        return Probe(
            name,
            reading.inputs,
            texts.predicts,
            texts.source,
            f"{pair.target}\n({pair.source})",
            note=f"{ROW_NOTE}; times in seconds",
            site_tokens=texts.by_site,
            sound=key_sound(utterance, store.sources[i]),
            reading=reading,
        )

    def example(self) -> str:
        """Returns the shortest text of the validation split, if the data can speak it."""
        text = min((pair.target for pair in self.data.val_store.pairs), key=len)
        return text if self.data.source.speak(text) is not None else ""
