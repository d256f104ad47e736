"""A case on which laws are tested: one mechanism in one seat (role, mask, position) at one size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attnkit.attention import kernels
from attnkit.attention.base import Attention, Prepared, Role
from attnkit.attention.maps import attention_map
from attnkit.attention.score_attention import ScoreAttention
from attnkit.checks.seats import MaskCase
from attnkit.masks import Grid, Mask, build_mask
from attnkit.registry import ATTENTION, POSITIONS

NOISE = 0.2
"""Standard deviation of the noise on all parameters, so that an initial identity or zero does not
hide anything.
"""


class Broken(AssertionError):
    """A law does not hold; the message is the evidence."""


class DoesNotApply(Exception):
    """A law does not apply to a case; the message is the reason."""


BATCHES, LENGTHS = (3, 2, 5, 7), (10, 11, 13, 9, 12, 14, 15)
"""Numbers of sequences and tokens of a case: the first that are not another size of it, so that
axes cannot be confused without an error.
"""

MORE, FEWER = 3, -4
"""Difference between the number of keys and of queries in cross-attention."""


@dataclass(frozen=True, eq=False)
class Case:
    """A mechanism with its seat and all sizes.

    Args:
        mechanism: the class.
        mask_case: a mask, for any number of keys.
        position: name of a position encoding.
        role: self-attention, or cross-attention over a context of other tokens.
        options: options of the mechanism.
        B: number of sequences; 0: the first of `BATCHES` that differs from other sizes.
        T: number of queries; 0: the first of `LENGTHS` that differs from other sizes.
        C: width of the model; 0: 32, or a multiple of the number of heads in `options`.
        seed: seed of weights and tokens.
        extra: number of keys minus number of queries, in cross-attention.
    """

    mechanism: type[Attention]
    mask_case: MaskCase
    position: str = "none"
    role: Role = "self"
    options: Mapping[str, Any] = field(default_factory=dict)
    B: int = 0
    T: int = 0
    C: int = 0
    seed: int = 3
    extra: int = MORE

    def __post_init__(self) -> None:
        if not self.C:
            heads = self.options.get("num_heads", 4)
            even = isinstance(heads, int) and heads > 0 and 32 % (2 * heads)
            object.__setattr__(self, "C", 8 * heads if even else 32)
        if not self.B or not self.T:
            known = _own_sizes(self.mechanism, self.options, self.C)
            taken = {1, self.C, *known, self.B, self.T}
            if not self.B:
                object.__setattr__(self, "B", next(b for b in BATCHES if b not in taken))
            taken.add(self.B)
            if not self.T:
                free = (t for t in LENGTHS if not {t, t + MORE, t + FEWER} & taken)
                object.__setattr__(self, "T", next(free, LENGTHS[0]))

    def __str__(self) -> str:
        name = ATTENTION.name_of(self.mechanism)
        sizes = f"B={self.B} T={self.T} S={self.S} C={self.C}"
        seat = f"{self.role}-attention, mask {self.mask_case.name}, position {self.position}"
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        return f"{name}: {seat}, {sizes}{options}"

    @property
    def S(self) -> int:
        """Number of keys."""
        return self.T if self.role == "self" else max(1, self.T + self.extra)

    def refusal(self) -> str | None:
        """Returns why the mechanism refuses this seat; None: it does not."""
        return self.mechanism.refusal(self.role, self.mask, self.position)

    def first_served(self, *masks: str) -> str:
        """Returns the first of these masks that the mechanism does not refuse, or the last one."""
        for name in masks:
            if self.mechanism.refusal(self.role, build_mask(name), self.position) is None:
                return name
        return masks[-1]

    def resized(self, **changes: Any) -> Case:
        """Returns a copy with other sizes, or in another seat."""
        return replace(self, **changes)

    def build(self, **options: Any) -> Attention:
        """Builds the mechanism in evaluation mode, with noise on all parameters."""
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would store a traceback for each kind of device not in use.
            torch.default_generator.manual_seed(self.seed)
            attention = self.mechanism(self.C, **{**self.options, **options})
            if POSITIONS.get(self.position).acts_on != "embeddings":
                attention.with_position(self.position)
            with torch.no_grad():
                for parameter in attention.parameters():
                    parameter.add_(NOISE * torch.randn(parameter.shape))
        return attention.eval()

    @functools.cached_property
    def attention(self) -> Attention:
        """The mechanism, built once, for laws that do not change it."""
        return self.build()

    def mask_over(self, num_keys: int) -> Mask:
        """Returns the mask for this number of keys."""
        return self.mask_case.over(self.B, num_keys)

    @functools.cached_property
    def mask(self) -> Mask:
        """The mask over all keys."""
        return self.mask_over(self.S)

    def mask_of_copies(self, count: int) -> Mask:
        """Returns the mask over all keys, for `copies` of the batch."""
        return self.mask_case.over(self.B, self.S, count)

    @staticmethod
    def copies(tokens: Tensor, count: int) -> Tensor:
        """Repeats a batch: (B, ...) -> (count B, ...)."""
        return tokens.repeat(count, 1, 1)

    @functools.cached_property
    def allowed(self) -> Tensor:
        """(B, T, S): the dense mask."""
        return self.mask.dense(self.T, self.S).expand(self.B, 1, self.T, self.S)[:, 0]

    def tokens(self, length: int, offset: int = 0) -> Tensor:
        """Returns random token embeddings (B, length, C)."""
        generator = torch.Generator().manual_seed(1000 * self.seed + offset)
        return torch.randn(self.B, length, self.C, generator=generator)

    @functools.cached_property
    def x(self) -> Tensor:
        """(B, T, C): the tokens of the queries."""
        return self.tokens(self.T)

    @functools.cached_property
    def context(self) -> Tensor:
        """(B, S, C): the tokens of keys and values; in self-attention the same tensor as `x`."""
        return self.x if self.role == "self" else self.tokens(self.S, offset=1)

    def run(self, attention: Attention | None = None) -> Tensor:
        """Returns the output of a mechanism (default: `attention`): (B, T, C)."""
        return (attention or self.attention)(self.x, self.context, self.mask)

    @functools.cached_property
    def output(self) -> Tensor:
        """(B, T, C): the output, without a graph."""
        with torch.no_grad():
            return self.run()

    @functools.cached_property
    def _prepared(self) -> Prepared:
        with torch.no_grad():
            q, k, v, carried = self.attention.prepare(self.x, self.context, self.mask)
            return Prepared(q, *self.attention.expand(k, v), carried)

    def heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns copies of the inputs q, k, v of `mix`, without a graph."""
        q, k, v, _ = self._prepared
        return q.clone(), k.clone(), v.clone()

    def beside(self) -> dict[str, Tensor]:
        """Returns the further argument of `mix`, `carried`, if the mechanism carries something."""
        carried = self._prepared.carried
        return {} if carried is None else {"carried": carried.clone()}

    @functools.cached_property
    def map(self) -> Tensor:
        """(B, H, T, S): the attention map."""
        return attention_map(self.attention, self.x, self.context, self.mask)

    @functools.cached_property
    def influences(self) -> dict[str, Tensor]:
        """Influence of each token (S) on each output (B, T) of its own row, measured in several
        ways, see `influence.py`.
        """
        from attnkit.checks.influence import measured

        return measured(self)


def _own_sizes(mechanism: type[Attention], options: Mapping[str, Any], dim: int) -> set[int]:
    """Returns the numbers of heads and of key heads, and the width of a head; nothing for a
    mechanism that cannot be built.
    """
    key = mechanism, repr(sorted(options.items())), dim
    if key not in _SIZES:
        try:
            with torch.random.fork_rng(devices=[]):
                built = mechanism(dim, **options)
            _SIZES[key] = {built.num_heads, built.num_kv_heads, built.head_dim}
        except Exception:  # a law builds it again and reports the error
            return set()
    return _SIZES[key]


_SIZES: dict[tuple[type[Attention], str, int], set[int]] = {}


def require(condition: bool, reason: str) -> None:
    """Ends a law that does not apply here.

    Raises:
        DoesNotApply: if the condition is not met.
    """
    if not condition:
        raise DoesNotApply(reason)


def demand(condition: bool, evidence: str | Callable[[], str]) -> None:
    """Breaks a law unless the condition is met.

    Raises:
        Broken: with the evidence.
    """
    if not condition:
        raise Broken(evidence() if callable(evidence) else evidence)


def demand_close(
    computed: Tensor, expected: Tensor, what: str, atol: float = 2e-5, rtol: float = 1e-5
) -> None:
    """Breaks a law unless two tensors agree; reports where they differ most.

    Args:
        computed: the computed tensor.
        expected: the tensor to compare with.
        what: names both tensors.
        atol: absolute tolerance, in units of the largest expected number, or of 1 if that is less.
        rtol: relative tolerance of each number.

    Raises:
        Broken: if shapes differ, a number is not finite, or the tensors differ too much.
    """
    demand(
        computed.shape == expected.shape,
        lambda: f"{what}: shape {tuple(computed.shape)} instead of {tuple(expected.shape)}",
    )
    if not expected.numel():
        return
    demand(bool(computed.isfinite().all()), f"{what}: NaN or infinity")
    error = (computed.double() - expected.double()).abs()
    scale = expected.double().abs()
    excess = error - atol * scale.max().clamp(min=1) - rtol * scale
    if float(excess.max()) > 0:
        place = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
        raise Broken(f"{what}: differs by {float(error[place]):.1e} at {list(place)}")


@torch.no_grad()
def kernel_of(attention: Attention, x: Tensor, context: Tensor, mask: Mask) -> str:
    """Returns what computes a call, in parentheses, for the end of an evidence: a kernel of the
    kit, or the overridden steps; an empty string for a mechanism that overrides `mix`.
    """
    if not isinstance(attention, ScoreAttention) or type(attention).mix is not ScoreAttention.mix:
        return ""
    if own := attention.overridden_steps():
        return f" (its own {' and '.join(f'`{step}`' for step in own)})"
    try:
        q, k, v, carried = attention.prepare(x, context, mask)
        call = attention.call(q, *attention.expand(k, v), mask, carried)
        return f" (kernel {kernels.choose(call).kernel.name})"
    except Exception:  # the evidence is valid without it
        return ""


LARGEST_FACTOR = 1000.0
"""Factor that makes tokens larger than any norm allows."""


@torch.no_grad()
def scaled_to_scores(case: Case, attention: Attention, targets: tuple[float, ...]) -> list[float]:
    """Returns for each target a factor of the tokens with which the largest score is about the
    target: a power of 2, or `LARGEST_FACTOR` if there is none or the mechanism has no scores.
    """
    if not isinstance(attention, ScoreAttention):
        return [LARGEST_FACTOR] * len(targets)
    found, factor = dict.fromkeys(targets, LARGEST_FACTOR), 1.0
    while factor < LARGEST_FACTOR:
        x = factor * case.x
        context = x if case.role == "self" else factor * case.context
        q, k, v, carried = attention.prepare(x, context, case.mask)
        k, _ = attention.expand(k, v)
        grid = Grid.of(q, k, case.mask, carried)
        try:
            largest = float(attention.biased_scores(q, k, grid).abs().max())
        except RuntimeError:  # its `weights` compute scores in another way
            break
        for target in targets:
            if not largest < target and found[target] == LARGEST_FACTOR:
                found[target] = factor
        if LARGEST_FACTOR not in found.values():
            break
        factor *= 2
    return [found[target] for target in targets]
