"""A trained masked language model, ready to fill gaps. Loads no Lightning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.data.tokenizer_base import Tokenizer, unknown_in
from attnkit.errors import DataError
from attnkit.tasks.masked_language_modeling.masking import MASK, encode_with_gaps, text_of
from attnkit.tasks.text_run import TextRun

SHOWN = 3
"""Number of predictions shown for each gap."""


@dataclass(frozen=True, repr=False)
class TrainedMaskedModel(TextRun):
    """A trained run of masked language modeling."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text in which `<|mask|>` marks a gap."""
        return encode_with_gaps(self.tokenizer, text)

    def token_text(self, token_id: int) -> str:
        """Returns the text of one token, for labels."""
        return text_of(self.tokenizer, token_id)

    def unknown_in(self, text: str) -> list[str]:
        """Returns the parts of a text that the vocabulary lacks, without its gaps."""
        return unknown_in(self.tokenizer, text.replace(MASK, ""))

    def fill(self, text: str) -> str:
        """Returns a text with its gaps, `<|mask|>`, filled with the likeliest tokens.

        Raises:
            DataError: if the text has no gap, or more tokens than the model reads.
        """
        ids = self.encode(text)
        if self.tokenizer.vocab_size not in ids:
            raise DataError(f"there is no gap in this text; mark it by {MASK}")
        if len(ids) > self.model.max_seq_len:
            raise DataError(
                f"the text has {len(ids)} tokens; the model reads {self.model.max_seq_len}"
            )
        guesses = self._probabilities(ids).argmax(dim=-1).tolist()
        filled = [
            guess if token == self.tokenizer.vocab_size else token
            for token, guess in zip(ids, guesses, strict=True)
        ]
        return self.tokenizer.readable(filled)

    def notes(self, ids: list[int]) -> list[str]:
        """Returns the model's predictions for each gap, with their probabilities."""
        gaps = [place for place, token in enumerate(ids) if token == self.tokenizer.vocab_size]
        if not gaps:
            return []
        likeliest = self._probabilities(ids)[gaps].topk(min(SHOWN, self.tokenizer.vocab_size))
        return [
            f"{MASK} at token {place}: "
            + ", ".join(
                f"{self.token_text(token)!r} {p:.0%}"
                for p, token in zip(ps.tolist(), tokens.tolist(), strict=True)
            )
            for place, ps, tokens in zip(gaps, *likeliest, strict=True)
        ]

    @torch.no_grad()
    def _probabilities(self, ids: list[int]) -> Tensor:
        """Returns (T, V), without the mask token itself."""
        tokens = torch.tensor([ids], device=self.model.embedding.weight.device)
        logits = self.model(tokens, torch.zeros_like(tokens))[0].float()
        return logits[:, : self.tokenizer.vocab_size].softmax(dim=-1)
