"""Reads the sounds that a user names, as inputs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attnkit.data.pair_batch import PairTexts, TranslationBatch
from attnkit.data.pairs.base import Pair
from attnkit.data.sound.log_mel import SECONDS, STACK, log_mel, spectrogram
from attnkit.data.sound.wav import RATE, read_wav
from attnkit.data.speech.base import SpeechSource, Utterance
from attnkit.data.speech_store import Sounds, SpeechStore, speech_store
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.errors import DataError
from attnkit.tensorboard.key_sound import KeySound


class Heard(NamedTuple):
    """A sound that a user named; its text is empty if it is unknown.

    Attributes:
        utterance: the sound.
        changes: conversions of a file, see `Recording`.
    """

    utterance: Utterance
    changes: tuple[str, ...]


def heard(text: str, source: SpeechSource, option: str) -> Heard:
    """Returns a sound that a user names: `FILE.wav`, `FILE.wav ||| what is said`, or a sentence
    that the data can speak.

    Args:
        text: the user's text.
        source: the data of the run.
        option: option that the text is from, for messages.

    Raises:
        DataError: if the file is missing or broken, or the data cannot speak the sentence.
    """
    name, _, said = (part.strip() for part in text.partition("|||"))
    if name.lower().endswith(".wav"):
        recording = read_wav(Path(name).expanduser())
        utterance = Utterance(name, " ".join(said.split()), recording.samples)
        return Heard(utterance, recording.changes)
    utterance = source.speak(" ".join(text.split())) if text.strip() else None
    if utterance is None:
        raise DataError(f"{option}: {text!r} is not a sound; name a WAV file")
    return Heard(utterance, ())


def store_of(
    utterances: Sequence[Utterance], tokenizer: Tokenizer, max_seq_len: int
) -> SpeechStore:
    """Returns utterances as the model reads them; long ones are truncated.

    Args:
        utterances: at least one.
        tokenizer: tokenizer of the texts.
        max_seq_len: longest sequence of the model.
    """
    store = speech_store(
        [Pair(utterance.name, utterance.text) for utterance in utterances],
        Sounds(
            [log_mel(utterance.samples) for utterance in utterances],
            [utterance.words for utterance in utterances],
        ),
        tokenizer,
        split="heard",
        max_seq_len=max_seq_len,
        keep_all=True,
    )
    return replace(store, utterances=utterances)


def sound_texts(batch: TranslationBatch, tokenizer: Tokenizer) -> PairTexts:
    """Returns the labels of maps of one utterance: seconds and letters."""
    count = batch.source.shape[1]
    seconds = [f"{position * SECONDS:.2f}" for position in range(count)]
    reads, predicts = (
        [tokenizer.token_text(token) for token in tokens[0].tolist()]
        for tokens in (batch.target, batch.predicted)
    )
    return PairTexts(seconds, reads, predicts)


def key_sound(utterance: Utterance, features: np.ndarray) -> KeySound:
    """Returns a sound for display beside a map of its positions.

    Args:
        utterance: the sound.
        features: (S, F), its features.
    """
    picture = spectrogram(features)
    half = STACK // 2  # a position is centred at its first frame
    strip = np.pad(picture, ((0, 0), (half, 0)), mode="edge")[:, :-half]
    heard = utterance.samples[: round(len(features) * SECONDS * RATE)]
    samples = np.clip(32767 * heard, -32768, 32767).astype(np.int16)
    return KeySound((255 * strip).astype(np.uint8), samples, RATE)
