"""A trained speech run, ready to use: recipe, tokenizer and model. Loads no Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from attnkit.attention_page.text_maps import TextMaps
from attnkit.console import numbers_table
from attnkit.data.pair_batch import ROW_NOTE, pair_reading
from attnkit.data.reading import Reading
from attnkit.data.sound.log_mel import SECONDS
from attnkit.data.sound.wav import RATE
from attnkit.data.speech.base import SpeechSource, Utterance
from attnkit.data.speech_store import SpeechStore, sounds_of, speech_store
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.models.beam_search import Search
from attnkit.models.speech_model import SpeechModel
from attnkit.registry import SPEECH
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks.speech import boundaries
from attnkit.tasks.speech.hearing import heard, key_sound, sound_texts, store_of
from attnkit.tasks.trained_run import TrainedRun
from attnkit.tasks.translating import decoded_line, translate_ids
from attnkit.tasks.translation.alignment import MEAN, Place


class Word(NamedTuple):
    """A word with its start and end in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """The transcript of a sound.

    Attributes:
        name: name of the sound.
        text: the transcript.
        words: its words, with times.
        notes: remarks for the reader, such as that the sound was cut.
    """

    name: str
    text: str
    words: list[Word]
    notes: list[str]


@dataclass(frozen=True, repr=False)
class Transcriber(TrainedRun):
    """A trained speech run.

    Attributes:
        tokenizer: tokenizer of the texts.
    """

    model: SpeechModel
    tokenizer: Tokenizer

    evaluation_options: ClassVar[tuple[str, ...]] = ("--beam", "--length-penalty")

    def search(self, **options: Any) -> Search:
        """Returns the recipe's search with other options (None: unchanged)."""
        own = self.recipe.definition.search
        found = {"beam": own.beam, "length_penalty": own.length_penalty}
        return Search(**(found | {k: v for k, v in options.items() if v is not None}))

    @property
    def source(self) -> SpeechSource:
        """The data of the run."""
        return SPEECH.build(self.recipe.data)

    def place(self) -> Place:
        """Returns the place for word times: the head that was best on the run's validation split;
        if that is unknown, the mean of the heads of the last layer.
        """
        try:
            found = self.result["boundaries_from"]
            return Place(int(found["layer"]), int(found["head"]), "predicting")
        except (RunDirectoryError, KeyError):
            return Place(len(self.model.decoder.layers) - 1, MEAN, "predicting")

    def transcribe(self, sounds: Sequence[str], search: Search | None = None) -> list[Transcript]:
        """Transcribes sounds; reads all of them before it transcribes the first.

        Args:
            sounds: WAV files, or sentences that the run's data can speak.
            search: options of the search; None: those of the recipe.

        Raises:
            DataError: if a file is missing or broken, or a sentence cannot be spoken.
        """
        read = [heard(sound, self.source, "sound") for sound in sounds]
        found = self.of_utterances([utterance for utterance, _ in read], search)
        return [
            replace(transcript, notes=[*changes, *transcript.notes])
            for transcript, (_, changes) in zip(found, read, strict=True)
        ]

    def of_utterances(
        self, utterances: Sequence[Utterance], search: Search | None = None
    ) -> list[Transcript]:
        """Transcribes sounds, with the time of each word.

        Args:
            utterances: sounds, whose texts are not used.
            search: options of the search; None: those of the recipe.
        """
        if not utterances:
            return []
        sounds = store_of(utterances, self.tokenizer, self.model.max_seq_len)
        best = translate_ids(
            self.model, sounds.sources, sounds.pad_sources, sounds.ends[1], search or self.search()
        )
        texts = [decoded_line(self.tokenizer, one[0]) for one in best]
        written = [one._replace(text=t) for one, t in zip(utterances, texts, strict=True)]
        store, place = store_of(written, self.tokenizer, self.model.max_seq_len), self.place()
        room = (self.model.max_seq_len - 1) * SECONDS
        found = []
        for i, one in enumerate(written):
            words: list[Word] = []
            if one.text.strip():
                batch = store.batch(np.array([i]))
                inputs = (batch.source, batch.source_keep, batch.target)
                maps = boundaries.cross_weights(self.model, inputs)
                times = boundaries.word_times(one.text, boundaries.stretches(maps[place][0]))
                words = [
                    Word(word, *span) for word, span in zip(one.text.split(), times, strict=True)
                ]
            seconds = len(one.samples) / RATE
            long = f"cut: it lasts {seconds:.1f} s, but the model reads at most {room:.1f} s"
            found.append(Transcript(one.name, one.text, words, [long] if seconds > room else []))
        return found

    def attention(self, text: str) -> TextMaps:
        """Returns the exact maps of encoder, decoder, and from letters to sound.

        Args:
            text: `FILE.wav`, which the run transcribes; `FILE.wav ||| what is said`; or a sentence
                that the run's data can speak.

        Raises:
            DataError: if the file is broken, or the data cannot speak the sentence.
        """
        store, notes = self._heard(text, "--text")
        batch = store.batch(np.array([0]))
        texts = sound_texts(batch, self.tokenizer)
        return self.maps_of(
            batch,
            texts.predicts,
            texts.source,
            note=f"{ROW_NOTE}; times in seconds",
            notes=notes,
            site_tokens=texts.by_site,
            sound=key_sound(store.utterances[0], store.sources[0]),
        )

    def reading(self, text: str, option: str = "--text") -> Reading:
        store, notes = self._heard(text, option)
        batch = store.batch(np.array([0]))
        texts = sound_texts(batch, self.tokenizer)
        return pair_reading(batch, texts, self.tokenizer.token_text, notes)

    def _heard(self, text: str, option: str) -> tuple[SpeechStore, list[str]]:
        """Returns a sound with its transcript, and remarks."""
        utterance, changes = heard(text, self.source, option)
        (transcript,) = self.of_utterances([utterance])
        notes = [*changes, *transcript.notes, f"transcribed: {transcript.text}"]
        if not utterance.text:
            utterance = utterance._replace(text=transcript.text)
        return store_of([utterance], self.tokenizer, self.model.max_seq_len), notes

    def evaluate(
        self,
        data: Sequence[str] = (),
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Yields tables of error rates and word boundaries.

        Args:
            data: splits of the run's data; empty: its test splits.
            beam: number of hypotheses; None: that of the recipe.
            length_penalty: length penalty of the search; None: that of the recipe.
            options: none.
        """
        source, search = self.source, self.search(beam=beam, length_penalty=length_penalty)
        for split in data or source.test_splits:
            source.check_split(split)
        for split in data or source.test_splits:
            store = speech_store(
                list(source.pairs(split)),
                sounds_of(source, split),
                self.tokenizer,
                split=split,
                max_seq_len=self.model.max_seq_len,
                keep_all=True,
            )
            best = translate_ids(
                self.model, store.sources, store.pad_sources, store.ends[1], search
            )
            hypotheses = [decoded_line(self.tokenizer, one[0]) for one in best]
            rates = error_rates(hypotheses, [pair.target for pair in store.pairs])
            table = numbers_table(f"{split}, {len(store):,} utterances")
            for name, rate in rates.items():
                table.add_row(name.replace("_", " "), f"{rate:.2f} %")
            errors = boundaries.boundary_errors(self.model, store, range(len(store)))
            if errors:
                place = self.place()
                median = float(np.median(errors[place]))
                table.add_row("word boundaries", f"{median:.0f} ms", f"median, {place}")
            yield table


def error_rates(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns the edits of a corpus in percent of the length of its references: of characters
    (CER) and of words (WER).

    Args:
        hypotheses: the transcripts.
        references: the true texts.
    """
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    arguments = list(hypotheses), list(references)
    return {
        "character_error_rate": 100 * float(char_error_rate(*arguments)),
        "word_error_rate": 100 * float(word_error_rate(*arguments)),
    }
