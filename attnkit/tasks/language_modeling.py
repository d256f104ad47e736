"""Language modeling: predict each next token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from attnkit.data.batch import LanguageBatch
from attnkit.data.errors import DataError
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.models.decoding import generate
from attnkit.models.influence import sees_later_tokens
from attnkit.models.language_model import LanguageModel
from attnkit.tasks.base import Probe, Task
from attnkit.tasks.optimizers import OptimizerRecipe
from attnkit.tasks.schedules import Schedule

SAMPLE_TOKENS = 100
"""Length of a sample while training, which waits for it: about 2 ms a token on a CPU."""

FINAL_SAMPLE_TOKENS = 300
"""Length of the sample at the end of a run."""


class LanguageModelingTask(Task):
    """Mean cross-entropy of the next token, in nats.

    Where a mask shows *some* positions a later token (a prefix), their predictions are left out of
    the loss: they have seen the answer. Where it shows all of them one (no mask), nothing would be
    left, so all count, and `loss_is_honest` says that the loss is none of a language model.

    Args:
        model: the language model.
        data: prepared data.
        optimizer: makes the optimizer.
        schedule: the learning rate's shape.
        max_steps: optimizer steps of the whole run.
        accumulate: batches an optimizer step.
        num_workers: processes that load batches.
        seed: of the run.
        gradient_clip: largest norm of the gradient; None: no limit.
        compile_model: run the model through `torch.compile`.
    """

    model: LanguageModel

    def __init__(
        self,
        model: LanguageModel,
        data: LanguageModelingData,
        optimizer: OptimizerRecipe,
        schedule: Schedule,
        *,
        max_steps: int,
        accumulate: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        gradient_clip: float | None = 1.0,
        compile_model: bool = False,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            schedule,
            max_steps=max_steps,
            seed=seed,
            gradient_clip=gradient_clip,
            compile_model=compile_model,
        )
        self.data = data
        self.accumulate = accumulate
        self.num_workers = num_workers
        self.whole_split = False
        leaks = sees_later_tokens(model.mask, model.max_seq_len, len(model.layers))
        self.loss_is_honest = not bool(leaks[:-1].all()) or len(leaks) == 1
        partial = bool(leaks.any()) and self.loss_is_honest
        self._scored = torch.nonzero(~leaks).flatten().tolist() if partial else None
        self._val_loss = MeanMetric()

    def loss(self, batch: LanguageBatch) -> Tensor:
        """Mean cross-entropy of the predictions that count, in nats a token."""
        logits = self.run_model(batch.tokens, batch.documents)
        targets = batch.targets
        if self._scored is not None:
            logits, targets = logits[:, self._scored], targets[:, self._scored]
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def training_step(self, batch: LanguageBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        return self.loss(batch)

    def validation_step(self, batch: LanguageBatch, batch_idx: int) -> None:
        """Adds one batch to the mean, weighted by its tokens."""
        self._val_loss.update(self.loss(batch), self.num_tokens(batch))

    def on_validation_epoch_end(self) -> None:
        """Logs the loss in nats a token, in bits a byte (comparable across tokenizers) and as
        perplexity.
        """
        loss = float(self._val_loss.compute())
        self._val_loss.reset()
        metrics = {
            "loss/val": loss,
            "quality/bits_per_byte": loss / math.log(2) / self.data.bytes_per_token,
            "quality/perplexity": math.exp(min(loss, 700.0)),
        }
        if self.whole_split:
            metrics = {f"final/{name.partition('/')[2]}": value for name, value in metrics.items()}
            metrics["final/loss"] = metrics.pop("final/val")
        # Lightning would write them a step too early: it counts the step when validation is over.
        self.log_dict(metrics, logger=False)
        for logger in self.loggers:
            logger.log_metrics(metrics, self.global_step)

    def train_dataloader(self) -> DataLoader:
        """The batches of all steps; batch n is a function of (seed, n) alone."""
        batches = self.data.train_batches(
            0, self.max_steps * self.accumulate, self.trainer.global_rank, self.trainer.world_size
        )
        return self._loader(batches)

    def val_dataloader(self) -> DataLoader:
        """Fixed windows spread over the validation split; all of it if `whole_split` is set."""
        return self._loader(
            self.data.val_batches(None if self.whole_split else self.data.val_max_tokens)
        )

    def _loader(self, batches: Any) -> DataLoader:
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=False,
        )

    def num_tokens(self, batch: LanguageBatch) -> int:
        """B x T."""
        return batch.tokens.numel()

    def probe(self, num_tokens: int, text: str | None) -> Probe:
        """The first tokens of a text, or of the validation split.

        Raises:
            DataError: if the text is empty.
        """
        num_tokens = min(num_tokens, self.model.max_seq_len)
        tokenizer = self.data.tokenizer
        if text is None:
            ids = self.data.val_store.tokens[:num_tokens].astype("int64").tolist()
        else:
            ids = tokenizer.encode(text).ids[:num_tokens]
        if not ids:
            raise DataError("logging.probe is empty; write a text, or null for validation text")
        labels = [tokenizer.token_text(i) for i in ids]
        inputs: tuple[Tensor, ...] = (torch.tensor([ids]),)
        if self.data.with_documents:
            ends = torch.tensor([[i == tokenizer.end_of_document_id for i in ids]]).long()
            inputs = (*inputs, ends.cumsum(dim=1) - ends)
        return Probe("probe", inputs, labels, labels)

    def sample(self, final: bool = False) -> str:
        """A text that begins after a line break; a longer one at the end of a run."""
        length = FINAL_SAMPLE_TOKENS if final else SAMPLE_TOKENS
        return self.continue_text("\n", length, temperature=0.8, top_k=50, seed=self.seed)

    def continue_text(self, prompt: str, max_new_tokens: int, **options: Any) -> str:
        """Text that follows a prompt; `options` are those of `generate`."""
        tokenizer = self.data.tokenizer
        start = torch.tensor([tokenizer.encode(prompt).ids], device=self.device)
        drawn = generate(
            self.model, start, max_new_tokens, end_token=tokenizer.end_of_document_id, **options
        )
        training = self.model.training
        self.model.eval()
        ids = [int(token) for token in drawn]
        self.model.train(training)
        return tokenizer.decode(ids)
