"""Masked language modeling as a task: a text with gaps, unmasked attention, the loss of the missing
tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attnkit.recipe.annotations import Range
from attnkit.registry import TASKS
from attnkit.tasks.definition import Row, TaskDefinition
from attnkit.tasks.language_modeling.definition import LanguageModeling, unknown_row

if TYPE_CHECKING:
    from attnkit.data.language_modeling import LanguageModelingData
    from attnkit.recipe import Recipe


@TASKS.register("masked_language_modeling")
class MaskedLanguageModeling(LanguageModeling):
    """Predict the tokens that are missing from a text, from both sides (BERT, Devlin et al. 2019,
    arXiv:1810.04805).

    Its attention is unmasked: `model.mask=none`. The loss is honest nevertheless, since the input
    does not contain the missing tokens.

    Args:
        share: share of the tokens to predict, the same number in each window.
        masked: share of these that become the mask token.
        random: share of these that become a random token; the others are unchanged.
        windows: number of validation windows for the final pseudo-perplexity, with one token masked
            at a time (Salazar et al. 2020, arXiv:1910.14659); 0: none.
    """

    module = "attnkit.tasks.masked_language_modeling.task:MaskedLanguageModelingTask"
    run_class = "attnkit.tasks.masked_language_modeling.trained:TrainedMaskedModel"

    def __init__(
        self,
        *,
        share: Annotated[float, Range(above=0, max=1)] = 0.15,
        masked: Annotated[float, Range(min=0, max=1)] = 0.8,
        random: Annotated[float, Range(min=0, max=1)] = 0.1,
        windows: Annotated[int, Range(min=0)] = 16,
    ) -> None:
        if masked + random > 1:
            raise ValueError(
                f"masked_language_modeling.random must be at most {1 - masked:.2g}: masked "
                f"{masked} is a share of the same tokens"
            )
        self.shares = {"share": share, "masked": masked, "random": random}
        self.windows = windows

    def build_data(self, recipe: Recipe) -> LanguageModelingData:
        """Returns a source and a tokenizer as windows of tokens with gaps."""
        from attnkit.tasks.masked_language_modeling.masking import MaskedData

        return MaskedData(**self.shares, **self.data_options(recipe))

    def module_options(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the number of windows for the pseudo-perplexity."""
        return {"windows": self.windows}

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """Returns the size of a vocabulary that is not trained yet, and the mask token."""
        (size,), origin = super().sizes(recipe)
        return (size + 1,), f"{origin}, and the mask token"

    def model_sizes(self, vocab_size: int) -> tuple[int, ...]:
        """Returns the positional arguments of the model for a vocabulary of this size."""
        return (vocab_size + 1,)

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """Yields how well gaps are filled."""
        metrics = record["metrics"]
        yield Row("accuracy of missing tokens", f"{metrics['accuracy']:.2%}")
        yield Row("loss, nats per missing token", f"{metrics['loss']:.4f}")
        if "pseudo_perplexity" in metrics:
            yield Row("pseudo-perplexity", f"{metrics['pseudo_perplexity']:.3f}")
        yield from unknown_row(record)

    def remarks(self, record: Mapping[str, Any]) -> Iterable[str]:
        """States that gaps are predicted from one side, if so."""
        if not record.get("sees_both_sides", True):
            yield (
                "No prediction sees a later token: a gap is predicted only from the text before "
                "it. Set model.mask=none to show both sides."
            )

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """Returns the commands for predictions and maps."""
        return TaskDefinition.next_commands(self, directory, example)
