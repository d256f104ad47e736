"""The contract between a task and recipes, runs and commands. Loads no Lightning.

A task has two parts. Its `TaskDefinition`, registered in `TASKS`, defines the keys of a recipe and
builds data, model and trained runs. Its `Task` (`training/task.py`) is the LightningModule. Most
commands only need the first, and Lightning takes seconds to import.
"""

from __future__ import annotations

import importlib
import inspect
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from attnkit.hardware.devices import compiles
from attnkit.recipe.checks import complete_tasks
from attnkit.registry import OPTIMIZERS, SCHEDULES, TASKS, Registry, Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from attnkit.data.task_data import TaskData
    from attnkit.recipe import Recipe
    from attnkit.tasks.trained_run import TrainedRun
    from attnkit.training.task import Task


class Row(NamedTuple):
    """A row of the table at the end of a run.

    Attributes:
        label: name of the number.
        number: the formatted number.
        is_dim: shown in grey.
        begins_section: separated from the row above by a line.
    """

    label: str
    number: str
    is_dim: bool = False
    begins_section: bool = False


class TaskDefinition(ABC):
    """A task as recipes and commands see it.

    The keyword-only parameters of `__init__` are the keys of the section with the task's name:
    `task: mine` and `mine: {weight: 0.5}`. An instance holds the values of one recipe. `__init__`
    reads no data.

    A subclass sets `data`, `default_data`, `model` and `module`, and overrides `build_data`.
    Everything else has a default.

    Attributes:
        data: registry of the names that the section `data` accepts.
        default_data: default of the section `data`.
        model: class of the model, or "package.module:Class". Its positional parameters are the
            data's `vocab_sizes`, its keyword-only ones the keys of the section `model`. An instance
            has the attribute `max_seq_len`, the length of its longest sequence in tokens. `attnkit
            show` and `compare` count the layers of a `Stack` one by one, and two FLOPs per token
            and weight of a model without one.
        module: class of the `Task`, or "package.module:Class", which is imported when a run starts.
        example_sizes: used as `vocab_sizes` to check a recipe without its data.
        run_class: class of the `TrainedRun` that `load_run` returns, or "package.module:Class".
        takes: the keys of this task among those that not all tasks have: `tokenizer`,
            `target_tokenizer`, `trainer.batch_size`, `trainer.batch_tokens`.
        loads_with: sections of the recipe that are needed to load a trained model.
        lower_is_better: metric -> whether lower is better, if its name does not imply it: lower for
            `loss`, `perplexity`, `bits` and `error`, otherwise higher.
    """

    data: ClassVar[Registry[Any]]
    default_data: ClassVar[Spec]
    model: ClassVar[type | str]
    module: ClassVar[type | str]
    example_sizes: ClassVar[tuple[int, ...]] = (256,)
    run_class: ClassVar[type | str] = "attnkit.tasks.trained_run:TrainedRun"
    takes: ClassVar[tuple[str, ...]] = ("trainer.batch_size",)
    loads_with: ClassVar[tuple[str, ...]] = ("model", "data")
    lower_is_better: ClassVar[Mapping[str, bool]] = {}

    @property
    def name(self) -> str:
        """The name under which the task is registered."""
        return TASKS.name_of(type(self))

    # The recipe

    @classmethod
    def missing_parts(cls) -> list[str]:
        """Returns what a subclass does not define, in words."""
        needed = ("data", "default_data", "model", "module")
        missing = [f"the class attribute `{name}`" for name in needed if not hasattr(cls, name)]
        missing += [f"the method `{name}`" for name in sorted(cls.__abstractmethods__)]
        module = getattr(cls, "module", "")
        if inspect.isclass(module):
            methods = sorted(getattr(module, "__abstractmethods__", ()))
            missing += [f"the method `{name}` of {module.__name__}" for name in methods]
        return missing

    def check(self, recipe: Recipe) -> Iterable[tuple[str, str]]:
        """Yields the problems of a recipe whose keys are valid one by one: the dotted key, and the
        problem with its remedy. Default: none.
        """
        return ()

    @classmethod
    def does_not_take(cls, key: str) -> str:
        """Returns why a recipe of this task has no such key, for a key that is not in `takes`."""
        name = TASKS.name_of(cls)
        if key == "trainer.batch_size":
            return f"{name} counts tokens; set trainer.batch_tokens"
        owners = [other for other, task in complete_tasks().items() if key in task.takes]
        tasks = " or ".join(f"`task: {owner}`" for owner in owners)
        return f"belongs to {tasks}, and this is {name}"

    # Data, model and module

    @abstractmethod
    def build_data(self, recipe: Recipe) -> TaskData:
        """Returns the data of a recipe; reads nothing yet."""

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """Returns `vocab_sizes`, exact or estimated, without reading data, and the origin of the
        numbers. Default: `example_sizes`.
        """
        return self.example_sizes, "assumed"

    @classmethod
    def model_class(cls) -> type:
        """Returns the class of the model."""
        return loaded(cls.model)

    def build_model(self, recipe: Recipe, *sizes: int) -> Any:
        """Returns the model of a recipe, initialised from its seed."""
        import torch

        torch.manual_seed(recipe.seed)
        return self.model_class()(*sizes, **recipe.model)

    def build_task(self, recipe: Recipe, model: nn.Module, data: TaskData) -> Task:
        """Returns the `Task` of a recipe."""
        return loaded(self.module)(
            model,
            data,
            OPTIMIZERS.build(recipe.optimizer),
            SCHEDULES.build(recipe.schedule),
            definition=self,
            max_steps=recipe.trainer.max_steps,
            accumulate=recipe.trainer.accumulate,
            num_workers=recipe.trainer.num_workers,
            seed=recipe.seed,
            gradient_clip=recipe.trainer.gradient_clip,
            compile_model=compiles(recipe.trainer.compile, recipe.trainer.accelerator),
            cuda_graphs=recipe.trainer.compile != "without_cuda_graphs",
            **self.module_options(recipe),
        )

    def module_options(self, recipe: Recipe) -> dict[str, Any]:
        """Returns further keyword arguments of `module`. Default: none."""
        return {}

    def tokens_per_batch(self, recipe: Recipe, max_seq_len: int) -> int:
        """Returns the number of tokens of a full batch, without reading data."""
        if "trainer.batch_tokens" in self.takes:
            return recipe.trainer.batch_tokens
        return recipe.trainer.batch_size * max_seq_len

    # Trained runs

    def load(
        self, folder: Path, recipe: Recipe, weights: dict[str, Tensor], origin: Path
    ) -> TrainedRun:
        """Loads a trained run. Default: `run_class` with a model of `sizes`.

        Args:
            folder: contains the files of `TaskData.save_vocabulary`.
            recipe: recipe of the run.
            weights: weights of its model.
            origin: checkpoint or exported file with the weights, for error messages.

        Raises:
            CheckpointError: if the weights do not fit the model.
        """
        from attnkit.tasks.trained_run import filled, home_of

        sizes, _ = self.sizes(recipe)
        model = filled(lambda: self.model_class()(*sizes, **recipe.model), weights, origin)
        return loaded(self.run_class)(recipe, home_of(folder, origin), model)

    def evaluate(self, run: TrainedRun, data: Sequence[str]) -> Iterator[Any]:
        """Yields the output of `attnkit evaluate`. Default: the metrics of the whole validation
        split, as at the end of training.

        Raises:
            DataError: if `data` is not empty.
        """
        import torch

        from attnkit.console import numbers_table
        from attnkit.errors import DataError
        from attnkit.hardware.devices import default_device

        if data:
            raise DataError(
                f"--data {data[0]}: a run of the task {self.name} is evaluated on its own "
                "validation split; remove this option"
            )
        own = self.build_data(run.recipe)
        own.prepare()
        device = default_device()
        task = self.build_task(run.recipe, run.model, own).to(device).eval()
        task.is_final = True
        batches = own.val_batches(None)
        with torch.no_grad():
            for i in range(len(batches)):
                task.validation_step(task.transfer_batch_to_device(batches[i], device, 0), i)
            metrics = task.metrics()
        part = run.recipe.validation.part
        record = {**task.record(), "metrics": metrics, "validation_part": part}
        record["validation_share"] = 1
        table = numbers_table(self.title(record))
        for row in self.rows(record):
            table.add_row(row.label, row.number)
        yield table
        yield from self.remarks(record)

    # The report of a run

    def title(self, record: Mapping[str, Any]) -> str:
        """Returns the title of the table at the end of a run: the data of the final metrics.

        Args:
            record: the content of `result.json`.
        """
        part, share = record["validation_part"], record.get("validation_share", 1)
        some = "whole" if share == 1 else f"{share:.1%} of the"
        if part == "all":
            return f"{some} validation split"
        half = f"{part.replace('_', ' ')} of validation"
        return half if share == 1 else f"{share:.1%} of the {half}"

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """Yields the rows of that table. Default: one per metric."""
        for name, value in record["metrics"].items():
            yield Row(name.replace("_", " "), f"{value:.4f}")

    def remarks(self, record: Mapping[str, Any]) -> Iterable[str]:
        """Yields remarks on those numbers. Default: none."""
        return ()

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """Returns commands for a trained run: purpose -> command.

        Args:
            directory: directory of the run.
            example: from `Task.example`.
        """
        command = f"attnkit attention {shlex.quote(str(directory))}"
        return {"show maps": f"{command} --text {shlex.quote(example)}"} if example else {}


def loaded(named: type | str) -> Any:
    """Returns a class, or imports the one named "package.module:Class"."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
