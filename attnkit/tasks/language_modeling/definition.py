"""Language modeling as a task: a text, a decoder-only model, the loss of the next token."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnkit.registry import SOURCES, TASKS, TOKENIZERS, Spec
from attnkit.tasks.building import final_max_tokens
from attnkit.tasks.definition import Row, TaskDefinition, loaded

if TYPE_CHECKING:
    from torch import Tensor

    from attnkit.data.language_modeling import LanguageModelingData
    from attnkit.recipe import Recipe
    from attnkit.tasks.text_run import TextRun


@TASKS.register("language_modeling")
class LanguageModeling(TaskDefinition):
    """Predict each next token of a text."""

    data = SOURCES
    default_data = Spec("stdlib_docs")
    model = "attnkit.models.language_model:LanguageModel"
    module = "attnkit.tasks.language_modeling.task:LanguageModelingTask"
    run_class = "attnkit.tasks.language_modeling.trained:TrainedLanguageModel"
    takes = ("tokenizer", "trainer.batch_size")
    loads_with = ("model", "tokenizer")

    def check(self, recipe: Recipe) -> Iterable[tuple[str, str]]:
        """Yields problems: text needs a tokenizer that reads text, and tokens need an existing
        vocabulary.
        """
        from attnkit.data.language_modeling import NO_TEXT
        from attnkit.data.sources.base import TokenSource

        tokenizer = TOKENIZERS.build(recipe.tokenizer)
        if issubclass(SOURCES.get(recipe.data.name), TokenSource):
            if not tokenizer.vocab_size:
                yield "tokenizer", NO_TEXT
        elif not tokenizer.reads_text:
            yield (
                "tokenizer",
                f"data.{recipe.data.name} is text; name the vocabulary's tokenizer.json in "
                "tokenizer.file",
            )

    def build_data(self, recipe: Recipe) -> LanguageModelingData:
        """Returns a source and a tokenizer as windows of tokens."""
        from attnkit.data.language_modeling import LanguageModelingData

        return LanguageModelingData(**self.data_options(recipe))

    def data_options(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the arguments of `LanguageModelingData`."""
        from attnkit.models.language_model import LanguageModel
        from attnkit.models.stack import needs_documents

        batch_size, max_seq_len = recipe.trainer.batch_size, recipe.model["max_seq_len"]
        return {
            "source": SOURCES.build(recipe.data),
            "tokenizer": TOKENIZERS.build(recipe.tokenizer),
            "max_seq_len": max_seq_len,
            "batch_size": batch_size,
            "seed": recipe.seed,
            "val_max_tokens": recipe.validation.max_tokens,
            "final_max_tokens": final_max_tokens(recipe, batch_size * max_seq_len),
            "val_part": recipe.validation.part,
            "with_documents": needs_documents(LanguageModel.layer_options(recipe.model)),
        }

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """Returns the size of a vocabulary that is not trained yet."""
        size, origin = size_of_vocabulary(recipe.tokenizer)
        return (size,), origin

    def load(
        self, folder: Path, recipe: Recipe, weights: dict[str, Tensor], origin: Path
    ) -> TextRun:
        """Loads a trained run, whose vocabulary is in a folder."""
        from attnkit.data.tokenizer_base import load_tokenizer
        from attnkit.tasks.trained_run import filled, home_of

        tokenizer = load_tokenizer(folder)
        sizes = self.model_sizes(tokenizer.vocab_size)
        model = filled(lambda: self.model_class()(*sizes, **recipe.model), weights, origin)
        return loaded(self.run_class)(recipe, home_of(folder, origin), model, tokenizer)

    def model_sizes(self, vocab_size: int) -> tuple[int, ...]:
        """Returns the positional arguments of the model for a vocabulary of this size."""
        return (vocab_size,)

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """Yields the loss and the n-gram floors."""
        metrics = record["metrics"]
        honest = record["loss_is_language_modeling"]
        yield Row(
            "loss, nats per token" if honest else "loss (sees the future)", f"{metrics['loss']:.4f}"
        )
        if (bits := metrics.get("bits_per_byte")) is not None:  # tokens alone have no bytes
            yield Row("bits per byte", f"{bits:.4f}")
        yield Row("perplexity", f"{metrics['perplexity']:.3f}")
        yield from unknown_row(record)
        for order, floor in record["ngram_floors"].items():
            is_above = metrics["loss"] >= floor
            yield Row(f"{order}-gram floor, nats per token", f"{floor:.4f}", is_dim=is_above)

    def remarks(self, record: Mapping[str, Any]) -> Iterable[str]:
        """States that the loss is not a language-modeling loss, if so."""
        if not record["loss_is_language_modeling"]:
            change = record["later_influence"]["change"]
            yield (
                "[bold]This is not a language-modeling loss:[/] each prediction can see the token "
                "that it predicts (changing one later token moved an earlier prediction by "
                f"{change:.2g} standard deviations). Do not compare it with a masked model's."
            )

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """Returns the command for generation."""
        command = f"attnkit generate {shlex.quote(str(directory))}"
        return {"generate": f"{command} --prompt {shlex.quote(example)}"}


def size_of_vocabulary(tokenizer: Spec) -> tuple[int, str]:
    """Returns the size of a vocabulary that is not trained yet, its limit or an assumption; and the
    origin of the number.
    """
    options = TOKENIZERS.options(tokenizer.name)
    for key in ("vocab_size", "max_vocab"):
        if key in options:
            return tokenizer.options.get(key, options[key].default), f"tokenizer.{key}"
    if tokenizer.name == "byte":
        return 257, "256 bytes and the end of a document"
    return 100, "assumed: the data decides it"


def unknown_row(record: Mapping[str, Any]) -> Iterable[Row]:
    """Yields a row with the share of unknown tokens, if there are any. A loss counts each of them
    as one token.
    """
    if share := record["unknown_share"]:
        yield Row("unknown tokens", f"{share:.2%}")
