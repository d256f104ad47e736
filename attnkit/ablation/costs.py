"""Computes the costs of a variant before training: sizes on the meta device, tokens per step from
the data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from attnkit.models.accounting import costs
from attnkit.models.shapes_only import shapes_only
from attnkit.recipe import Recipe
from attnkit.tasks.building import build_data, build_model

_OF_THE_DATA = ("task", "data", "tokenizer", "target_tokenizer")
_NO_MODEL = (
    *("name", "variant", "seed", "runs_dir", "optimizer", "schedule", "trainer"),
    *("validation", "checkpoint", "logging", "callbacks"),
)
"""Keys that do not change the model."""

_OF_BATCHES = ("batch_size", "batch_tokens")


@dataclass(frozen=True)
class Costs:
    """The costs of a recipe.

    Attributes:
        parameters: of the model.
        flops: of training, per token.
        cache_bytes: that decoding keeps for a full context, in float32.
        max_seq_len: tokens of a full context.
        tokens_per_step: predicted tokens per optimizer step, on average.
    """

    parameters: int
    flops: float
    cache_bytes: int
    max_seq_len: int
    tokens_per_step: float


@dataclass
class CostModel:
    """Computes costs once per model, and prepares data that variants share once.

    Missing data is thus reported before many runs load it at the same time.
    """

    _facts: dict[str, tuple[tuple[int, ...], float]] = field(default_factory=dict)
    _counted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, recipe: Recipe) -> Costs:
        """Returns the costs of a recipe.

        Raises:
            DataError: if its data is missing or invalid.
        """
        vocab_sizes, tokens_per_batch = self._data_facts(recipe)
        counted = self._count(recipe, vocab_sizes)
        return Costs(
            parameters=counted["parameters"],
            flops=counted["training_flops_per_token"],
            cache_bytes=counted["cache_bytes"],
            max_seq_len=counted["max_seq_len"],
            tokens_per_step=tokens_per_batch * recipe.trainer.accumulate,
        )

    def _count(self, recipe: Recipe, vocab_sizes: tuple[int, ...]) -> dict[str, Any]:
        """Returns the costs of a recipe's model."""
        parts = {name: part for name, part in recipe.to_dict().items() if name not in _NO_MODEL}
        key = json.dumps([parts, vocab_sizes], sort_keys=True)
        if key not in self._counted:
            with shapes_only():
                model = build_model(recipe, *vocab_sizes)
            self._counted[key] = costs(model)
        return self._counted[key]

    def _data_facts(self, recipe: Recipe) -> tuple[tuple[int, ...], float]:
        keys = recipe.to_dict()
        parts = {name: keys[name] for name in (*_OF_THE_DATA, recipe.task) if name in keys}
        parts |= {name: keys["trainer"].get(name) for name in _OF_BATCHES}
        parts |= {"max_seq_len": keys["model"].get("max_seq_len"), "part": recipe.validation.part}
        key = json.dumps(parts, sort_keys=True)
        if key not in self._facts:
            data = build_data(recipe)
            data.prepare()
            self._facts[key] = (data.vocab_sizes, data.tokens_per_batch)
        return self._facts[key]
