"""Language modeling: predicts each next token."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from attnkit.data.batch import LanguageBatch, filled_up
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.data.pair_batch import IGNORED
from attnkit.data.reading import Reading
from attnkit.data.tokenizer_base import UNKNOWN, UNREADABLE
from attnkit.errors import DataError
from attnkit.listeners.listener import Listener
from attnkit.models.decoding import generate
from attnkit.models.influence import (
    LaterInfluence,
    allowed_by_masks,
    measure_later_influence,
    scored_positions,
)
from attnkit.models.language_model import LanguageModel
from attnkit.training.probe import Probe
from attnkit.training.task import Task

log = logging.getLogger("attnkit")

SAMPLE_TOKENS = 64
"""Length of a sample during training: about 2 ms per token on a CPU, and more beyond the model's
context, where there is no cache.
"""

FINAL_SAMPLE_TOKENS = 300
"""Length of the sample at the end of a run."""

NUMBERS_ALONE = (
    "samples and maps show the numbers of tokens: name the vocabulary's tokenizer.json in "
    "tokenizer.file to see text"
)


class LanguageModelingTask(Task):
    """Mean cross-entropy of the next token, in nats.

    If a mask shows later tokens to *some* positions (a prefix), the loss ignores their predictions,
    which have seen the answer. If it shows them to all positions (no mask), all predictions count,
    and `loss_is_honest` states that the loss is not a language-modeling loss.

    Args:
        model: the language model.
        data: prepared data.
        arguments: as for every task.
        options: as for every task.
    """

    model: LanguageModel
    data: LanguageModelingData
    _unscored: Tensor | None
    equal_batches = True

    def __init__(
        self, model: LanguageModel, data: LanguageModelingData, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(model, data, *arguments, **options)
        scored, self.loss_is_honest = scored_positions(model, model.max_seq_len)
        unscored = None
        if scored is not None:
            unscored = torch.ones(model.max_seq_len, dtype=torch.bool)
            unscored[scored] = False
        self.register_buffer("_unscored", unscored, persistent=False)
        self.floors: dict[int, float] = {}
        self.influence: LaterInfluence | None = None

    def before_training(self) -> None:
        """Computes the n-gram floors, and measures the influence of later tokens."""
        self.floors = self.data.floors()
        self.influence = measure_later_influence(self.model)

    def log_start(self, listeners: Listener) -> None:
        """Logs the floors, and warns if predictions see the tokens that they predict."""
        self.log_end(listeners, 0)
        if self.influence is not None and self.influence.num_moved:
            said = describe_influence(self.influence, allowed_by_masks(self.model, self.influence))
            log.warning(said)
            listeners.text("warning", said, 0)
        if share := self.data.val_store.unknown_share:
            listeners.text("unknown", describe_unknown(share), 0)
        if not self.data.tokenizer.reads_text:
            log.info(NUMBERS_ALONE)
            listeners.text("tokens", NUMBERS_ALONE, 0)

    def log_end(self, listeners: Listener, step: int) -> None:
        """Logs the floors again, so that each is a line across the chart."""
        floors = {f"text_floors/{order}-gram": loss for order, loss in self.floors.items()}
        listeners.scalars(floors, step)

    def record(self) -> dict[str, Any]:
        assert self.influence is not None
        honest = self.loss_is_honest and allowed_by_masks(self.model, self.influence)
        return {
            "loss_is_language_modeling": honest,
            "later_influence": vars(self.influence),
            "ngram_floors": self.floors,
            "validation_share": self.data.val_batches(self.data.final_max_tokens).share,
            "unknown_share": self.data.val_store.unknown_share,
        }

    def losses(self, batch: LanguageBatch) -> dict[str, Tensor]:
        """Returns the `cross_entropy`."""
        return {"cross_entropy": self.cross_entropy(batch)}

    def measure(self, batch: LanguageBatch) -> dict[str, Tensor]:
        """Returns the same, whatever a subclass adds to `losses`."""
        return {"loss": self.cross_entropy(batch)}

    def cross_entropy(self, batch: LanguageBatch) -> Tensor:
        """Returns the mean cross-entropy of the scored predictions, in nats per token: ()."""
        tokens, targets, documents = batch
        if self._unscored is not None:
            targets = targets.masked_fill(self._unscored, IGNORED)
        if self.compile_model:  # compiled for one shape: a smaller last batch is padded
            rows = self.data.batch_size if not self.training else len(tokens)
            tokens, targets = filled_up(tokens, rows), filled_up(targets, rows, IGNORED)
            documents = None if documents is None else filled_up(documents, rows)
        return self.run_model(tokens, documents, targets=targets)

    def metrics(self) -> dict[str, float]:
        """Returns the loss in nats per token, in bits per byte (comparable across tokenizers), and
        the perplexity.
        """
        loss = self.means()["loss"]
        bits = self.data.val_store.bits_per_byte(loss)
        return {
            "loss": loss,
            **({} if bits is None else {"bits_per_byte": bits}),
            "perplexity": math.exp(min(loss, 700.0)),
        }

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        """Returns the first tokens of a text, or of the validation split.

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
        reading = Reading(inputs, "", labels, [*ids[1:], None], tokenizer.token_text)
        return [Probe("probe", inputs, labels, labels, "".join(labels), reading=reading)]

    def sample(self, final: bool = False) -> str:
        """Returns text that follows a line break."""
        length = FINAL_SAMPLE_TOKENS if final else SAMPLE_TOKENS
        return self.continue_text("\n", length, temperature=0.8, top_k=50, seed=self.seed)

    def continue_text(self, prompt: str, max_new_tokens: int, **options: Any) -> str:
        """Returns the text that follows a prompt; `options` are those of `generate`."""
        tokenizer = self.data.tokenizer
        start = torch.tensor([tokenizer.prompt(prompt)], device=self.device)
        drawn = generate(
            self.model, start, max_new_tokens, end_token=tokenizer.end_of_document_id, **options
        )
        training = self.model.training
        self.model.eval()
        ids = [int(token) for token in drawn]
        self.model.train(training)
        return tokenizer.readable(ids)

    def example(self) -> str:
        """Returns the first words of the validation split."""
        tokens = self.data.val_store.tokens[: self.model.max_seq_len].astype("int64").tolist()
        text = self.data.tokenizer.readable(tokens)
        words = [word for word in text.split() if UNREADABLE not in word][:3]
        return f"{' '.join(words)[:40]} " if words else text[:40]


def describe_unknown(share: float) -> str:
    """Explains unknown tokens in the validation text."""
    return (
        f"{share:.2%} of the validation tokens are {UNKNOWN}, each predicted as one token, however "
        "long its text: compare loss and perplexity only for the same vocabulary. Bits per byte "
        "include the spelling of the unknown words."
    )


def describe_influence(influence: LaterInfluence, is_allowed: bool) -> str:
    """Explains the influence of later tokens on earlier predictions."""
    said = (
        f"changing token {influence.changed_token} moved the prediction at position "
        f"{influence.moved_output} by {influence.change:.2g} standard deviations"
    )
    if influence.num_moved == influence.num_positions:
        return (
            "NOT a language-modeling loss: every prediction can see the token that it predicts "
            f"({said}). Do not compare it with that of a masked model."
        )
    if not is_allowed:
        return (
            f"NOT a language-modeling loss: {influence.num_moved} of {influence.num_positions} "
            f"predictions see later tokens although the mask forbids it ({said}): the mechanism "
            "leaks."
        )
    return (
        f"{influence.num_moved} of {influence.num_positions} predictions see later tokens "
        f"({said}), as the mask allows; the loss leaves them out."
    )
