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
        batch_size: sequences of a batch, over all devices; of no use in translation.
        batch_tokens: translation only: most tokens of either side of a batch, padding included.
        accumulate: batches of which one optimizer step takes the mean gradient.
        gradient_clip: greatest norm of the gradient; null: no limit.
        precision: `32`, `bf16`, or `auto`: bf16 where the hardware computes it fast.
        compile: compile the model (torch.compile).
        accelerator: `auto`, `cpu`, `gpu` or another accelerator that Lightning knows.
        devices: number of devices, or `auto` for all.
        strategy: `auto`, `ddp`, `fsdp` or another strategy that Lightning knows.
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
    precision: Literal["auto", "bf16", 32] = "auto"
    compile: bool = False
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


@dataclass(frozen=True, kw_only=True)
class TranslationOptions:
    """What only translation needs.

    Args:
        label_smoothing: share of each target's probability that is spread over the vocabulary
            (arXiv:1706.03762, section 5.4); the validation loss is without it.
        max_ratio: training pairs whose one side has more than this many times the tokens of the
            other are dropped; null: none.
        beam: hypotheses of the beam search at the end; 1: greedy.
        length_penalty: alpha of the search, see `models/beam_search.py`.
        decode_every: steps between greedy translations of a part of the validation split, for BLEU
            and chrF; null: with each validation.
        decode_sentences: how many sentences of it; 0: none.
        average: how many of the last weights, one after each validation, are averaged for the
            final numbers; 0: none, the last weights are used.
        probes: sentence pairs whose attention is drawn.
    """

    label_smoothing: Annotated[float, Range(min=0, max=0.5)] = 0.1
    max_ratio: Annotated[float, Range(min=1)] | None = 9.0
    beam: Annotated[int, Range(min=1, max=100)] = 5
    length_penalty: Annotated[float, Range(min=0, max=5)] = 1.0
    decode_every: Annotated[int, Range(min=1)] | None = None
    decode_sentences: Annotated[int, Range(min=0)] = 200
    average: Annotated[int, Range(min=0, max=100)] = 0
    probes: Annotated[int, Range(min=1, max=10)] = 2
