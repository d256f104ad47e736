"""A synthetic task from a recipe: sequences, a decoder-only model, the loss of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attnkit.assembly.by_task import options_of_every_task
from attnkit.data.synthetic_data import SyntheticData
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import Recipe
from attnkit.registry import OPTIMIZERS, SCHEDULES, SYNTHETIC

if TYPE_CHECKING:
    from attnkit.tasks.synthetic import SyntheticTask


def build_data(recipe: Recipe) -> SyntheticData:
    """The task that a recipe names; nothing is drawn yet."""
    return SyntheticData(
        SYNTHETIC.build(recipe.data),
        max_seq_len=recipe.model["max_seq_len"],
        batch_size=recipe.trainer.batch_size,
        seed=recipe.seed,
        val_max_tokens=recipe.validation.max_tokens,
        val_part=recipe.validation.part,
    )


def build_model(recipe: Recipe, vocab_size: int) -> LanguageModel:
    """The model that a recipe describes, with weights drawn from its seed."""
    torch.manual_seed(recipe.seed)
    return LanguageModel(vocab_size, **recipe.model)


def build_task(recipe: Recipe, model: LanguageModel, data: SyntheticData) -> SyntheticTask:
    """The model with its loss, its data and its optimizer."""
    from attnkit.tasks.synthetic import SyntheticTask

    return SyntheticTask(
        model,
        data,
        OPTIMIZERS.build(recipe.optimizer),
        SCHEDULES.build(recipe.schedule),
        **options_of_every_task(recipe),
    )
