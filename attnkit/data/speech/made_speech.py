"""Generated sentences, spoken by a synthesiser."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Literal

from attnkit.data.pairs.base import Pair, SplitByText, sha256_of_texts
from attnkit.data.sound import espeak, formants
from attnkit.data.speech.base import SpeechSource, Utterance
from attnkit.data.spoken_words import sentence
from attnkit.errors import DataError
from attnkit.registry import SPEECH

VERSION = "1"
"""Version of sentences and sounds; increased when either changes."""


@SPEECH.register("made_speech")
class MadeSpeech(SpeechSource):
    """Numbers, dates and everyday words, spoken in several voices; no download.

    `known_voices` and `new_voices` are test sets: new sentences in the voices of training, and in
    voices that do not occur in training. Word times are those of the synthesiser, so they are
    exact.

    Args:
        voices: `formants`: the kit's own synthesiser, with a sound for each letter; `espeak`:
            English by espeak-ng, which must be installed, word by word.
        num_train: number of training sentences.
        num_val: number of validation sentences, and of each test set.
        data_seed: draws sentences and voices, independently of the run's seed.
    """

    def __init__(
        self,
        *,
        voices: Literal["formants", "espeak"] = "formants",
        num_train: int = 3000,
        num_val: int = 150,
        data_seed: int = 0,
    ) -> None:
        if min(num_train, num_val) < 1:
            raise DataError("data.num_train and data.num_val must be at least 1")
        self.voices = voices
        self.num_train = num_train
        self.num_val = num_val
        self.data_seed = data_seed
        self._speaker: Any = espeak if voices == "espeak" else formants
        self._split_of = SplitByText({"val": 10, "known_voices": 10, "new_voices": 10})

    @property
    def test_splits(self) -> tuple[str, ...]:
        return ("known_voices", "new_voices")

    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields voice and text; no text is in two splits."""
        self.check_split(split)
        voices = self._speaker.HELD_OUT if split == "new_voices" else self._speaker.KNOWN
        draw = random.Random(f"{self.data_seed} {split}")
        seen: set[str] = set()
        while len(seen) < (self.num_train if split == "train" else self.num_val):
            text = sentence(draw)
            if text not in seen and self._split_of(text) == split:
                seen.add(text)
                yield Pair(draw.choice(voices).name, text)

    def utterance(self, pair: Pair) -> Utterance:
        voices = (*self._speaker.KNOWN, *self._speaker.HELD_OUT)
        (voice,) = (voice for voice in voices if voice.name == pair.source)
        return Utterance(voice.name, pair.target, *self._speaker.speak(pair.target, voice))

    def speak(self, text: str) -> Utterance | None:
        try:
            return self.utterance(Pair(self._speaker.KNOWN[0].name, text))
        except ValueError as error:
            raise DataError(f"{text!r} cannot be spoken: {error}") from error

    def fingerprint(self) -> str:
        options = [self.voices, self.num_train, self.num_val, self.data_seed]
        voices = [*self._speaker.KNOWN, *self._speaker.HELD_OUT]
        about = ["made_speech", VERSION, self._speaker.version(), *map(str, [*options, *voices])]
        return sha256_of_texts(about)

    def describe(self) -> dict[str, Any]:
        return {
            "source": f"generated sentences, spoken by {self._speaker.version()}",
            "licence": "none needed",
            "voices": [voice.name for voice in self._speaker.KNOWN],
            "new_voices": [voice.name for voice in self._speaker.HELD_OUT],
            "pairs": {"train": self.num_train, "val": self.num_val}
            | dict.fromkeys(self.test_splits, self.num_val),
            "sha256": self.fingerprint(),
        }
