"""Masked language modeling as a task: a text with gaps, unmasked attention, the loss of what is
missing.
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
    """Guess the tokens that are missing from a text, from what stands on both sides (BERT, Devlin
    et al. 2019, arXiv:1810.04805).

    Its attention is unmasked: `model.mask=none`. No loss is dishonest by that, since what is to be
    guessed is not in the text.

    Args:
        share: share of the tokens to predict, the same number in each window.
        masked: share of these that become the mask token.
        random: share of these that become a random token; the others stay as they are.
        windows: validation windows from which the pseudo-perplexity is taken at the end, each token
            masked by itself (Salazar et al. 2020, arXiv:1910.14659); 0: none.
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
        """A source and a tokenizer as windows of tokens with gaps."""
        from attnkit.tasks.masked_language_modeling.masking import MaskedData

        return MaskedData(**self.shares, **self.data_options(recipe))

    def module_options(self, recipe: Recipe) -> dict[str, Any]:
        """From how much the pseudo-perplexity is taken."""
        return {"windows": self.windows}

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """The size of a vocabulary that has not been made yet, and the mask token."""
        (size,), origin = super().sizes(recipe)
        return (size + 1,), f"{origin}, and the mask token"

    def model_sizes(self, vocab_size: int) -> tuple[int, ...]:
        """What the model is built for, of a vocabulary of a size."""
        return (vocab_size + 1,)

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """How well gaps are filled."""
        metrics = record["metrics"]
        yield Row("accuracy of missing tokens", f"{metrics['accuracy']:.2%}")
        yield Row("loss, nats per missing token", f"{metrics['loss']:.4f}")
        if "pseudo_perplexity" in metrics:
            yield Row("pseudo-perplexity", f"{metrics['pseudo_perplexity']:.3f}")
        yield from unknown_row(record)

    def remarks(self, record: Mapping[str, Any]) -> Iterable[str]:
        """That gaps are guessed from one side, if they are."""
        if not record.get("sees_both_sides", True):
            yield (
                "No prediction sees a later token: a gap is guessed from what stands before it "
                "alone. Set model.mask=none to show both sides."
            )

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """Its guesses and maps."""
        return TaskDefinition.next_commands(self, directory, example)
