"""Data for speech to text: sounds and their transcripts, served in batches."""

from __future__ import annotations

from attnkit.data.sound.log_mel import FEATURES
from attnkit.data.sources.base import Part
from attnkit.data.speech.base import SpeechSource
from attnkit.data.speech_store import Sounds, SpeechStore, sounds_of, speech_store
from attnkit.data.split_parts import half_of
from attnkit.data.translation import TranslationData
from attnkit.errors import DataError


class SpeechData(TranslationData):
    """A source of speech and the vocabulary of its texts. Reads nothing before `prepare`.

    The sides of a pair are positions of 40 ms and tokens. Arguments are those of `TranslationData`
    without `target_tokenizer`, since a sound has no tokens.
    """

    source: SpeechSource
    joint_sides = ("target",)

    def make_store(self, split: str, part: Part = "all", *, keep_all: bool = False) -> SpeechStore:
        pairs, sounds = list(self.source.pairs(split)), sounds_of(self.source, split)
        chosen = half_of(range(len(pairs)), part)
        if not chosen:
            raise DataError(f"the {split} split is empty")
        return speech_store(
            [pairs[i] for i in chosen],
            Sounds([sounds.features[i] for i in chosen], [sounds.words[i] for i in chosen]),
            self.tokenizer,
            split=split,
            max_seq_len=self.max_seq_len,
            keep_all=keep_all,
        )

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Size of the vocabulary, and number of features per position of a sound."""
        return self.tokenizer.vocab_size, FEATURES
