"""Language modeling from a recipe: a text, a decoder-only model, the loss of the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attnkit.assembly.by_task import final_max_tokens, options_of_every_task
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.masks import build_mask
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import Recipe
from attnkit.registry import OPTIMIZERS, SCHEDULES, SOURCES, TOKENIZERS

if TYPE_CHECKING:
    from attnkit.tasks.language_modeling import LanguageModelingTask


def build_data(recipe: Recipe) -> LanguageModelingData:
    """The data that a recipe names; nothing is read yet."""
    return LanguageModelingData(
        SOURCES.build(recipe.data),
        TOKENIZERS.build(recipe.tokenizer),
        max_seq_len=recipe.model["max_seq_len"],
        batch_size=recipe.trainer.batch_size,
        seed=recipe.seed,
        val_max_tokens=recipe.validation.max_tokens,
        final_max_tokens=final_max_tokens(
            recipe, recipe.trainer.batch_size * recipe.model["max_seq_len"]
        ),
        val_part=recipe.validation.part,
        with_documents=build_mask(recipe.model["mask"]).needs_documents,
    )


def build_model(recipe: Recipe, vocab_size: int) -> LanguageModel:
    """The model that a recipe describes, with weights drawn from its seed."""
    torch.manual_seed(recipe.seed)
    return LanguageModel(vocab_size, **recipe.model)


def build_task(
    recipe: Recipe, model: LanguageModel, data: LanguageModelingData
) -> LanguageModelingTask:
    """The model with its loss, its data and its optimizer."""
    from attnkit.tasks.language_modeling import LanguageModelingTask

    return LanguageModelingTask(
        model,
        data,
        OPTIMIZERS.build(recipe.optimizer),
        SCHEDULES.build(recipe.schedule),
        **options_of_every_task(recipe),
    )
