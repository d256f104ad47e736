"""The contents of the page, read from the studies below the log directory. What was read is cached
until its files change.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnkit.ablation.compare import compare_grouped
from attnkit.ablation.comparison import Comparison
from attnkit.ablation.curves import VALIDATION, curve_tags, mean_curve, per_step
from attnkit.ablation.grouped_runs import GroupedRuns, group_runs
from attnkit.ablation.page.folders import StudyFolder, find_studies
from attnkit.ablation.page.states import STATES, RunState, state_of, tuning_of
from attnkit.ablation.page.view import COSTS, CurvesView, comparison_view, curve_tag
from attnkit.ablation.plan_file import PlanFile, read_plan_file
from attnkit.ablation.stored_run import StoredRun, UnusableRun, by_number, load_stored_run
from attnkit.ablation.tables import as_json, comma_separated, latex, markdown, visible
from attnkit.storage.run_directory import ENVIRONMENT, RECIPE, RESULT, RunDirectoryError, is_in_use
from attnkit.tensorboard.event_files import logged_files
from attnkit.tensorboard.scalars import Scalars, logged_tags, read_scalars

FORMS = {"csv": comma_separated, "json": as_json, "md": markdown, "tex": latex}

SEARCH_SECONDS = 3.0
"""Seconds for which the list of studies is cached."""

CACHE_BYTES = 128 * 2**20
"""Size limit of the curves that are cached in memory."""


class Studies:
    """All studies below some log directories. Thread-safe.

    Args:
        roots: the log directories -> the names of their groups in TensorBoard.
    """

    def __init__(self, roots: Mapping[Path, str]) -> None:
        self._roots = roots
        self._lock = threading.RLock()
        self._found: tuple[float, dict[str, StudyFolder]] = (0.0, {})
        self._stored: dict[Path, tuple[Any, StoredRun | str]] = {}
        self._curves: OrderedDict[tuple, tuple[Any, Any, int]] = OrderedDict()
        self._bytes = 0

    def has(self, study: str) -> bool:
        """True if there is a study with this id."""
        with self._lock:
            return study in self._folders()

    def list(self) -> list[dict[str, Any]]:
        """Returns the studies, with the numbers of their runs by state."""
        with self._lock:
            return [self._summary(folder) for folder in self._folders().values()]

    def view(self, study: str, base: str | None, metric: str | None) -> dict[str, Any]:
        """Returns the table of a study, the state of its runs, and what can be chosen.

        If there is no table, `problem` is the reason; the runs are shown anyway.
        """
        with self._lock:
            return self._view(self._folders()[study], base, metric)

    def curves(self, study: str, tag: str | None, metric: str | None, seeds: bool) -> bytes:
        """Returns the learning curves of a study as JSON.

        Args:
            study: id of the study.
            tag: of the curves; None: that of the metric.
            metric: of the table; None: the study's.
            seeds: include the curve of each finished run; those of other runs are always included.
        """
        with self._lock:
            return self._curves_of(self._folders()[study], tag, metric, seeds)

    def export(self, study: str, base: str | None, metric: str | None, form: str) -> str:
        """Returns the table as a file.

        Raises:
            RunDirectoryError: if there is no table.
        """
        with self._lock:
            folder = self._folders()[study]
            found = self._grouped(folder)
            return FORMS[form](compare_grouped(found, base=base, metric=metric))

    # Finding and reading

    def _folders(self) -> dict[str, StudyFolder]:
        until, found = self._found
        if time.monotonic() > until:
            found = find_studies(self._roots)
            self._found = (time.monotonic() + SEARCH_SECONDS, found)
        return found

    def _load(self, directory: Path) -> StoredRun:
        """Reads a run, unless its files have not changed.

        Raises:
            UnusableRun: if it cannot be compared.
        """
        names = (RESULT, ENVIRONMENT, RECIPE)
        signature = _signature(f"{directory}/{name}" for name in names)  # quicker than Path / name
        known = self._stored.get(directory)
        if known is None or known[0] != signature:
            try:
                content: StoredRun | str = load_stored_run(directory)
            except UnusableRun as reason:
                content = str(reason)
            known = self._stored[directory] = (signature, content)
        if isinstance(known[1], str):
            raise UnusableRun(known[1])
        return known[1]

    def _grouped(self, folder: StudyFolder) -> GroupedRuns:
        return group_runs([folder.path], self._load)

    def _tags(self, directory: Path, signature: Any) -> frozenset[str]:
        """Returns the tags that a run has logged; empty if they cannot be read."""

        def read() -> tuple[frozenset[str], int]:
            tags = frozenset(logged_tags(directory))
            return tags, sum(map(len, tags))

        return self._cached((directory,), signature, read) or frozenset()

    def _scalars(self, directory: Path, tag: str, signature: Any) -> Scalars | None:
        """Returns a curve of a run; None if it has none, or it cannot be read."""

        def read() -> tuple[Scalars | None, int]:
            found = read_scalars(directory, [tag]).get(tag)
            return found, 0 if found is None else found.steps.nbytes + found.values.nbytes

        return self._cached((directory, tag), signature, read)

    def _cached(self, key: tuple, signature: Any, read: Callable[[], tuple[Any, int]]) -> Any:
        """Returns a cached value; calls `read` (value, size) again if the signature changed."""
        known = self._curves.pop(key, None)
        if known is None or known[0] != signature:
            self._bytes -= known[2] if known else 0
            try:
                known = (signature, *read())
            except OSError:
                return None
            self._bytes += known[2]
        self._curves[key] = known
        while self._bytes > CACHE_BYTES and len(self._curves) > 1:
            _, (_, _, size) = self._curves.popitem(last=False)
            self._bytes -= size
        return known[1]

    # States

    def _summary(self, folder: StudyFolder) -> dict[str, Any]:
        plan, problem = _plan_of(folder)
        states = self._states(folder, plan, with_text=False)
        counts = {state: sum(each.state == state for each in states) for state in STATES}
        return {
            "id": folder.id,
            "name": visible(folder.path.name if folder.id == "." else folder.id),
            "variants": len({each.variant for each in states}),
            "planned": plan is not None,
            "counts": counts,
            "problem": problem,
        }

    def _states(
        self, folder: StudyFolder, plan: PlanFile | None, with_text: bool = True
    ) -> list[RunState]:
        """Returns the state of each run, in the order of the plan, then by name."""
        places: dict[tuple[str, int], Path] = {}
        if plan is not None:
            for variant in plan.variants:
                for seed in plan.seeds:
                    places[variant, seed] = folder.path / variant / f"seed{seed}"
        for directory in sorted(folder.runs, key=lambda path: by_number(str(path))):
            places.setdefault(self._name(directory), directory)
        in_use = is_in_use(folder.path)
        return [
            state_of(folder, plan, variant, seed, directory, in_use, with_text)
            for (variant, seed), directory in places.items()
        ]

    def _name(self, directory: Path) -> tuple[str, int]:
        if found := re.fullmatch(r"seed(\d+)", directory.name):
            return directory.parent.name, int(found[1])
        try:
            name = self._load(directory).name
            return name.variant, name.seed
        except UnusableRun:
            return directory.name, 0

    # The table

    def _view(self, folder: StudyFolder, base: str | None, metric: str | None) -> dict[str, Any]:
        plan, problem = _plan_of(folder)
        states = self._states(folder, plan)
        unfinished = {each.directory for each in states if each.state != "finished"}
        has_finished = len(unfinished) < len(states)
        found, comparison = None, None
        if problem is None:
            try:
                found = self._grouped(folder)
                comparison = compare_grouped(found, base=base, metric=metric)
            except RunDirectoryError as error:
                problem = str(error) if has_finished else None
        if comparison is not None:
            # The list of runs already shows those that are unfinished.
            left_out = [run for run in comparison.left_out if run.directory not in unfinished]
            comparison = replace(comparison, left_out=left_out)
        table = None if comparison is None else comparison_view(comparison)
        metrics: dict[str, int] = {}
        for run in found.all() if found else ():
            for name, value in run.metrics.items():
                metrics[name] = metrics.get(name, 0) + isinstance(value, int | float)
        variants = _variants(states, found)
        return {
            "id": folder.id,
            "problem": problem and visible(problem),
            "tuning": tuning_of(folder, plan),
            "complete": all(each.state in ("finished", "halved") for each in states),
            "table": table,
            "metrics": metrics,
            "costs": COSTS,
            "variants": [
                {
                    "name": name,
                    "label": visible(name),
                    "runs": [
                        {
                            "seed": each.seed,
                            "state": each.state,
                            "text": each.text,
                            "lines": list(each.lines),
                            "run": folder.runs.get(each.directory),
                            "value": _value(comparison, name, each.seed),
                        }
                        for each in sorted(members, key=lambda each: each.seed)
                    ],
                }
                for name, members in variants.items()
            ],
        }

    # Curves

    def _curves_of(
        self, folder: StudyFolder, tag: str | None, metric: str | None, seeds: bool
    ) -> bytes:
        plan, _ = _plan_of(folder)
        states = self._states(folder, plan, with_text=False)
        found = None
        with contextlib.suppress(RunDirectoryError):
            found = self._grouped(folder)
        variants = _variants(states, found)
        metric = metric or (plan.metric if plan else "loss")
        logged = {each.directory: _signature(logged_files(each.directory)) for each in states}

        def tags_of(members: list[RunState]) -> frozenset[str]:
            each = (self._tags(run.directory, logged[run.directory]) for run in members)
            return frozenset().union(*each)

        def make() -> tuple[bytes, int]:
            content = self._add_curves(variants, found, view, seeds, logged).to_json()
            return content, len(content)

        tags = [tags_of(members) for members in variants.values()]
        view = CurvesView(tag or curve_tag(curve_tags(metric), tags, VALIDATION), _shown_tags(tags))
        records = [self._stored[run.directory][0] for run in found.all()] if found else []
        signature = (list(variants.items()), records, logged)
        return self._cached((folder.path, view.tag, seeds), signature, make)

    def _add_curves(
        self,
        variants: Mapping[str, list[RunState]],
        found: GroupedRuns | None,
        view: CurvesView,
        seeds: bool,
        logged: Mapping[Path, Any],
    ) -> CurvesView:
        """Adds the curves of a study to a view."""
        for place, (name, members) in enumerate(variants.items()):
            finished = list(found.runs.get(name, {}).values()) if found else []
            directories = {run.directory for run in finished}
            per = per_step(finished) if finished else None
            ended: list[Scalars] = []
            for each in members:
                scalars = self._scalars(each.directory, view.tag, logged[each.directory])
                if scalars is None:
                    continue
                is_finished = each.directory in directories
                if is_finished:
                    ended.append(scalars)
                if seeds or not is_finished:
                    view.add_seed(place, each.seed, scalars, per, is_finished)
            if curve := mean_curve(name, ended, per or {}):
                view.add_mean(place, curve, len(ended))
        return view


_NO_CURVES = ("loss/final", "quality/final_", "text_floors/", "final/", "loss/floor_")
"""Prefixes of tags with a single number; the last two are of earlier versions."""


def _shown_tags(logged: Iterable[frozenset[str]]) -> list[str]:
    """Returns the tags of curves, without single numbers and floors."""
    tags = frozenset().union(*logged)
    shown = [tag for tag in tags if not tag.startswith(_NO_CURVES)]
    return sorted(shown, key=lambda tag: (not tag.startswith("loss/"), tag))


def _plan_of(folder: StudyFolder) -> tuple[PlanFile | None, str | None]:
    """Returns the plan of a study, and why it cannot be read."""
    try:
        return read_plan_file(folder.path), None
    except RunDirectoryError as error:
        return None, str(error)


def _variants(states: list[RunState], found: GroupedRuns | None) -> dict[str, list[RunState]]:
    """Returns label -> the states of its runs, in the order of the plan."""
    study = ""
    if found is not None and found.runs:
        study = next(found.all()).name.study
    variants: dict[str, list[RunState]] = {}
    for each in states:
        label = found.label(study, each.variant) if found else each.variant
        variants.setdefault(label, []).append(each)
    return variants


def _value(comparison: Comparison | None, variant: str, seed: int) -> float | None:
    for row in comparison.rows if comparison else ():
        if row.variant == variant:
            return row.values.get(seed)
    return None


def _signature(paths: Any) -> tuple[tuple[int, int] | None, ...]:
    def one(path: str | Path) -> tuple[int, int] | None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    return tuple(one(path) for path in paths)
