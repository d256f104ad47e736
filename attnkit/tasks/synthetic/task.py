"""Synthetic tasks: predicts the answers in a sequence."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from attnkit.data.batch import filled_up
from attnkit.data.pair_batch import IGNORED
from attnkit.data.synthetic_batches import (
    SyntheticBatch,
    SyntheticEvalBatches,
    answer_sums,
    means,
)
from attnkit.data.synthetic_data import SyntheticData
from attnkit.errors import DataError
from attnkit.models.language_model import LanguageModel
from attnkit.training.probe import Probe, answering_probe
from attnkit.training.task import Task

SAMPLES = 3
"""Validation sequences in a sample."""

LINE = 96
"""Characters per line of a sample."""


class SyntheticTask(Task):
    """Mean cross-entropy of the answers, in nats; nothing else in a sequence counts.

    Metrics during training are from the validation set, the final ones from the test sets.

    Args:
        model: the language model.
        data: the task.
        arguments: as for every task.
        options: as for every task.
    """

    size_keys = ("trainer.batch_size", "data.length")

    model: LanguageModel
    data: SyntheticData

    def __init__(
        self, model: LanguageModel, data: SyntheticData, *arguments: Any, **options: Any
    ) -> None:
        varied = len(data.source.train_lengths) > 1
        super().__init__(model, data, *arguments, dynamic_shapes=varied, **options)
        self._sums: defaultdict[int, list[Tensor]] = defaultdict(list)

    def losses(self, batch: SyntheticBatch) -> dict[str, Tensor]:
        documents = torch.zeros_like(batch.tokens)  # a sequence is one document
        return {"cross_entropy": self.run_model(batch.tokens, documents, targets=batch.targets)}

    def _logits(self, tokens: Tensor) -> Tensor:
        # The compiled model computes the shapes of training: a smaller last batch is padded, and
        # other lengths, which occur at the end of a run, use the plain model.
        if not self.compile_model or tokens.shape[1] not in self.data.source.train_lengths:
            return self.model(tokens, torch.zeros_like(tokens))
        full = filled_up(tokens, self.data.batch_size)
        return self.run_model(full, torch.zeros_like(full))[: len(tokens)]

    def validation_step(self, batch: SyntheticBatch, batch_idx: int) -> None:
        sums = answer_sums(self._logits(batch.tokens), batch.targets)
        self._sums[batch.tokens.shape[1]].append(sums)

    def metrics(self) -> dict[str, float]:
        """Returns the loss, the share of right answers, and the share of sequences with right
        answers only; at the end also the share of right answers at each further length.
        """
        found = {length: means(sums) for length, sums in self._sums.items()}
        self._sums.clear()
        source = self.data.source
        further = source.test_lengths if self.is_final else ()
        lengths = {f"accuracy_length_{length}": found[length]["accuracy"] for length in further}
        return found[source.length] | lengths

    def val_batches(self) -> SyntheticEvalBatches:
        """Returns the validation set; the test sets at the end."""
        if self.is_final:
            return self.data.final_batches()
        return self.data.val_batches(self.data.val_max_tokens)

    def num_targets(self, batch: SyntheticBatch) -> int:
        """Returns the number of answers."""
        return int((batch.targets != IGNORED).sum())

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        """Returns the first validation sequence, or the given tokens. It is complete, whatever
        `num_tokens` is, since most tasks have their answers at the end.

        Raises:
            DataError: if a word is not a token of the task, or there are none or too many.
        """
        tokenizer = self.data.tokenizer
        if text is None:
            (tokens, targets), *_ = self.data.val_batches(1)
            ids, asked = tokens[0].tolist(), targets[0].tolist()
        else:
            ids = tokenizer.encode(text).ids
            asked = [IGNORED] * len(ids)
            if not 0 < len(ids) <= self.model.max_seq_len:
                raise DataError(
                    f"logging.probe has {len(ids)} tokens; it must have from 1 to "
                    f"model.max_seq_len {self.model.max_seq_len}, with spaces between them"
                )
        return [answering_probe(ids, asked, tokenizer.token_text)]

    @torch.no_grad()
    def sample(self, final: bool = False) -> str:
        """Returns validation sequences with the expected and the predicted answers."""
        batch = self.data.val_batches(SAMPLES * self.data.source.length).batches
        tokens, targets = (torch.cat(parts) for parts in zip(*batch, strict=True))
        training = self.model.training
        self.model.eval()
        said = self.model(tokens.to(self.device), torch.zeros_like(tokens).to(self.device))
        self.model.train(training)
        shown = []
        for read, asked, answers in zip(tokens, targets, said.argmax(dim=-1).cpu(), strict=True):
            rows = {
                "prompt": self._words(read, read),
                "answer": self._words(asked, asked),
                "model": self._words(answers, asked),
            }
            shown.append(side_by_side(rows))
        return "\n\n".join(shown)

    def example(self) -> str:
        """Returns the first sequence of the validation set."""
        tokens, _ = self.data.val_batches(self.data.source.length).batches[0]
        return self.data.tokenizer.decode(tokens[0].tolist())

    def _words(self, tokens: Tensor, asked: Tensor) -> list[str]:
        """Returns the texts of tokens where answers are expected, and empty texts elsewhere."""
        pairs = zip(tokens.tolist(), asked.tolist(), strict=True)
        name = self.data.tokenizer.token_text
        return ["" if answer == IGNORED else name(token) for token, answer in pairs]


def side_by_side(rows: dict[str, list[str]]) -> str:
    """Returns rows of words below each other, in columns, with line breaks at the same places. A
    row without words in a line is left out of it.
    """
    label = max(map(len, rows)) + 2
    width = 1 + max(len(word) for words in rows.values() for word in words)
    columns = max((LINE - label) // width, 1)
    lines = []
    for start in range(0, max(map(len, rows.values())), columns):
        for name, words in rows.items():
            part = words[start : start + columns]
            if any(part):
                line = name.ljust(label) + "".join(word.ljust(width) for word in part)
                lines.append(line.rstrip())
    return "\n".join(lines)
