"""Masked language modeling: predicts the tokens that are missing from a text."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.data.batch import filled_up
from attnkit.data.pair_batch import IGNORED
from attnkit.data.tokenizer_base import UNREADABLE
from attnkit.errors import DataError
from attnkit.listeners.listener import Listener
from attnkit.models.influence import measure_later_influence
from attnkit.models.language_model import LanguageModel
from attnkit.tasks.masked_language_modeling.masking import (
    MASK,
    MaskedBatch,
    MaskedData,
    encode_with_gaps,
    pseudo_perplexity,
    text_of,
)
from attnkit.training.probe import Probe, answering_probe
from attnkit.training.task import Task

log = logging.getLogger("attnkit")

SAMPLES = 3
"""Number of validation windows that are shown with the model's predictions."""

SAMPLE_TOKENS = 40
"""Tokens of each of these windows."""

ONE_SIDE = (
    "no prediction sees a later token (model.mask): a gap is predicted only from the text before "
    "it; model.mask=none shows both sides"
)


class MaskedLanguageModelingTask(Task):
    """Mean cross-entropy of the missing tokens, in nats.

    Args:
        model: a language model for the vocabulary of the text and the mask token.
        data: prepared data.
        arguments: as for every task.
        windows: number of validation windows for the final pseudo-perplexity; 0: none.
        options: as for every task.
    """

    model: LanguageModel
    data: MaskedData
    equal_batches = True

    def __init__(
        self, model: LanguageModel, data: MaskedData, *arguments: Any, windows: int, **options: Any
    ) -> None:
        super().__init__(model, data, *arguments, **options)
        self.windows = windows
        self.sees_both_sides = True

    def losses(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """Returns the mean cross-entropy of the missing tokens, in nats."""
        loss = self.run_model(batch.tokens, batch.documents, targets=batch.targets)
        return {"cross_entropy": loss}

    def measure(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """The loss, and the share of missing tokens that are the likeliest at their place."""
        tokens, documents = batch.tokens, batch.documents
        if self.compile_model:  # compiled for one shape: a last, smaller batch is filled up
            tokens = filled_up(tokens, self.data.batch_size)
            documents = None if documents is None else filled_up(documents, len(tokens))
        logits = self.run_model(tokens, documents)[: len(batch.tokens)]
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORED
        )
        right = (logits.argmax(dim=-1) == batch.targets).sum()  # none of what is ignored
        return {"loss": loss, "accuracy": right / self.num_targets(batch)}

    def metrics(self) -> dict[str, float]:
        """Returns loss and accuracy; at the end also the pseudo-perplexity."""
        metrics = self.means()
        if self.is_final and self.windows:
            batches = self.data.val_text(self.windows * self.data.max_seq_len)
            metrics["pseudo_perplexity"] = pseudo_perplexity(
                self.model,
                batches,
                self.data.masking.mask_id,
                self.device,
                rows=self.data.batch_size,
            )
        return metrics

    def num_targets(self, batch: MaskedBatch) -> int:
        """Returns the number of missing tokens, which is the same in each window."""
        return len(batch.tokens) * self.data.masking.count(batch.tokens.shape[1])

    def before_training(self) -> None:
        """Measures whether predictions see later tokens at all."""
        self.sees_both_sides = measure_later_influence(self.model).num_moved > 0

    def log_start(self, listeners: Listener) -> None:
        """Warns if the mask hides one side of a gap."""
        if not self.sees_both_sides:
            log.warning(ONE_SIDE)
            listeners.text("warning", ONE_SIDE, 0)

    def record(self) -> dict[str, Any]:
        """Returns whether predictions see both sides of a gap, and shares of the data."""
        return {
            "sees_both_sides": self.sees_both_sides,
            "validation_share": self.data.val_batches(self.data.final_max_tokens).share,
            "unknown_share": self.data.val_store.unknown_share,
        }

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        """Returns the start of the validation split with gaps, or a text in which `<|mask|>` marks
        them.

        Raises:
            DataError: if the text is empty.
        """
        num_tokens = min(num_tokens, self.model.max_seq_len)
        if text is None:
            read, asked, *_ = (part[0, :num_tokens] for part in self.data.val_batches(1)[0][:2])
            ids, answers = read.tolist(), asked.tolist()
        else:
            ids = encode_with_gaps(self.data.tokenizer, text)[:num_tokens]
            answers = [IGNORED] * len(ids)
        if not ids:
            raise DataError("logging.probe is empty; write a text, or null for validation text")
        text = "".join(self._words(ids))
        note = f"; {MASK} is a gap"
        return [answering_probe(ids, answers, self._word, text=text, note=note)]

    @torch.no_grad()
    def sample(self, final: bool = False) -> str:
        """Returns validation text: with gaps, with the model's predictions, and complete."""
        batch = self.data.val_batches(SAMPLES * self.data.max_seq_len)[0]
        training = self.model.training
        self.model.eval()
        tokens = batch.tokens.to(self.device)
        documents = None if batch.documents is None else batch.documents.to(self.device)
        guesses = self.model(tokens, documents).argmax(dim=-1).cpu()
        self.model.train(training)
        shown = []
        for read, asked, guess in list(zip(batch.tokens, batch.targets, guesses, strict=True))[
            :SAMPLES
        ]:
            is_asked = (asked != IGNORED).tolist()
            text = torch.where(asked != IGNORED, asked, read).tolist()
            said = torch.where(asked != IGNORED, guess, read).tolist()
            shown.append(
                f"read   {self._line(read.tolist(), is_asked)}\n"
                f"model  {self._line(said, is_asked)}\n"
                f"text   {self._line(text, is_asked)}"
            )
        return "\n\n".join(shown)

    def example(self) -> str:
        """Returns the first words of the validation split, with a gap."""
        tokens = self.data.val_store.tokens[: self.model.max_seq_len].astype("int64").tolist()
        words = [w for w in self.data.tokenizer.readable(tokens).split() if UNREADABLE not in w][:6]
        return " ".join([*words[:2], MASK, *words[3:]]) if len(words) > 2 else MASK

    def _words(self, ids: list[int]) -> list[str]:
        return [self._word(token) for token in ids]

    def _word(self, token: int) -> str:
        return text_of(self.data.tokenizer, token)

    def _line(self, ids: list[int], is_asked: list[bool]) -> str:
        """Returns tokens as one line, those of gaps in brackets."""
        words = [
            f"[{word}]" if asked else word
            for word, asked in zip(self._words(ids), is_asked, strict=True)
        ]
        return " ".join("".join(words[:SAMPLE_TOKENS]).split())
