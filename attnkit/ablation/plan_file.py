"""Reads `ablation.json`, the plan in a study's folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import PLAN, RunDirectoryError

VERSION = 1


@dataclass(frozen=True)
class PlanFile:
    """The part of a plan that a comparison needs.

    Attributes:
        name: of the study.
        base: the variant that the others are compared with.
        metric: key of a run's metrics.
        lower_is_better: of the metric.
        variants: name -> the keys in which it differs, in the order of the plan.
        seeds: of each variant.
        match: the cost that was made equal; None: no cost.
        budget: the budget of every variant; None: the recipe's steps.
        tune: key -> its candidates, a list or a range; None: nothing is tuned.
        drawn: with `draws`, the number of draws from ranges; None: there are no ranges.
        tuned: variant -> keys that were chosen on the validation split.
        edges: variant -> `smallest` or `largest`, if its candidate is at an end of the grid.
        changed_to_match: variant -> keys that were changed to match the base.
        halving: `rungs` and `keep`; None: no variant is stopped.
        stopped: variant -> `rung` and `step` at which halving stopped it.
    """

    name: str
    base: str
    variants: dict[str, dict[str, Any]]
    seeds: list[int]
    metric: str = "loss"
    lower_is_better: bool = True
    match: Any = None
    budget: Any = None
    tune: dict[str, Any] | None = None
    drawn: dict[str, Any] | None = None
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[str, str] = field(default_factory=dict)
    changed_to_match: dict[str, dict[str, Any]] = field(default_factory=dict)
    halving: dict[str, Any] | None = None
    stopped: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def num_candidates(self) -> int:
        """Number of tuning runs of each variant."""
        lists = [each for each in (self.tune or {}).values() if isinstance(each, list)]
        if not self.tune:
            return 0
        draws = (self.drawn or {}).get("draws", 1) if len(lists) < len(self.tune) else 1
        return math.prod(map(len, lists)) * draws


def read_plan_file(folder: Path) -> PlanFile | None:
    """Reads the plan of a study; None if its folder has none.

    Raises:
        RunDirectoryError: if it is damaged or of another version.
    """
    path = folder / PLAN
    try:
        content = parse_json(path.read_bytes())
        if (version := content.get("version")) != VERSION:
            raise RunDirectoryError(
                f"{path} has version {version}, but this attnkit reads version {VERSION}; compare "
                "with the attnkit that wrote it"
            )
        known = {name: content[name] for name in PlanFile.__dataclass_fields__ if name in content}
        plan = PlanFile(**known)
        if not isinstance(plan.variants, dict) or plan.base not in plan.variants:
            raise TypeError(f"its base `{plan.base}` is not one of its variants")
        if not isinstance((plan.halving or {}).get("rungs", 0), int):
            raise TypeError("`halving` has no number of rungs")
        for each in plan.stopped.values():
            if not all(isinstance(each[key], int) for key in ("rung", "step")):
                raise TypeError("`stopped` needs whole numbers for `rung` and `step`")
        return plan
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"{path} cannot be read: {error}; run the study again with attnkit ablate"
        ) from None
