"""The contract of sources of speech: sounds and their transcripts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attnkit.data.pairs.base import Pair, PairSource
from attnkit.data.sound.formants import Span


class Utterance(NamedTuple):
    """A spoken text.

    Attributes:
        name: voice or file, for display.
        text: the transcript.
        samples: (N,) float32 at `sound.wav.RATE`.
        words: start and end of each word of the text in seconds; None: unknown.
    """

    name: str
    text: str
    samples: np.ndarray
    words: tuple[Span, ...] | None = None


class SpeechSource(PairSource):
    """Utterances in named splits, in a fixed order. As pairs: the names of sounds and their texts.

    A subclass takes its options as keyword-only parameters, and reads no data in `__init__`.
    """

    source_language = "speech"
    target_language = "text"

    @abstractmethod
    def pairs(self, split: str) -> Iterator[Pair]:
        """Yields name and text of each utterance, without its sound."""

    @abstractmethod
    def utterance(self, pair: Pair) -> Utterance:
        """Returns the sound of one of the pairs.

        Raises:
            DataError: if it is missing or damaged.
        """

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yields the utterances of a split, in the order of `pairs`.

        Raises:
            DataError: if the data is missing or damaged, or the split does not exist.
        """
        yield from map(self.utterance, self.pairs(split))

    def speak(self, text: str) -> Utterance | None:
        """Speaks a text that is not in the data; None: the source cannot. Default: None.

        Raises:
            DataError: if a letter has no sound.
        """
        return None
