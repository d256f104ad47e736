"""The sections of a recipe that configure the run itself: their keys do not depend on a name."""

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
        batch_size: examples per batch, over all devices; for tasks that count examples.
        batch_tokens: maximum number of tokens per batch, including padding, on either side; for
            tasks that count tokens.
        accumulate: batches per optimizer step; the gradient is the mean over all their targets.
        gradient_clip: the gradient is scaled down to this norm; null: no limit.
        precision: `32`, `tf32` (products rounded to TF32 on a GPU), `bf16`, or `auto`: bf16 where
            it is faster: on a GPU that has it, on a CPU that has it for all but small models.
        compile: compile the model (torch.compile); `auto`: on a CUDA device. One GPU then replays
            its steps as CUDA graphs, where sizes allow it; `without_cuda_graphs` only compiles.
        deterministic: use deterministic kernels only, so that a run on a GPU repeats bit for bit;
            an operation without one is an error.
        accelerator: `auto`, `cpu`, `gpu` or another accelerator of Lightning.
        devices: number of devices; `auto`: all.
        strategy: `auto`; `ddp`: each device holds all weights; `fsdp`: weights, gradients and the
            optimizer's state are sharded; or another strategy of Lightning.
        num_workers: processes that prepare batches; 0: the training process prepares them.
        max_time: seconds after which training stops, with a checkpoint; null: no limit.
        on_nan: what happens at a step whose loss or gradient is not finite: `stop` the run, or
            `skip` the step.
        max_skipped: steps that may be skipped in total.
    """

    max_steps: Annotated[int, Range(min=1)] = 1000
    batch_size: Annotated[int, Range(min=1)] = 12
    batch_tokens: Annotated[int, Range(min=1)] = 2048
    accumulate: Annotated[int, Range(min=1)] = 1
    gradient_clip: Annotated[float, Range(above=0)] | None = 1.0
    precision: Literal["auto", "bf16", "tf32", 32] = "auto"
    compile: Literal["auto", "without_cuda_graphs"] | bool = "auto"
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
    """When a run is saved, and which checkpoints are kept besides the newest.

    Args:
        every_n_steps: steps between checkpoints, in addition to those at each validation and at the
            end; null: only those.
        best: number of checkpoints with the lowest validation loss that are kept.
        keep_every: steps between checkpoints that are never removed; null: none.
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
        final_max_tokens: tokens of the validation split used for the final metrics; null: all;
            `auto`: all, if that takes less than a tenth of the training time, else an evenly spread
            part that does, but at least 65,536 and `max_tokens`. A synthetic task always uses its
            whole sets.
        part: the half of the validation split that is used; `all`: both. A choice made on one half
            can be judged on the other. For a synthetic task `first_half` is the validation set,
            and `second_half`, like `all`, the test sets.
    """

    every_n_steps: Annotated[int, Range(min=1)] = 250
    max_tokens: Annotated[int, Range(min=1)] | None = 65536
    final_max_tokens: Annotated[int, Range(min=1)] | Literal["auto"] | None = "auto"
    part: Literal["all", "first_half", "second_half"] = "all"


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """What a run logs, and where.

    Args:
        to: loggers, each a name or {name: ..., option: ...}; []: none.
        every_n_steps: optimizer steps between points of a curve.
        attention_maps: number of steps at which maps of the probe are drawn: step 0, log-spaced,
            the last; 0: none.
        samples: number of steps at which text is generated; 0: none.
        probe: text whose maps are drawn; null: the start of the validation split.
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
    """The budget of each variant; exactly one key is set.

    Args:
        steps: optimizer steps.
        tokens: predicted tokens, over all batches.
        flops: floating-point operations of training, as `attnkit show` counts them.
        seconds: seconds of training, including validations. Speeds are measured before the first
            run, with as many processes as there are workers; the schedule spans the steps that fit.
    """

    steps: Annotated[int, Range(min=1)] | None = None
    tokens: Annotated[float, Range(above=0)] | None = None
    flops: Annotated[float, Range(above=0)] | None = None
    seconds: Annotated[float, Range(above=0)] | None = None


@dataclass(frozen=True, kw_only=True)
class HalvingOptions:
    """Successive halving: at each rung but the last, only the best variants go on.

    With 3 rungs and keep 0.5, all variants train a quarter of their steps, half of them half of
    their steps, and a quarter of them to the end. All seeds of a variant stop together; the base
    never does. A stopped variant has no verdict, but still counts in the correction of the others.
    A variant that goes on ends with the same numbers as without halving.

    Args:
        rungs: stages of training; the last ends with all steps.
        keep: share of the variants, without the base, that goes on at each rung; also the steps
            until a rung, as a share of those until the next rung.
    """

    rungs: Annotated[int, Range(min=2)] = 3
    keep: Annotated[float, Range(above=0, below=1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """A claim that a study tests: one variant's number against another's. `attnkit claim` tests it.

    The interval of the difference over seeds decides: the claim holds if all of it is beyond `by`
    (or `times`), and does not hold if none of it is.

    Args:
        says: the claim, as a sentence.
        subject: the variant that it is about.
        number: metric or cost in `result.json` (`accuracy`, `loss`, `cache_bytes`), or a mean over
            the maps of the validation data: `first_token_mass`, `zero_share` or `entropy`.
        direction: whether the subject's number is higher or lower than the base's.
        switched_off: the variant in which the subject's idea is switched off, trained in the same
            way. The claim must fail for it. If the subject without its idea is the base itself,
            name the base.
        base: the variant that the subject is compared with; null: that of the study.
        by: the least difference that is claimed; a negative one allows a loss of that size.
        times: the least ratio that is claimed, instead of a difference.
        also: further numbers to report, such as costs.
        seeds: number of seeds that `attnkit claim` trains for it, counted from 0, or a list of
            seeds; null: those of the study.
        quick: optimizer steps after which the claim already holds, for `attnkit claim --quick`;
            null: it is not tested there.
        paper: where the claim is made.
    """

    says: str
    subject: str
    number: str
    direction: Literal["higher", "lower"]
    switched_off: str
    base: str | None = None
    by: float | None = None
    times: Annotated[float, Range(above=0)] | None = None
    also: tuple[str, ...] = ()
    seeds: Annotated[int, Range(min=2)] | list[int] | None = None
    quick: Annotated[int, Range(min=1)] | None = None
    paper: str | None = None


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """A study: variants of the recipe, each trained with several seeds. `attnkit ablate` runs it.

    Args:
        vary: keys, each with a list of values or a range (`0..0.3`, `log:1e-4..1e-2`, `2..8`);
            every combination of the lists is a variant, with the recipe's own values for the keys
            with ranges and with each draw of them.
        draws: number of combinations that are drawn from ranges.
        draw_seed: seed of the draws.
        variants: names, each with the keys in which the variant differs from the recipe; with
            `vary`, every combination of both is a variant.
        base: variant that the others are compared with and matched to; null: the first.
        seeds: number of seeds, counted from 0, or a list of seeds. Variants of one seed see the
            same batches in the same order.
        match: quantity in which every variant must equal the base within 1 %: `parameters`,
            `flops` (per token, in training), `cache_bytes` (at a full context) or `none`.
        free: size that is changed to match, or a list of keys that get the same size; null:
            `model.mlp_dim`, or `model.dim` if there is no MLP; for `cache_bytes`, which does not
            depend on the MLP's width, the heads' width.
        budget: budget of each variant; null: `trainer.max_steps`.
        tune: keys, each with candidate values or a range, as in `vary`. Every variant takes the
            combination with the lowest loss on the first half of the validation split, in separate
            runs with another seed. The study's metrics are those of the second half.
        halving: stops hopeless variants early; null: all train to the end.
        metric: metric that is compared, by its name in `result.json`.
        mean_curves: write the mean and the range of each variant's seeds as the run
            `mean/<variant>` for TensorBoard, once two seeds have finished.
        claims: names, each with a claim about the variants, for `attnkit claim`.
        workers: number of simultaneous runs; null: the launcher decides.
        launcher: starts the runs.
    """

    vary: dict[str, Any] | None = None
    draws: Annotated[int, Range(min=1)] = 8
    draw_seed: int = 0
    variants: dict[str, Any] | None = None
    base: str | None = None
    seeds: Annotated[int, Range(min=1, max=1000)] | list[int] = 1
    match: Literal["parameters", "flops", "cache_bytes", "none"] = "none"
    free: str | list[str] | None = None
    budget: BudgetOptions | None = None
    tune: dict[str, Any] | None = None
    halving: HalvingOptions | None = None
    metric: str = "loss"
    mean_curves: bool = True
    claims: dict[str, ClaimOptions] | None = None
    workers: Annotated[int, Range(min=1)] | None = None
    launcher: Annotated[Spec, LAUNCHERS] = Spec("local")
