"""Synthetic tasks: sequences that are generated on demand, and the loss of their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnkit.registry import SYNTHETIC, TASKS, Spec
from attnkit.tasks.definition import Row, TaskDefinition

if TYPE_CHECKING:
    from torch import Tensor

    from attnkit.data.synthetic_data import SyntheticData
    from attnkit.recipe import Recipe
    from attnkit.tasks.synthetic.trained import SyntheticRun


@TASKS.register("synthetic")
class Synthetic(TaskDefinition):
    """Predict the answers in sequences that are generated on demand."""

    data = SYNTHETIC
    default_data = Spec("multi_query_recall")
    model = "attnkit.models.language_model:LanguageModel"
    module = "attnkit.tasks.synthetic.task:SyntheticTask"
    run_class = "attnkit.tasks.synthetic.trained:SyntheticRun"

    def check(self, recipe: Recipe) -> Iterable[tuple[str, str]]:
        """Yields a problem if the model cannot read the longest sequence."""
        longest, room = SYNTHETIC.build(recipe.data).longest, recipe.model["max_seq_len"]
        if room < longest:
            yield (
                "model.max_seq_len",
                f"{room} is less than the {longest} tokens of the longest sequence "
                f"(data.length, data.test_lengths); set it to {longest}",
            )

    @classmethod
    def does_not_take(cls, key: str) -> str:
        if key == "tokenizer":
            return "a synthetic task has its own vocabulary; remove this key"
        return super().does_not_take(key)

    def build_data(self, recipe: Recipe) -> SyntheticData:
        """Returns sequences; draws nothing yet."""
        from attnkit.data.synthetic_data import SyntheticData

        return SyntheticData(
            SYNTHETIC.build(recipe.data),
            max_seq_len=recipe.model["max_seq_len"],
            batch_size=recipe.trainer.batch_size,
            seed=recipe.seed,
            val_max_tokens=recipe.validation.max_tokens,
            val_part=recipe.validation.part,
        )

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """Returns the size of the task's own vocabulary."""
        return (len(SYNTHETIC.build(recipe.data).symbols),), "of the task"

    def load(
        self, folder: Path, recipe: Recipe, weights: dict[str, Tensor], origin: Path
    ) -> SyntheticRun:
        """Loads a trained run; its vocabulary is that of the task."""
        from attnkit.data.symbols import Symbols
        from attnkit.tasks.synthetic.trained import SyntheticRun
        from attnkit.tasks.trained_run import filled, home_of

        tokenizer = Symbols(SYNTHETIC.build(recipe.data).symbols)
        size = tokenizer.vocab_size
        model = filled(lambda: self.model_class()(size, **recipe.model), weights, origin)
        return SyntheticRun(recipe, home_of(folder, origin), model, tokenizer)

    def title(self, record: Mapping[str, Any]) -> str:
        """Returns the name of the fixed set."""
        return "validation set" if record["validation_part"] == "first_half" else "test set"

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """Yields the share of right answers, at each length."""
        metrics = record["metrics"]
        yield Row("accuracy of the answers", f"{metrics['accuracy']:.2%}")
        yield Row("whole sequences right", f"{metrics['exact_match']:.2%}")
        yield Row("loss, nats per answer", f"{metrics['loss']:.4f}")
        for name, value in metrics.items():
            length = name.removeprefix("accuracy_length_")
            if length != name:
                yield Row(f"accuracy at {length} tokens", f"{value:.2%}")
