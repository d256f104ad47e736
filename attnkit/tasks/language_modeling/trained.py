"""A trained language model, ready to continue a text. Loads no Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnkit.data.tokenizer_base import Tokenizer
from attnkit.models.decoding import generate
from attnkit.tasks import text_evaluation
from attnkit.tasks.language_modeling.evaluation import measure
from attnkit.tasks.text_run import TextRun


@dataclass(frozen=True, repr=False)
class TrainedLanguageModel(TextRun):
    """A trained run of language modeling."""

    tokenizer: Tokenizer

    evaluation_options: ClassVar[tuple[str, ...]] = ("--length",)

    def answers(self, ids: list[int]) -> list[int | None]:
        """Returns the token that follows each one."""
        return [*ids[1:], None]

    def stream(self, prompt: str, max_new_tokens: int = 300, **options: Any) -> Iterator[str]:
        """Yields the text that follows a prompt, piece by piece; `options` are those of `generate`.

        Raises:
            ValueError: if the prompt is empty or an option is out of range.
        """
        tokenizer = self.tokenizer
        ids: list[int] = []
        shown = ""
        for token in self._drawn(prompt, 1, max_new_tokens, options):
            ids.append(int(token))
            text = tokenizer.readable(ids)
            # A part of a character: wait for the rest.
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
        if rest := tokenizer.readable(ids)[len(shown) :]:  # an incomplete last character
            yield rest

    def generate_several(
        self, prompt: str, num_samples: int, max_new_tokens: int = 300, **options: Any
    ) -> list[str]:
        """Returns several texts that follow one prompt, drawn in one batch; `options` and errors as
        for `stream`.
        """
        drawn = list(self._drawn(prompt, num_samples, max_new_tokens, options))
        if not drawn:
            return [""] * num_samples
        return [self.tokenizer.readable(row) for row in torch.stack(drawn, dim=1).tolist()]

    def _drawn(
        self, prompt: str, num_samples: int, max_new_tokens: int, options: dict[str, Any]
    ) -> Iterator[Tensor]:
        """Yields the tokens (num_samples,) that follow a prompt."""
        ids = self.tokenizer.prompt(prompt)
        start = torch.tensor([ids] * num_samples, dtype=torch.long)
        start = start.to(self.model.embedding.weight.device)
        options = {"end_token": self.tokenizer.end_of_document_id, **options}
        return generate(self.model, start, max_new_tokens, **options)

    def evaluate(
        self, data: Sequence[str] = (), *, length: Sequence[int] = (), **options: Any
    ) -> Iterator[Any]:
        """Yields tables of loss, bits per byte and perplexity.

        Args:
            data: splits of the run's data, or files of text; empty: the validation split.
            length: tokens of a window; empty: that of the model.
            options: none.
        """
        for found in measure(self, data, length):
            yield from text_evaluation.shown(found, self.model.max_seq_len)
