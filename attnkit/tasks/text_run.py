"""The base of trained runs whose model reads one sequence of tokens. Loads no Lightning."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnkit.attention_page.text_maps import TextMaps
from attnkit.data.reading import Reading
from attnkit.data.symbols import Symbols
from attnkit.data.tokenizer_base import Tokenizer, unknown_in
from attnkit.errors import DataError
from attnkit.models.language_model import LanguageModel
from attnkit.tasks.trained_run import TrainedRun


@dataclass(frozen=True, repr=False)
class TextRun(TrainedRun):
    """A run whose model reads one sequence of tokens.

    Attributes:
        tokenizer: the run's own vocabulary.
    """

    model: LanguageModel
    tokenizer: Tokenizer | Symbols

    def attention(self, text: str) -> TextMaps:
        """Returns the exact maps of every layer and head on a text.

        Raises:
            DataError: if the text has no token, or, for a synthetic task, an unknown one.
            RunDirectoryError: if the model has no layers.
        """
        reading = self.reading(text)
        return self.maps_of(reading.inputs, reading.tokens, notes=reading.notes)

    def reading(self, text: str, option: str = "--text") -> Reading:
        notes = []
        if unknown := self.unknown_in(text):
            notes.append(f"the run's vocabulary lacks {', '.join(map(repr, unknown))}")
        ids = self.encode(text)
        if not ids:
            raise DataError(f"{option} is empty; give it at least one character")
        longest = self.model.max_seq_len
        if len(ids) > longest:
            notes.append(f"{len(ids)} tokens; the model reads the first {longest}")
            ids = ids[:longest]
        tokens = torch.tensor([ids])
        return Reading(
            (tokens, torch.zeros_like(tokens)),
            "",
            [self.token_text(i) for i in ids],
            self.answers(ids),
            self.token_text,
            [*notes, *self.notes(ids)],
        )

    def answers(self, ids: list[int]) -> list[int | None]:
        """Returns the token to predict at each position, None if it is unknown. Default: None."""
        return [None] * len(ids)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a user's text."""
        return self.tokenizer.encode(text).ids

    def token_text(self, token_id: int) -> str:
        """Returns the text of one token, for labels."""
        return self.tokenizer.token_text(token_id)

    def notes(self, ids: list[int]) -> list[str]:
        """Returns remarks on the maps of these tokens. Default: none."""
        return []

    def unknown_in(self, text: str) -> list[str]:
        """Returns the parts of a text that the model reads as `<|unknown|>`, each once."""
        return unknown_in(self.tokenizer, text)
