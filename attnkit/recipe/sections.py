"""The sections of a recipe that configure the run itself, and name no class of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from attnkit.recipe.annotations import Range


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How a run trains.

    Args:
        max_steps: optimizer steps.
        batch_size: sequences of a batch, over all devices.
        accumulate: batches of which one optimizer step takes the mean gradient.
        gradient_clip: greatest norm of the gradient; null: no limit.
        precision: `32`, `bf16`, or `auto`: bf16 where the hardware computes it fast.
        compile: compile the model (torch.compile).
        accelerator: `auto`, `cpu`, `gpu` or another accelerator that Lightning knows.
        devices: number of devices, or `auto` for all.
        strategy: `auto`, `ddp`, `fsdp` or another strategy that Lightning knows.
        num_workers: processes that prepare batches; 0: the training process itself.
        checkpoint_every: steps between checkpoints; null: at each validation and at the end.
    """

    max_steps: Annotated[int, Range(min=1)] = 1000
    batch_size: Annotated[int, Range(min=1)] = 12
    accumulate: Annotated[int, Range(min=1)] = 1
    gradient_clip: Annotated[float, Range(above=0)] | None = 1.0
    precision: Literal["auto", "bf16", 32] = "auto"
    compile: bool = False
    accelerator: str = "auto"
    devices: Annotated[int, Range(min=1)] | Literal["auto"] = 1
    strategy: str = "auto"
    num_workers: Annotated[int, Range(min=0)] = 0
    checkpoint_every: Annotated[int, Range(min=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """How a run validates while it trains; its final number uses the whole validation split.

    Args:
        every_n_steps: optimizer steps between validations.
        max_tokens: tokens of the validation split used while training; null: all.
    """

    every_n_steps: Annotated[int, Range(min=1)] = 250
    max_tokens: Annotated[int, Range(min=1)] | None = 65536


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """What a run writes down.

    Args:
        every_n_steps: optimizer steps between points of a curve.
        attention_maps: moments at which maps of the probe are drawn: step 0, log-spaced, the last;
            0: none.
        samples: moments at which text is generated; 0: none.
        probe: the text whose maps are drawn; null: the start of the validation split.
        probe_tokens: length of the probe in tokens.
    """

    every_n_steps: Annotated[int, Range(min=1)] = 50
    attention_maps: Annotated[int, Range(min=0, max=200)] = 12
    samples: Annotated[int, Range(min=0, max=200)] = 3
    probe: str | None = None
    probe_tokens: Annotated[int, Range(min=1)] = 32
