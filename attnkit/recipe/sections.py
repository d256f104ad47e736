"""The sections of a recipe that configure the run itself, and name no class of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from attnkit.recipe.annotations import Range
from attnkit.registry import LAUNCHERS, LOGGERS, Spec


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How a run trains.

    Args:
        max_steps: optimizer steps.
        batch_size: examples of a batch, over all devices; of tasks that count them.
        batch_tokens: of tasks that count tokens: most of either side of a batch, padding included.
        accumulate: batches an optimizer step, whose gradient is the mean over all their targets.
        gradient_clip: greatest norm of the gradient; null: no limit.
        precision: `32`, `tf32` (its products rounded to TF32 on a GPU), `bf16`, or `auto`: bf16
            where the hardware computes it fast.
        compile: compile the model (torch.compile); `auto`: on a CUDA device.
        deterministic: use kernels alone that give the same sums each time, so that a run on a GPU
            is repeated to the last bit; where there is none, the run is refused.
        accelerator: `auto`, `cpu`, `gpu` or another accelerator that Lightning knows.
        devices: number of devices, or `auto` for all.
        strategy: `auto`; `ddp`: each device holds all weights; `fsdp`: each holds a share of
            weights, gradients and the optimizer's state; or another that Lightning knows.
        num_workers: processes that prepare batches; 0: the training process itself.
        max_time: seconds after which training stops, with a checkpoint; null: no limit.
        on_nan: what to do with a step whose loss or gradient is no finite number: `stop`, or
            `skip` it and go on.
        max_skipped: steps that may be skipped in all.
    """

    max_steps: Annotated[int, Range(min=1)] = 1000
    batch_size: Annotated[int, Range(min=1)] = 12
    batch_tokens: Annotated[int, Range(min=1)] = 2048
    accumulate: Annotated[int, Range(min=1)] = 1
    gradient_clip: Annotated[float, Range(above=0)] | None = 1.0
    precision: Literal["auto", "bf16", "tf32", 32] = "auto"
    compile: Literal["auto"] | bool = "auto"
    deterministic: bool = False
    accelerator: str = "auto"
    devices: Annotated[int, Range(min=1)] | Literal["auto"] = 1
    strategy: str = "auto"
    num_workers: Annotated[int, Range(min=0)] = 0
    max_time: Annotated[float, Range(above=0)] | None = None
    on_nan: Literal["stop", "skip"] = "stop"
    max_skipped: Annotated[int, Range(min=1)] = 10


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When a run is saved, and what is kept. The newest checkpoint always is.

    Args:
        every_n_steps: steps between checkpoints, besides those at each validation and at the end;
            null: no more than those.
        best: how many of those with the lowest validation loss are kept.
        keep_every: steps between checkpoints that are kept for good; null: none are.
    """

    every_n_steps: Annotated[int, Range(min=1)] | None = None
    best: Annotated[int, Range(min=0)] = 1
    keep_every: Annotated[int, Range(min=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """How a run validates.

    Args:
        every_n_steps: optimizer steps between validations.
        max_tokens: tokens of the validation split used while training; null: all.
        final_max_tokens: tokens of it used for the final numbers; null: all; `auto`: all, if that
            takes less than a tenth of the training, else an evenly spread part that does, of at
            least 65,536 and `max_tokens`. A synthetic task always uses its whole sets.
        part: the half of the validation split that counts as all of it; `all`: both. What is
            chosen by one half can be judged by the other. A synthetic task's first half is its
            validation set, and its second half, like `all`, its test sets.
    """

    every_n_steps: Annotated[int, Range(min=1)] = 250
    max_tokens: Annotated[int, Range(min=1)] | None = 65536
    final_max_tokens: Annotated[int, Range(min=1)] | Literal["auto"] | None = "auto"
    part: Literal["all", "first_half", "second_half"] = "all"


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """What a run writes down.

    Args:
        to: who listens: a list of loggers, each a name or {name: ..., option: ...}; [] is nobody.
        every_n_steps: optimizer steps between points of a curve.
        attention_maps: moments at which maps of the probe are drawn: step 0, log-spaced, the last;
            0: none.
        samples: moments at which text is generated; 0: none.
        probe: the text whose maps are drawn; null: the start of the validation split.
        probe_tokens: length of the probe in tokens.
    """

    to: Annotated[Spec | tuple[Spec, ...], LOGGERS] = (Spec("tensorboard"),)
    every_n_steps: Annotated[int, Range(min=1)] = 50
    attention_maps: Annotated[int, Range(min=0, max=200)] = 12
    samples: Annotated[int, Range(min=0, max=200)] = 3
    probe: str | None = None
    probe_tokens: Annotated[int, Range(min=1)] = 32


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What each variant spends; one of the four is set.

    Args:
        steps: optimizer steps.
        tokens: predicted tokens, all batches together.
        flops: floating-point operations of training, as `attnkit show` counts them.
        seconds: of training, with the validations in between. Speeds are measured before the first
            run, with as many processes at once as there are workers; the schedule falls over the
            steps that fit.
    """

    steps: Annotated[int, Range(min=1)] | None = None
    tokens: Annotated[float, Range(above=0)] | None = None
    flops: Annotated[float, Range(above=0)] | None = None
    seconds: Annotated[float, Range(above=0)] | None = None


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """A study: variants of the recipe, each trained with several seeds. `attnkit ablate` runs it.

    Args:
        vary: keys, each with a list of values; every combination of them is a variant.
        variants: names, each with the keys in which that variant differs from the recipe; with
            `vary`, each of them is combined with each of those.
        base: the variant that the others are compared with and matched to; null: the first.
        seeds: how many seeds, from 0 on, or a list of them. Variants of one seed see the same
            batches in the same order.
        match: what every variant must have as much of as the base, within 1 %: `parameters`,
            `flops` (a token, in training), `cache_bytes` (at a full context) or `none`.
        free: the size that is changed to match, or a list of keys that get one size; null:
            `model.mlp_dim`, or `model.dim` where there is no MLP; for the cache, which the MLP's
            width does not touch, the heads' width.
        budget: what each variant spends; null: `trainer.max_steps`.
        tune: keys, each with candidate values; every variant takes the combination with which it
            has the lowest loss on the first half of the validation split, in a run of its own
            with another seed. The study's numbers are those of the second half.
        metric: the number that is compared, by its name among the metrics in `result.json`.
        workers: runs at the same time; null: the launcher decides.
        launcher: what starts the runs.
    """

    vary: dict[str, Any] | None = None
    variants: dict[str, Any] | None = None
    base: str | None = None
    seeds: Annotated[int, Range(min=1, max=1000)] | list[int] = 1
    match: Literal["parameters", "flops", "cache_bytes", "none"] = "none"
    free: str | list[str] | None = None
    budget: BudgetOptions | None = None
    tune: dict[str, Any] | None = None
    metric: str = "loss"
    workers: Annotated[int, Range(min=1)] | None = None
    launcher: Annotated[Spec, LAUNCHERS] = Spec("local")
