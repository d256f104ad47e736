"""A recipe: everything that decides a run, read from YAML, checked, with every default filled in.

    recipe = load_recipe("quickstart", ["model.dim=64"])
    recipe.run_dir          # runs/quickstart/dim-64/seed0

The keys are the fields of `RecipeKeys` and of the sections below; what a name such as `adamw` takes
stands in its own class. Everything is checked before any data is touched, and all problems are told
at once (`RecipeError`).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from attnkit.recipe.annotations import OptionsOf, Range
from attnkit.recipe.checks import (
    PluginLoader,
    check_devices,
    check_length,
    check_model,
    check_named,
    check_strategy,
    check_task,
    import_plugin,
    load_plugins,
)
from attnkit.recipe.errors import KeyPath, Mark, Problem, RecipeError
from attnkit.recipe.interpolation import interpolate
from attnkit.recipe.layers import apply_overrides, change, override_key, read_layers
from attnkit.recipe.paths import Written, absolute_plugins
from attnkit.recipe.schema import Checker
from attnkit.recipe.sections import (
    AblationOptions,
    CheckpointOptions,
    LoggingOptions,
    TrainerOptions,
    TranslationOptions,
    ValidationOptions,
)
from attnkit.recipe.shipped import located
from attnkit.recipe.source import Node, node_of
from attnkit.recipe.variant import BASE, FOLDER_NAME, variant_of
from attnkit.recipe.writing import plain_types, to_yaml
from attnkit.registry import (
    CALLBACKS,
    OPTIMIZERS,
    PAIRS,
    SCHEDULES,
    SOURCES,
    SYNTHETIC,
    TOKENIZERS,
    Registry,
    Spec,
    options_of,
)

MODELS = {
    "language_modeling": "attnkit.models.language_model:LanguageModel",
    "synthetic": "attnkit.models.language_model:LanguageModel",
    "translation": "attnkit.models.encoder_decoder:EncoderDecoder",
}
"""Task -> the class whose options the section `model` takes. A new task is a line here."""

DATA: dict[str, tuple[Registry[Any], Spec]] = {
    "language_modeling": (SOURCES, Spec("stdlib_docs")),
    "synthetic": (SYNTHETIC, Spec("multi_query_recall")),
    "translation": (PAIRS, Spec("cldr_pairs")),
}
"""Task -> what the section `data` may name, and what it names by default."""

TRANSLATION_ONLY = ("translation", "target_tokenizer")
"""Keys that other tasks do not have."""


@dataclass(frozen=True, kw_only=True)
class RecipeKeys:
    """The keys of a recipe file; `extends`, which names the files below it, is resolved before.

    Args:
        model: options of the task's model.
        name: folder of the recipe's runs; a file may leave it to its stem. Not inherited.
        variant: folder below; default: `base`, or the overrides in a few words. Not inherited.
        task: what the model learns.
        seed: decides initial weights and batches.
        runs_dir: folder of all runs, relative to the working directory.
        plugins: Python files, relative to the recipe that names them, or else to the working
            directory; or modules. Imported first.
        data: where the text comes from, or which synthetic task.
        tokenizer: how text becomes tokens; a synthetic task has its own.
        target_tokenizer: translation only: how the target does; null: one joint vocabulary.
        optimizer: what makes steps of gradients.
        schedule: how the learning rate changes over the steps.
        trainer: how the run trains.
        validation: how it validates.
        checkpoint: when it is saved.
        logging: what it writes down.
        callbacks: what acts or looks on while it trains: names, or paths of Lightning's classes.
        translation: translation only: its loss and its search.
        ablation: variants to be compared, for `attnkit ablate`; no single run has it.
    """

    name: Annotated[str, FOLDER_NAME]
    variant: Annotated[str, FOLDER_NAME] = BASE
    task: Literal["language_modeling", "synthetic", "translation"] = "language_modeling"
    seed: Annotated[int, Range(min=0, max=2**32 - 1)] = 0
    runs_dir: Annotated[Path, Written()] = Path("runs")
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
    translation: TranslationOptions = field(default=TranslationOptions())
    ablation: AblationOptions | None = None

    @property
    def run_dir(self) -> Path:
        """Where the run lies: `<runs_dir>/<name>/<variant>/seed<seed>`."""
        return self.runs_dir / self.name / self.variant / f"seed{self.seed}"

    @property
    def validate_every(self) -> int:
        """Steps between validations: at least one, at the end."""
        return min(self.validation.every_n_steps, self.trainer.max_steps)

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain types, with today's defaults, so that later defaults change nothing."""
        names = [item.name for item in dataclasses.fields(RecipeKeys)]
        keys = {name: plain_types(getattr(self, name)) for name in names}
        if self.ablation is None:
            del keys["ablation"]
        if not self.callbacks:
            del keys["callbacks"]
        if self.task == "translation":
            del keys["trainer"]["batch_size"]
        else:
            del keys["trainer"]["batch_tokens"]
            for name in TRANSLATION_ONLY:
                del keys[name]
        if self.task == "synthetic":
            del keys["tokenizer"]
        return keys

    def to_yaml(self) -> str:
        """`to_dict` as a recipe file; `load_recipe` reads an equal recipe from it."""
        return to_yaml(self.to_dict())


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeKeys):
    """A checked recipe. Two are equal if they make the same run, wherever they were read.

    Attributes:
        path: the file that it was read from; None if made in Python.
        source: the keys as they were written, before interpolation, with their places.
        loader: what imports its plugins.
    """

    path: Path | None = field(default=None, compare=False)
    source: Node = field(compare=False, repr=False)
    loader: PluginLoader = field(default=import_plugin, compare=False, repr=False)

    def with_overrides(self, *overrides: str) -> Recipe:
        """Returns the recipe with `key=value` and `~key` applied to what was written.

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
        """Returns the recipe with changes to what was written.

        Args:
            changes: see `layers.change`.
            name: folder of its runs; None: as it is.
            variant: folder below; None: as it is.

        Raises:
            RecipeError: if the result is not a valid recipe.
        """
        problems: list[Problem] = []
        root = self._rooted(name or self.name, variant or self.variant)
        return _resolved(change(root, changes, problems), self.path, problems, self.loader)

    def _rooted(self, name: str, variant: str) -> Node:
        """What was written, and where it is to lie."""
        written = {"name": node_of(name, _PYTHON), "variant": node_of(variant, _PYTHON)}
        return dataclasses.replace(self.source, value={**self.source.value, **written})


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, loader: PluginLoader = import_plugin
) -> Recipe:
    """Reads a recipe file, what it extends, and overrides. Imports the plugins that it names: for
    the recipe of a run or of an exported file, take `stored_recipe`.

    Args:
        path: the YAML file, or the name of one that comes with the kit (`quickstart`).
        overrides: `key=value` (the value is YAML) or `~key`, which removes a key.
        loader: what imports the plugins.

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
    """Makes a recipe of plain values, for Python users.

    Args:
        keys: as in a recipe file, with a `name`; plugin files relative to the working directory.
        overrides: as for `load_recipe`.

    Raises:
        RecipeError: with every problem of the recipe.
    """
    return _recipe(node_of(keys, _PYTHON), overrides, None, [], import_plugin)


_PYTHON = Mark("recipe")
_NAMED = {"tokenizer": TOKENIZERS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


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
    counted = () if "variant" in map(override_key, overrides) else overrides
    return _resolved(source, path, problems, loader, counted)


def _resolved(
    source: Node,
    path: Path | None,
    problems: list[Problem],
    loader: PluginLoader,
    overrides: Sequence[str] = (),
) -> Recipe:
    """The recipe that was written; `overrides` are those that name its variant."""
    resolved = interpolate(source, problems)
    if not problems and overrides:
        resolved = _with_variant(resolved, overrides)
    resolved = absolute_plugins(resolved)
    resolved, all_names_known = load_plugins(resolved, problems, loader)
    values = _checked(resolved, problems, all_names_known=all_names_known)
    if problems:
        raise RecipeError(problems)
    return Recipe(**values, path=path, source=source, loader=loader)


def _checked(root: Node, problems: list[Problem], *, all_names_known: bool) -> dict[str, Any]:
    task = _task(root)
    model, (sources, default_source) = model_class(task), DATA[task]
    options = options_of(RecipeKeys)
    options["data"] = dataclasses.replace(
        options["data"], annotation=Annotated[Spec, sources], default=default_source
    )
    model_keys = Annotated[dict[str, Any], OptionsOf(model)]
    options["model"] = dataclasses.replace(options["model"], annotation=model_keys)
    checker = Checker(options, root, problems, all_names_known=all_names_known)
    values = checker.check_all()
    if not all_names_known:
        return values
    unsound = {problem.key.partition(".")[0] for problem in problems}
    if "model" not in unsound:
        check_model(model, values["model"], root, problems)
    for section, registry in {"data": sources, **_NAMED}.items():
        if section not in unsound:
            check_named(section, registry, values[section], root, problems)
    if values.get("target_tokenizer") and "target_tokenizer" not in unsound:
        named = values["target_tokenizer"]
        check_named("target_tokenizer", TOKENIZERS, named, root, problems)
    if "trainer" not in unsound and task != "translation":
        check_devices(values["trainer"], root, problems)
    if "task" not in unsound:
        check_task(task, values, root, problems)
    if not problems:
        check_strategy(values["trainer"], model, values["model"], root, problems)
    if task == "synthetic" and not {"model", "data"} & unsound and not problems:
        check_length(values["model"], SYNTHETIC.build(values["data"]).longest, root, problems)
    return values


def _task(root: Node) -> str:
    """The recipe's task; the default one where it names no known one."""
    written = root.value["task"].value if "task" in root.value else None
    return written if isinstance(written, str) and written in MODELS else RecipeKeys.task


def model_class(task: str) -> type:
    """The class of a task's model."""
    module, _, name = MODELS[task].partition(":")
    return getattr(importlib.import_module(module), name)


def _with_variant(root: Node, overrides: Sequence[str]) -> Node:
    before = root.value["variant"].value if "variant" in root.value else BASE
    if not isinstance(before, str):  # left as it is, for the schema to refuse
        return root
    variant = variant_of(overrides, before)
    return root if variant == before else _with(root, "variant", node_of(variant, root.mark))


def _with(root: Node, key: str, node: Node) -> Node:
    return dataclasses.replace(root, value={**root.value, key: node})
