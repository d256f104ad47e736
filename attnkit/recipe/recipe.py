"""A recipe: everything that decides a run, read from YAML, checked, with every default filled in.

    recipe = load_recipe("quickstart", ["model.dim=64"])
    recipe.run_dir          # runs/quickstart/dim-64/seed0

The keys are the fields of `RecipeKeys` and of the sections below; the options of a name such as
`adamw` are defined by its class. Everything is checked before any data is read, and all problems
are reported at once (`RecipeError`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from attnkit.recipe.annotations import OptionsOf, Range
from attnkit.recipe.checks import (
    PluginLoader,
    check_devices,
    check_fit,
    check_foreign_keys,
    check_model,
    check_named,
    check_strategy,
    check_task,
    hint_at_section,
    hint_at_task,
    import_plugin,
    load_plugins,
)
from attnkit.recipe.errors import KeyPath, Mark, Problem, RecipeError
from attnkit.recipe.interpolation import interpolate
from attnkit.recipe.merging import apply_overrides, change, override_key, read_layers
from attnkit.recipe.paths import OutputPath, absolute_plugins
from attnkit.recipe.schema import Checker
from attnkit.recipe.sections import (
    AblationOptions,
    CheckpointOptions,
    LoggingOptions,
    TrainerOptions,
    ValidationOptions,
)
from attnkit.recipe.shipped import located
from attnkit.recipe.source import Node, node_of
from attnkit.recipe.variant import (
    BASE,
    FOLDER_NAME,
    NOT_IN_A_NAME,
    is_within,
    variant_of,
)
from attnkit.recipe.writing import plain_types, to_yaml
from attnkit.registry import (
    CALLBACKS,
    OPTIMIZERS,
    SCHEDULES,
    SOURCES,
    TASKS,
    TOKENIZERS,
    Option,
    Spec,
    options_of,
)

NOT_IN_EVERY_TASK = ("tokenizer", "target_tokenizer", "trainer.batch_size", "trainer.batch_tokens")
"""Keys that a recipe has only if its task takes them, see `TaskDefinition.takes`."""


@dataclass(frozen=True, kw_only=True)
class RecipeKeys:
    """The keys of a recipe file, except `extends`, which is resolved first.

    Args:
        model: options of the task's model.
        name: folder of the recipe's runs; default: the stem of the file. Not inherited.
        variant: folder below; default: `base`, or a name made of the overrides. Not inherited.
        task: what the model learns; the section with its name has its options.
        seed: seed of the initial weights and the batches.
        runs_dir: folder of all runs, relative to the working directory.
        plugins: Python files, relative to the recipe that names them or to the working directory,
            or modules. Imported first.
        data: data of the task.
        tokenizer: splits text into tokens, for tasks that read text.
        target_tokenizer: tokenizer of the target, for translation; null: one joint vocabulary.
        optimizer: optimizer.
        schedule: learning-rate schedule.
        trainer: how the run trains.
        validation: how it validates.
        checkpoint: when it is saved, and what is kept.
        logging: what it logs, and where.
        callbacks: callbacks, each a name, the path of a class, or {name: ..., option: ...}.
        ablation: variants to compare, for `attnkit ablate`; a single run has none.
    """

    name: Annotated[str, FOLDER_NAME]
    variant: Annotated[str, FOLDER_NAME] = BASE
    task: str = "language_modeling"
    seed: Annotated[int, Range(min=0, max=2**32 - 1)] = 0
    runs_dir: Annotated[Path, OutputPath()] = Path("runs")
    plugins: tuple[str, ...] = ()
    data: Annotated[Spec, SOURCES] = Spec("stdlib_docs")
    tokenizer: Annotated[Spec, TOKENIZERS] = Spec("char")
    target_tokenizer: Annotated[Spec, TOKENIZERS] | None = None
    model: dict[str, Any]
    optimizer: Annotated[Spec, OPTIMIZERS] = Spec("adamw")
    schedule: Annotated[Spec, SCHEDULES] = Spec("cosine")
    trainer: TrainerOptions = field(default=TrainerOptions())
    validation: ValidationOptions = field(default=ValidationOptions())
    checkpoint: CheckpointOptions = field(default=CheckpointOptions())
    logging: LoggingOptions = field(default=LoggingOptions())
    callbacks: Annotated[tuple[Spec, ...], CALLBACKS] = ()
    ablation: AblationOptions | None = None

    @property
    def run_dir(self) -> Path:
        """Directory of the run: `<runs_dir>/<name>/<variant>/seed<seed>`."""
        return self.runs_dir / self.name / self.variant / f"seed{self.seed}"

    @property
    def validate_every(self) -> int:
        """Steps between validations: at least one, at the end."""
        return min(self.validation.every_n_steps, self.trainer.max_steps)


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeKeys):
    """A checked recipe. Two are equal if they describe the same run, whatever files they are from.

    Attributes:
        options: options of the task, from the section with its name.
        path: the file that it was read from; None if made in Python.
        source: the keys as written, before interpolation, with their places.
        loader: imports its plugins.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    source: Node = field(compare=False, repr=False)
    loader: PluginLoader = field(default=import_plugin, compare=False, repr=False)

    @functools.cached_property
    def definition(self) -> Any:
        """The task with its options, a `TaskDefinition`."""
        return TASKS.build(Spec(self.task, self.options))

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain types, with all defaults, so that later defaults change nothing."""
        names = [item.name for item in dataclasses.fields(RecipeKeys)]
        keys = {name: plain_types(getattr(self, name)) for name in names}
        for key in foreign_keys(self.task):
            *sections, name = key.split(".")
            del (keys[sections[0]] if sections else keys)[name]
        if not self.callbacks:
            del keys["callbacks"]
        ablation = keys.pop("ablation")
        if self.options:
            keys[self.task] = plain_types(self.options)
        if ablation is not None:
            keys["ablation"] = ablation
        return keys

    def to_yaml(self) -> str:
        """`to_dict` as the text of a recipe file; `load_recipe` reads an equal recipe from it."""
        return to_yaml(self.to_dict())

    def with_overrides(self, *overrides: str) -> Recipe:
        """Returns the recipe with `key=value` and `~key` applied to its source.

        Raises:
            RecipeError: if the result is not a valid recipe.
        """
        root = self._rooted(self.name, self.variant)
        return _recipe(root, overrides, self.path, [], self.loader)

    def changed(
        self,
        changes: Mapping[KeyPath, Node | Mark],
        *,
        name: str | None = None,
        variant: str | None = None,
    ) -> Recipe:
        """Returns the recipe with changes to its source.

        Args:
            changes: see `merging.change`.
            name: folder of its runs; None: unchanged.
            variant: folder below; None: unchanged.

        Raises:
            RecipeError: if the result is not a valid recipe.
        """
        problems: list[Problem] = []
        root = self._rooted(name or self.name, variant or self.variant)
        return _resolved(change(root, changes, problems), self.path, problems, self.loader)

    def _rooted(self, name: str, variant: str) -> Node:
        """The source, with the names of the run's folders."""
        written = {"name": node_of(name, _PYTHON), "variant": node_of(variant, _PYTHON)}
        return dataclasses.replace(self.source, value={**self.source.value, **written})


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, loader: PluginLoader = import_plugin
) -> Recipe:
    """Reads a recipe file, the files that it extends, and overrides. Imports the plugins that it
    names; for the recipe of a run or of an exported file, use `stored_recipe`.

    Args:
        path: the YAML file, or the name of one that comes with the kit (`quickstart`).
        overrides: `key=value` (the value is YAML) or `~key`, which removes a key.
        loader: imports the plugins.

    Raises:
        RecipeError: with every problem of the recipe.
    """
    problems: list[Problem] = []
    path = located(Path(path))
    try:
        root = read_layers(path, problems)
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from None
    return _recipe(root, overrides, path, problems, loader)


def recipe_from_dict(keys: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Makes a recipe from plain values, for Python users.

    Args:
        keys: as in a recipe file, with a `name`; plugin files relative to the working directory.
        overrides: as for `load_recipe`.

    Raises:
        RecipeError: with every problem of the recipe.
    """
    return _recipe(node_of(keys, _PYTHON), overrides, None, [], import_plugin)


_PYTHON = Mark("recipe")


def _recipe(
    root: Node,
    overrides: Sequence[str],
    path: Path | None,
    problems: list[Problem],
    loader: PluginLoader,
) -> Recipe:
    if path is not None and "name" not in root.value:
        root = _with(root, "name", node_of(path.stem, Mark(str(path))))
    source = apply_overrides(root, overrides, problems)
    naming = () if "variant" in map(override_key, overrides) else overrides
    return _resolved(source, path, problems, loader, naming)


def _resolved(
    source: Node,
    path: Path | None,
    problems: list[Problem],
    loader: PluginLoader,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Returns the checked recipe; `overrides` are those that name its variant."""
    resolved = interpolate(source, problems)
    if not problems and overrides:
        resolved = _with_variant(resolved, overrides)
    resolved = absolute_plugins(resolved)
    resolved, all_names_known = load_plugins(resolved, problems, loader)
    values = _checked(resolved, problems, all_names_known=all_names_known)
    if problems:
        raise RecipeError(problems)
    recipe = Recipe(**values, path=path, source=source, loader=loader)
    if all_names_known:
        check_fit(recipe, resolved, problems)
    if problems:
        raise RecipeError(problems)
    return recipe


def _checked(root: Node, problems: list[Problem], *, all_names_known: bool) -> dict[str, Any]:
    name, is_known = check_task(root, RecipeKeys, problems, all_names_known=all_names_known)
    if not is_known:  # its plugin was not loaded: its sections remain unchecked
        return _checked_without_task(root, name, problems)
    task = TASKS.get(name)
    root = check_foreign_keys(root, task, foreign_keys(name), problems)
    checker = Checker(_keys_of(name, task), root, problems, all_names_known=all_names_known)
    values = checker.check_all()
    values["options"] = values.pop(name, {})
    problems[:] = [hint_at_section(problem, root) for problem in problems]
    if not all_names_known:
        return values
    problems[:] = [hint_at_task(problem, root) for problem in problems]
    invalid = {problem.key.partition(".")[0] for problem in problems}
    if name not in invalid:
        check_named(name, TASKS, Spec(name, values["options"]), root, problems)
    if "model" not in invalid:
        check_model(task, values["model"], root, problems)
    for section, registry in {"data": task.data, **_NAMED}.items():
        if section not in invalid and values.get(section) is not None:
            check_named(section, registry, values[section], root, problems)
    if "trainer" not in invalid and "trainer.batch_size" in task.takes:
        check_devices(values["trainer"], root, problems)
    if not problems:
        check_strategy(values["trainer"], task, values["model"], root, problems)
    return values


_NAMED = {
    "tokenizer": TOKENIZERS,
    "target_tokenizer": TOKENIZERS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


def _keys_of(name: str, task: Any) -> dict[str, Option]:
    """The keys of a recipe of a task."""
    options = options_of(RecipeKeys)
    options["data"] = dataclasses.replace(
        options["data"], annotation=Annotated[Spec, task.data], default=task.default_data
    )
    model_keys = Annotated[dict[str, Any], OptionsOf(task.model_class())]
    options["model"] = dataclasses.replace(options["model"], annotation=model_keys)
    for key in foreign_keys(name):
        options.pop(key, None)
    if options_of(task):
        task_options = Annotated[dict[str, Any], OptionsOf(task)]
        options[name] = Option(name, task_options, {}, f"options of the task {name}")
    return options


def _checked_without_task(root: Node, name: str, problems: list[Problem]) -> dict[str, Any]:
    """The values of a recipe whose task is not registered here."""
    options = options_of(RecipeKeys)
    written = Option("data", str | dict[str, Any], {}, "")
    for section in ("data", name):
        options[section] = dataclasses.replace(written, name=section)
    known = dataclasses.replace(root, value={k: v for k, v in root.value.items() if k in options})
    values = Checker(options, known, problems, all_names_known=False).check_all()
    values["options"] = values.pop(name)
    return values


def foreign_keys(task: str) -> list[str]:
    """Keys that recipes of other tasks have; none where the task is not registered here."""
    takes = TASKS.get(task).takes if task in TASKS.names() else NOT_IN_EVERY_TASK
    return [key for key in NOT_IN_EVERY_TASK if key not in takes]


def _with_variant(root: Node, overrides: Sequence[str]) -> Node:
    base = root.value["variant"].value if "variant" in root.value else BASE
    if not isinstance(base, str):  # the schema refuses it
        return root
    counted = [text for text in overrides if not is_within(override_key(text), NOT_IN_A_NAME)]
    variant = variant_of(counted, base)
    return root if variant == base else _with(root, "variant", node_of(variant, root.mark))


def _with(root: Node, key: str, node: Node) -> Node:
    return dataclasses.replace(root, value={**root.value, key: node})
