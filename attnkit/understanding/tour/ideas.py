"""The ideas of the tour, and the runs with each idea on and off."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MODEL = "understanding/tour"
TRANSLATION = "translation/reverse"
SHORT = ("trainer.max_steps=400",)
"""Half of the recipe's steps, after which most lines are correct."""


@dataclass(frozen=True)
class Training:
    """A run of the tour.

    Attributes:
        recipe: name of a recipe of the kit.
        changes: overrides of its keys.
    """

    recipe: str = MODEL
    changes: tuple[str, ...] = ()

    def changed(self, overrides: Sequence[str]) -> Training:
        """Returns the run with further keys changed."""
        keys = {override.partition("=")[0] for override in overrides}
        unchanged = (change for change in self.changes if change.partition("=")[0] not in keys)
        return Training(self.recipe, (*unchanged, *overrides))

    @property
    def command(self) -> str:
        """The command that trains it."""
        return shlex.join(["attnkit", "run", self.recipe, *self.changes])


@dataclass(frozen=True)
class Idea:
    """An idea of attention.

    Attributes:
        name: key of its texts in `words.yaml`.
        on: the run with it.
        off: the run without it; if equal to `on`, its attention is switched off after training.
    """

    name: str
    on: Training
    off: Training


BASE = Training()

IDEAS = (
    Idea(
        "question",
        BASE,
        Training(changes=("model.attention.name=average", "model.position=learned")),
    ),
    Idea("map", BASE, Training(changes=("model.num_layers=0",))),
    Idea("mask", BASE, Training(changes=("model.mask=none",))),
    Idea("heads", BASE, Training(changes=("model.attention.num_heads=1",))),
    Idea("added", BASE, BASE),
    Idea(
        "cross",
        Training(TRANSLATION, SHORT),
        Training(TRANSLATION, (*SHORT, "model.cross.attention.name=average")),
    ),
    Idea("order", BASE, Training(changes=("model.position=none",))),
    Idea("state", Training(changes=("model.attention.name=linear",)), BASE),
)


def trainings() -> list[Training]:
    """Returns the different runs of all ideas."""
    return list(dict.fromkeys(each for idea in IDEAS for each in (idea.on, idea.off)))
