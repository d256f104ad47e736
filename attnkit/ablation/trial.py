"""A trial: one run of a study, as an ordinary `attnkit run` process with an ordinary directory.

runs/<study>/
    ablation.json                    the plan; written before the first trial
    .trials/<variant>.yaml           the recipe of a variant; a trial adds its seed
    .trials/<variant>.seed<k>.log    the output of a trial; `.failed`: why it has no result
    <variant>/seed<k>/               the run
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnkit.ablation.launchers.base import Job
from attnkit.ablation.trial_files import FOLDER, failure_of, last_lines, log_of, progress_in
from attnkit.recipe import Recipe
from attnkit.recipe.stored import written_recipe
from attnkit.runs.resume import differences, has_no_influence
from attnkit.storage import run_directory
from attnkit.storage.checkpoint_store import CheckpointStore
from attnkit.storage.files import parse_json
from attnkit.storage.plugin_record import changes, made_with, read_record
from attnkit.storage.run_directory import RunDirectoryError

HOW_LONG = ("trainer.max_steps", "trainer.max_time")
"""Keys that may change when a run is resumed, but not in a trial: they are part of the study."""


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
        recipe: the recipe that it trains.
        until: the step to pause at; None: it trains to the end.
    """

    recipe: Recipe
    until: int | None = None

    @classmethod
    def of(cls, recipe: Recipe, seed: int, until: int | None = None) -> Trial:
        """Makes the trial of a variant's recipe with a seed."""
        return cls(replace(recipe, seed=seed), until)

    @property
    def key(self) -> str:
        """Name of the trial: `<variant>/seed<k>`."""
        return f"{self.recipe.variant}/seed{self.recipe.seed}"

    @property
    def directory(self) -> Path:
        """Directory of the run."""
        return self.recipe.run_dir

    @property
    def log(self) -> Path:
        """File with the output of the trial."""
        return log_of(self._study, self.recipe.variant, self.recipe.seed)

    @property
    def _study(self) -> Path:
        return self.directory.parents[1]

    @property
    def _failure(self) -> Path:
        return failure_of(self._study, self.recipe.variant, self.recipe.seed)

    @property
    def _recipe_file(self) -> Path:
        return self._study / FOLDER / f"{self.recipe.variant}.yaml"

    @property
    def is_finished(self) -> bool:
        """True if its result exists."""
        return (self.directory / run_directory.RESULT).is_file()

    @property
    def is_done(self) -> bool:
        """True if it is finished, or has a checkpoint of the step to pause at."""
        if self.is_finished or self.until is None:
            return self.is_finished
        steps = CheckpointStore(self.directory / run_directory.CHECKPOINTS).steps()
        return bool(steps) and steps[-1] >= self.until

    def result(self) -> dict[str, Any]:
        """Returns the contents of `result.json`."""
        return parse_json((self.directory / run_directory.RESULT).read_bytes())

    def metric(self, name: str) -> float:
        """Returns a final metric; NaN if the run has none of that name."""
        return float(self.result()["metrics"].get(name, math.nan))

    def job(self, *, check: bool = True) -> Job:
        """Writes the recipe and returns the job that starts or resumes the run.

        Args:
            check: refuse plugins that break a law.
        """
        recipe = replace(self.recipe, seed=0)
        self._recipe_file.parent.mkdir(parents=True, exist_ok=True)
        self._failure.unlink(missing_ok=True)
        run_directory.write_text(self._recipe_file, recipe.to_yaml())
        seed = f"seed={self.recipe.seed}"
        arguments = ("-P", "-m", "attnkit", "run", str(self._recipe_file), seed)
        unchecked = () if check else ("--no-check",)
        until = () if self.until is None else ("--until", str(self.until))
        return Job(self.key, (*arguments, "--resume", "auto", *until, *unchecked), self.log)

    def check_same(self) -> None:
        """Checks that its directory is empty or contains the same trial.

        Raises:
            RunDirectoryError: if it contains another run; the message lists the differences.
            RecipeError: if the recipe there cannot be read.
        """
        path = self.directory / run_directory.RECIPE
        if not path.is_file():
            run_directory.check_free(self.directory, overwrite=False)
            return
        keys = self.recipe.to_dict()
        differing = list(changes(read_record(self.directory), made_with(keys)).values())
        if path.read_text(encoding="utf-8") != self.recipe.to_yaml():
            differing += recipe_changes(written_recipe(self.directory).to_dict(), keys)
        if differing:
            raise RunDirectoryError(
                f"{self.directory} contains a run that is not this study's: "
                f"{'; '.join(differing)}. Give the study another name (name=NAME), or remove that "
                "run"
            )

    def last_lines(self, count: int) -> list[str]:
        """Returns the last lines of its output."""
        return last_lines(self.log, count)

    def record_neighbours(self, count: float) -> None:
        """Adds to the run's environment how many runs were trained beside it, on average."""
        path = self.directory / run_directory.ENVIRONMENT
        try:
            environment = parse_json(path.read_bytes())
        except (OSError, ValueError):  # the run has not begun
            return
        run_directory.write_json(path, {**environment, "neighbours": count})

    def record_failure(self, what: str) -> None:
        """Writes why the trial has no result, for the page and for comparisons."""
        self._failure.parent.mkdir(parents=True, exist_ok=True)
        run_directory.write_text(self._failure, f"{what}\n")

    def progress(self) -> str:
        """Returns the last line of progress that it printed; empty if there is none yet."""
        return progress_in(self.log, self.recipe.name, self.recipe.variant)


def recipe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns `key: before -> now` for each key that makes two recipes different trials."""
    changes = differences(before, now)
    return [
        change for key, change in changes.items() if key in HOW_LONG or not has_no_influence(key)
    ]
