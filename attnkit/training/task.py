"""The base class of all tasks: sums losses, names and logs metrics, and seeds each batch so that a
resumed run repeats it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attnkit.attention.kernels import outside
from attnkit.attention.maps import evaluating, has_attention
from attnkit.attention.stream import Stream
from attnkit.data.order import BatchesFrom, StepsAhead, batch_seed, end_without_parent
from attnkit.hardware.devices import has_several_processes
from attnkit.listeners.listener import Listener
from attnkit.models.sharding import shard, whole_copy
from attnkit.training.compiled import CompileClock, Compiled
from attnkit.training.optimizer_steps import OptimizerSteps
from attnkit.training.optimizers import OptimizerRecipe
from attnkit.training.probe import Probe as Probe
from attnkit.training.schedules import Schedule


class Task(OptimizerSteps, ABC):
    """A model with its losses and its optimizer.

    A subclass overrides `losses`. Everything else has a default: `measure` and `metrics` for
    validation, `probes` for attention maps, `sample` for text. Options of the recipe belong to the
    `TaskDefinition`, which is available as `definition`.

    A step minimises the sum of the losses, each a mean over its targets. Where a step has several
    batches, of this process or of others, each is weighted by its number of targets,
    `num_targets`.

    Args:
        model: the network.
        data: a `TaskData`.
        optimizer: builds the optimizer.
        schedule: of the learning rate.
        definition: the `TaskDefinition` with the options of the recipe.
        max_steps: optimizer steps of the whole run.
        accumulate: batches per optimizer step.
        num_workers: processes that load batches.
        seed: of the run.
        gradient_clip: largest norm of the gradient; None: no limit.
        compile_model: run the model through `torch.compile`.
        cuda_graphs: replay compiled steps as CUDA graphs where that is possible.
        dynamic_shapes: compile one graph for batches of all sizes.

    Attributes:
        size_keys: the keys of a recipe that determine the batch size and the sequence length, for
            error messages.
        equal_batches: all batches have the same number of targets, so that none is weighted.
        batch_weight: weight of the current batch in its step; 1 if all have the same.
        loss_names: names of the losses that have a curve each; empty if there is only one loss.
        replays: steps are replayed as CUDA graphs.
        batch_shape: shape of the first tensor of the current batch, for error messages.
    """

    size_keys: tuple[str, str] = ("trainer.batch_size", "model.max_seq_len")
    equal_batches: bool = False

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        optimizer: OptimizerRecipe,
        schedule: Schedule,
        *,
        definition: Any = None,
        max_steps: int,
        accumulate: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        gradient_clip: float | None = 1.0,
        compile_model: bool = False,
        cuda_graphs: bool = True,
        dynamic_shapes: bool = False,
    ) -> None:
        super().__init__(
            optimizer,
            schedule,
            max_steps=max_steps,
            gradient_clip=gradient_clip,
            compile_model=compile_model,
        )
        self.cuda_graphs = cuda_graphs
        self.compile_clock = CompileClock()
        self.dynamic_shapes = dynamic_shapes
        self._take(model)
        self.data = data
        self.definition = definition
        self.accumulate = accumulate
        self.num_workers = num_workers
        self.seed = seed
        self._plain: list[nn.Module] = []  # outside the module tree; while the model is sharded
        self.batch_shape: tuple[int, ...] = ()
        self.replays = False
        self._under_way: tuple[Any, int] = None, -1  # batch and number of a step that is replayed
        self.is_final = False
        self.loss_names: tuple[str, ...] = ()
        self._totals: dict[str, Tensor] = {}  # weighted sum and sum of weights, (2,)
        self.batch_weight: float | Tensor = 1.0
        self._batch_weights: deque[float | Tensor] = deque()

    def _take(self, model: nn.Module) -> None:
        self.model = model
        # Kept outside the module tree: its parameters are the model's, and hooks on the plain model
        # must keep working.
        run = Compiled(model, dynamic=self.dynamic_shapes) if self.compile_model else model
        self._run: list[Callable[..., Any]] = [run]
        self._collects = bool(getattr(model, "has_auxiliary_losses", False))
        self._auxiliary: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Shares the weights out before training, if the strategy is made for it."""
        mesh = self.device_mesh
        if mesh is not None and self.trainer.state.fn == TrainerFn.FITTING and not self._plain:
            self._plain = [shard(self.model, mesh["data_parallel"])]

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Gives `model` whole weights on each process, also where training shards them; needed to
        run it other than by `forward`. All processes must enter together; inside, none waits for
        another.
        """
        model = self.model
        if self._plain:
            self.model = whole_copy(model, self._plain[0])
        try:
            yield
        finally:
            self.model = model

    @contextmanager
    def plain_model(self) -> Iterator[None]:
        """Lets `run_model` call `model` itself in the block, in evaluation mode: not compiled, so
        that hooks on its modules are called.
        """
        run, compiled = self._run, self.compile_model
        self._run, self.compile_model = [self.model], False
        try:
            with evaluating(self):
                yield
        finally:
            self._run, self.compile_model = run, compiled

    def setup(self, stage: str) -> None:
        """Starts to measure how long torch compiles."""
        if self.compile_model:
            self.compile_clock.start()

    def teardown(self, stage: str) -> None:
        """Stops measuring."""
        if self.compile_model:
            self.compile_clock.stop()

    def run_model(self, *args: Any, **options: Any) -> Any:
        """Calls the model, compiled if the recipe says so. In training, keeps the auxiliary losses
        of its mechanisms for `auxiliary_losses`.
        """
        if not (self._collects and self.training):
            return self._run[0](*args, **options)
        stream = Stream()
        output = self._run[0](*args, **options, stream=stream)
        for name, term in (stream.losses or {}).items():  # a task may call the model more than once
            before = self._auxiliary.get(name)
            self._auxiliary[name] = term if before is None else before + term
        return output

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Returns the () losses by name that mechanisms added since the last call."""
        found, self._auxiliary = self._auxiliary, {}
        return found

    def forward(self, *args: Any) -> Any:
        """Calls the plain model, for maps and samples."""
        return self.model(*args)

    def train_batches(self, stop: int) -> Dataset[Any]:
        """Returns this process's part of the batches 0 to `stop - 1` of the run. Batch n must be a
        function of (seed, n) alone.
        """
        trainer = self.trainer
        return self.data.train_batches(0, stop, trainer.global_rank, trainer.world_size)

    def val_batches(self) -> Dataset[Any]:
        """Returns fixed validation batches; if `is_final`, those of the final metrics."""
        data = self.data
        return data.val_batches(data.final_max_tokens if self.is_final else data.val_max_tokens)

    def train_dataloader(self) -> DataLoader | StepsAhead:
        """Returns the training batches, from the first that is still to be trained on."""
        first, stop = (n * self.accumulate for n in (self.trainer.global_step, self.max_steps))
        loader = self._loader(self.train_batches(stop), sampler=BatchesFrom(first, stop))
        if self.equal_batches or self.accumulate * self.trainer.world_size == 1:
            return loader
        self._batch_weights.clear()
        return StepsAhead(loader, self.accumulate, self._weigh)

    def _weigh(self, step: list[Any]) -> None:
        """Notes what each batch of a step counts for: its share of the targets of all batches, on
        all processes, times the number of batches. Counts are of the host; only where processes
        share a step are they summed on the device, for which nothing waits.
        """
        counts = [self.num_targets(batch) for batch in step]
        total: int | Tensor = max(sum(counts), 1)
        if (processes := self.trainer.world_size) > 1:
            here = torch.full((), float(sum(counts)), device=self.device)
            torch.distributed.all_reduce(here)  # Lightning's waits at a barrier
            total = here.clamp(min=1.0)
        self._batch_weights += [count * len(step) * processes / total for count in counts]

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Returns the losses of a training batch: name -> (), each a mean over its targets.

        Their sum is minimised. If there are several, each has a curve `loss/train_NAME`, so the
        names must not change during a run.

        Call the model by `run_model`, which compiles it if the recipe says so. Reading a tensor
        here (`float(x)`, `x.tolist()`) makes the host wait for the GPU in each step.
        """

    def all_losses(self, batch: Any) -> dict[str, Tensor]:
        """Returns `losses` and those that mechanisms of the model add.

        Raises:
            TypeError: if `losses` does not return () tensors by name.
            ValueError: if a mechanism adds one under the same name.
        """
        losses = self.losses(batch)
        if not isinstance(losses, dict) or not losses:
            raise TypeError(
                f"{type(self).__name__}.losses must return a dict of losses, name -> (), and at "
                f"least one; got {losses if losses == {} else type(losses).__name__}"
            )
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.dim():
                what = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise TypeError(
                    f"{type(self).__name__}.losses must return a () tensor as `{name}`, got "
                    f"{what}; return the mean over the targets"
                )
        added = self.auxiliary_losses()
        if same := losses.keys() & added.keys():
            raise ValueError(
                f"a mechanism of the model adds a loss `{min(same)}`, and so does "
                f"{type(self).__name__}.losses; rename one of them"
            )
        return losses | added

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | dict[str, Tensor]:
        """Returns the weighted sum of the losses of one batch; of several losses also the values
        for their curves.
        """
        # No self.log here: it costs 0.4 ms a call even in steps that write nothing.
        losses = self.all_losses(batch)
        total = total_of(losses)
        weight = self.batch_weight
        weighs = not (isinstance(weight, float) and weight == 1.0)
        loss = total * weight if weighs else total
        if len(losses) == 1:
            return loss
        self.loss_names = tuple(losses)
        curves = torch.stack([total, *losses.values()]).detach().float()
        share = 1.0 / self.accumulate
        return {"loss": loss, "curves": curves * (share * weight if weighs else share)}

    def val_dataloader(self) -> DataLoader:
        """The validation batches."""
        return self._loader(self.val_batches())

    def _loader(self, batches: Dataset[Any], **options: Any) -> DataLoader:
        return DataLoader(
            batches,
            **options,
            batch_size=None,
            num_workers=self.num_workers,
            worker_init_fn=end_without_parent,
            pin_memory=self.device.type == "cuda",
            persistent_workers=False,
        )

    def measure(self, batch: Any) -> dict[str, Tensor]:
        """Returns numbers of a validation batch: name -> (), each a mean over its targets,
        including `loss`. Default: the sum of `losses`.
        """
        return {"loss": total_of(self.losses(batch))}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Adds the result of `measure` to the means, weighted by the batch's targets."""
        weight = self.num_targets(batch)
        for name, value in self.measure(batch).items():
            # Filled on the device: a number of the host would be copied, and waited for.
            weights = torch.full_like(value, weight, dtype=torch.float)
            added = value * weights if weight else weights  # a mean over no targets is NaN
            sums = torch.stack([added, weights])
            self._totals[name] = self._totals[name] + sums if name in self._totals else sums

    def means(self) -> dict[str, float]:
        """Returns the means of `measure` over the validation that has just ended, over all
        processes, and resets them.
        """
        names, sums = list(self._totals), list(self._totals.values())
        self._totals.clear()
        if not names:
            return {}
        totals = torch.stack(sums)
        if has_several_processes():  # evaluation of a finished run has no trainer
            torch.distributed.all_reduce(totals)
        return dict(zip(names, (totals[:, 0] / totals[:, 1]).tolist(), strict=True))

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of a validation: `loss`, which selects the best checkpoint, and
        others. Default: the means of `measure`.

        The base class logs them as `loss/val` and `quality/NAME`. Those of the last validation, in
        which `is_final` is True, are the results of the run. A name that contains `/` is not
        changed.
        """
        return self.means()

    def on_validation_epoch_end(self) -> None:
        """Names the metrics and logs them."""
        found = self.metrics()
        if "loss" not in found:
            raise TypeError(
                f"{type(self).__name__}.metrics must include `loss`, got "
                f"{', '.join(found) or 'none'}; it selects the best checkpoint"
            )
        names = {"loss": "loss/val"} if not self.is_final else {}
        place = "final" if self.is_final else "quality"
        metrics = {
            name if "/" in name else names.get(name, f"{place}/{name}"): value
            for name, value in found.items()
        }
        # Lightning would write them a step too early: it counts the step when validation is over.
        self.log_dict(metrics, logger=False)
        for logger in self.loggers:
            logger.log_metrics(metrics, self.global_step)

    def num_tokens(self, batch: Any) -> int:
        """Returns the number of tokens of a batch, for the speed. Default: B x T of its first
        tensor, (B, T, ...).
        """
        return batch[0].shape[:2].numel()

    def num_targets(self, batch: Any) -> int:
        """Returns the number of targets that `losses` are means over; the batch is on the host.
        Default: `num_tokens`.
        """
        return self.num_tokens(batch)

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        """Returns the examples whose attention is logged. Default: none.

        Args:
            num_tokens: largest number of tokens of each.
            text: the example; None: the start of the validation data.
        """
        return []

    def head_metrics(self) -> dict[str, dict[str, list[float]]]:
        """Returns numbers of each head that only this task can measure, for the head clinic: name
        of the number -> name of the mechanism in `model` -> (H,). Default: none.
        """
        return {}

    @property
    def has_attention(self) -> bool:
        """True if the model has maps to draw: one without layers has none."""
        return has_attention(self.model)

    def before_training(self) -> None:
        """Is called before the first step, to measure the model or the data. Default: nothing."""

    def log_start(self, listeners: Listener) -> None:
        """Logs what `before_training` found, at step 0. Default: nothing."""

    def begin_final(self, directory: Path) -> None:
        """Is called after training: the next validation gives the final metrics. From here on each
        process has whole weights.

        Args:
            directory: of the run.
        """
        self.is_final = True
        if self._plain:
            self._take(whole_copy(self.model, self._plain.pop()))

    def record(self) -> dict[str, Any]:
        """Returns further entries of `result.json`, beside metrics and costs. Default: none."""
        return {}

    def log_end(self, listeners: Listener, step: int) -> None:
        """Logs what belongs at the last step. Default: nothing."""

    def sample(self, final: bool = False) -> str:
        """Returns output of the model as text; empty: nothing is shown. Default: empty.

        Args:
            final: at the end of the run.
        """
        return ""

    def example(self) -> str:
        """Returns an input from the validation data as text, for `next_commands` of the definition.
        Default: none.
        """
        return ""

    def on_train_start(self) -> None:
        """Sets the optimizer's options, and decides whether steps are replayed."""
        super().on_train_start()
        run = self._run[0]
        self.replays = isinstance(run, Compiled) and self.why_no_cuda_graphs() is None
        if isinstance(run, Compiled) and self.replays:
            run.use_cuda_graphs()

    def why_no_cuda_graphs(self) -> str | None:
        """Returns why steps of a compiled model are not replayed as CUDA graphs; None: they are."""
        if not self.cuda_graphs:
            return "the recipe says so"
        if self.device.type != "cuda":
            return "only for a CUDA device"
        if self.trainer.world_size > 1:
            return "processes exchange gradients during the backward pass"
        if self.accumulate > 1:
            return "the gradients of a batch must outlive the next one"
        if outside.is_any_taken():
            return "a kernel of another package may need the host"
        return None

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        """Computes the gradients. Where those of a replayed step cannot be captured, the step is
        computed again without CUDA graphs, as all steps from then on.
        """
        try:
            super().backward(loss, *args, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            run = self._run[0]
            if not self.replays or not isinstance(run, Compiled):
                raise
            run.leave_cuda_graphs(error)
            self.replays = False
            self.zero_grad(set_to_none=True)
            batch, batch_idx = self._under_way
            self._seed(batch_idx)
            with self.trainer.precision_plugin.train_step_context():
                output = self.training_step(batch, batch_idx)
            loss = output if isinstance(output, Tensor) else output["loss"]
            super().backward(loss, *args, **options)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Steps, then drops gradients that the next call of the model would overwrite."""
        super().optimizer_step(*args, **options)
        if self.replays:
            self.zero_grad(set_to_none=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate, and seeds dropout from (seed, rank, batch number) so that a
        resumed run repeats it.
        """
        if self._batch_weights:
            self.batch_weight = self._batch_weights.popleft()
        self._seed(batch_idx)
        super().on_train_batch_start(batch, batch_idx)
        self.batch_shape = next((tuple(t.shape) for t in batch if isinstance(t, Tensor)), ())
        if self.replays:
            self._under_way = batch, batch_idx

    def _seed(self, batch_idx: int) -> None:
        seed = batch_seed(self.seed, self.global_rank, batch_idx)
        # Not torch.manual_seed: without a GPU it keeps a stack trace of every call, 1 ms each.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)


def total_of(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of losses, ()."""
    total, *others = losses.values()
    for loss in others:
        total = total + loss
    return total
