"""attnkit: an experimentation kit for attention.

Names are imported on first use, so that `import attnkit` loads neither torch nor lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnkit.ablation.compare import compare_runs
    from attnkit.attention.base import Attention, build_attention
    from attnkit.attention.kernels.choosing import attend
    from attnkit.attention.maps import AttentionMap, attention_map, attention_maps
    from attnkit.attention.score_attention import ScoreAttention
    from attnkit.callbacks.attention_maps import AttentionMaps
    from attnkit.listeners.listener import Listener
    from attnkit.masks import Mask, build_mask
    from attnkit.models.language_model import LanguageModel
    from attnkit.recipe import Recipe, RecipeError, load_recipe, recipe_from_dict
    from attnkit.registry import (
        ATTENTION,
        CALLBACKS,
        LOGGERS,
        MASKS,
        POSITIONS,
        SOURCES,
        TASKS,
        TOKENIZERS,
        Spec,
    )
    from attnkit.runs.experiment import Result, run
    from attnkit.tasks.definition import TaskDefinition
    from attnkit.tasks.trained_run import TrainedRun, load_run
    from attnkit.training.task import Task

_NAMES_OF = {
    "attnkit.ablation.compare": ("compare_runs",),
    "attnkit.attention.base": ("Attention", "build_attention"),
    "attnkit.attention.kernels.choosing": ("attend",),
    "attnkit.attention.maps": ("AttentionMap", "attention_map", "attention_maps"),
    "attnkit.attention.score_attention": ("ScoreAttention",),
    "attnkit.callbacks.attention_maps": ("AttentionMaps",),
    "attnkit.runs.experiment": ("Result", "run"),
    "attnkit.listeners.listener": ("Listener",),
    "attnkit.masks": ("Mask", "build_mask"),
    "attnkit.models.language_model": ("LanguageModel",),
    "attnkit.recipe": ("Recipe", "RecipeError", "load_recipe", "recipe_from_dict"),
    "attnkit.registry": (
        "ATTENTION",
        "CALLBACKS",
        "LOGGERS",
        "MASKS",
        "POSITIONS",
        "SOURCES",
        "TASKS",
        "TOKENIZERS",
        "Spec",
    ),
    "attnkit.tasks.definition": ("TaskDefinition",),
    "attnkit.tasks.trained_run": ("TrainedRun", "load_run"),
    "attnkit.training.task": ("Task",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'attnkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
