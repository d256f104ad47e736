"""Laws about fast paths: every way to compute a mechanism gives the same numbers and gradients."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attnkit.attention import kernels
from attnkit.attention.base import Attention
from attnkit.attention.score_attention import ScoreAttention
from attnkit.checks.blame import first_line, line_in
from attnkit.checks.case import Broken, Case, demand, demand_close, kernel_of, require
from attnkit.registry import options_of

BFLOAT16_TOLERANCE = 0.06
"""Largest error of an output in bfloat16, whose numbers are 2^-8 apart, as a share of its length.
Gradients, and outputs that are not smooth, may have four times that error: a norm amplifies the
rounding of heads that nearly cancel out.
"""

DRAWS, MARGIN = 8, 1.5
"""How often factors are rounded in another way, and how much larger than the largest of these
errors that of an ill-conditioned formula may be.
"""

NOT_COMPARED = ("reference", "flex")
"""The kernel that others are compared with, and one that has no backward pass on a CPU."""

SMALL_GRADIENT = 0.05
"""The error of a gradient shorter than this share of the longest one is relative to that share."""

LONG, LAST = 500, 30
"""Number of tokens over which a sum in bfloat16 would lose its small terms (the next number after
256 is 258), and the number of last tokens that are compared.
"""


def _wave(output: Tensor) -> Tensor:
    """Returns fixed weights, so that errors do not cancel out in a sum."""
    return torch.arange(output.numel()).view(output.shape).sin()


def _results(run: Callable[[], Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the output, and its gradients by the inputs (zeros for an unused input)."""
    output = run()
    gradients = torch.autograd.grad(
        (output.float() * _wave(output)).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    return [output.detach(), *gradients]


def _paths(case: Case) -> dict[str, Callable[..., Tensor]]:
    """Returns the ways to compute a `ScoreAttention` here, besides the reference."""
    attention, mask = case.attention, case.mask
    assert isinstance(attention, ScoreAttention)
    beside = case.beside()
    own_mix = type(attention).mix is not ScoreAttention.mix
    if own_mix or attention.overridden_steps():
        return {"mix": functools.partial(attention.mix, mask=mask, **beside)}

    def by(kernel: kernels.Kernel) -> Callable[..., Tensor]:
        return lambda q, k, v: kernel(attention.call(q, k, v, mask))

    call = attention.call(*case.heads(), mask)
    compared = [k for name, k in kernels.KERNELS.items() if name not in NOT_COMPARED]
    return {kernel.name: by(kernel) for kernel in compared if kernel.refusal(call) is None}


def fast_path_equals_the_reference(case: Case) -> None:
    """Fused, explicit and windowed kernels give the same numbers and gradients as the written-out
    equation, `weights @ v`, and so does an overridden `mix`.
    """
    require(issubclass(case.mechanism, ScoreAttention), "it has a single path")
    require(case.mechanism.linear_in_values, "declared to do more than `weights @ v`")
    attention = case.attention
    assert isinstance(attention, ScoreAttention)
    beside = case.beside()
    heads = [h.detach().requires_grad_() for h in case.heads()]
    position = attention.position
    inputs = [*heads, *([] if position is None else position.parameters())]
    q, k, v = heads
    expected = _results(
        lambda: attention.map(q, k, case.mask, **beside).to(v.dtype) @ attention.share_heads(v),
        inputs,
    )
    for name, path in _paths(case).items():
        computed = _results(functools.partial(path, *heads), inputs)
        for i, (fast, slow) in enumerate(zip(computed, expected, strict=True)):
            what = ("output", "gradient by q", "gradient by k", "gradient by v")
            label = what[i] if i < 4 else "gradient by the position"
            demand_close(fast, slow, f"{label} of {name}, against the reference")


TINY_DROPOUT = 1e-7
"""Dropout that uses the code path of dropout but drops nothing."""


def training_mode_computes_the_same(case: Case) -> None:
    """Without dropout, training mode and evaluation mode give the same numbers and gradients, and
    so they do with a dropout so small that it drops nothing.
    """
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x

    def results(attention: Attention) -> list[Tensor]:
        inputs = [context, *attention.parameters()]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(case.seed)
            return _results(lambda: attention(x, context, case.mask), inputs)

    attention = case.build()
    expected = results(attention)
    names = ["output", "gradient by the tokens"]
    names += [f"gradient by {name}" for name, _ in attention.named_parameters()]
    trained = {"": attention.train()}
    if "dropout" in options_of(case.mechanism):
        trained[f" and dropout {TINY_DROPOUT:g}"] = case.build(dropout=TINY_DROPOUT).train()
    for words, training in trained.items():
        for name, now, before in zip(names, results(training), expected, strict=True):
            what = f"{name} in training mode{words}, against evaluation mode"
            demand_close(now, before, what, atol=2e-5 if words else 1e-6)


def bfloat16_stays_near_float32(case: Case) -> str | None:
    """Under autocast to bfloat16, output and gradients stay near those of float32; so does the
    output of a long sequence, also with bfloat16 weights. If a mechanism is not `smooth`, gradients
    only have to be finite, and outputs may be further off. An ill-conditioned formula, such as an
    inverse, may be as far off as the rounding of the factors of its products makes it, up to four
    times as far as others; the card says so.
    """
    attention = case.build()
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    inputs = [context, *attention.parameters()]

    def run() -> list[Tensor]:
        return _results(lambda: attention(x, context, case.mask), inputs)

    exact = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run()
    for computed in rough:
        demand(bool(computed.isfinite().all()), "NaN or infinity in bfloat16")
    if case.mechanism.smooth:
        largest = max(float(gradient.norm()) for gradient in exact[1:])
        # a gradient that is much smaller than the others may be only rounding
        floors = [1e-3, *[SMALL_GRADIENT * largest] * (len(exact) - 1)]
        note = _demand_near(rough, exact, floors, run, "{} in bfloat16, by its length")
    else:
        note = None
    if case.position == "none" and case.role == "self" and not case.mask_case.padded:
        note = _long_in_bfloat16(case.resized(B=1, T=LONG)) or note
    return note


@torch.no_grad()
def _long_in_bfloat16(case: Case) -> str | None:
    """Demands that sums over many keys are not stored in eight bits."""
    attention, x, context, note = case.build(), case.x, case.context, None

    def run() -> list[Tensor]:
        return [case.run(case.attention)[:, -LAST:]]

    exact = run()
    for autocast in (True, False):
        if not autocast:
            attention, x, context = attention.bfloat16(), x.bfloat16(), context.bfloat16()
            x = context if case.role == "self" else x
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            rough = attention(x, context, case.mask)[:, -LAST:]
        demand(rough.dtype == torch.bfloat16, f"the output is {rough.dtype} instead of bfloat16")
        where = f"for the last {LAST} of {case.S} tokens "
        where += "under autocast to" if autocast else "with weights in"
        template = f"{{}} {where} bfloat16, by its length"
        note = _demand_near([rough], exact, [1e-3], run, template, case.mechanism.smooth) or note
    return note


def _demand_near(
    rough: Sequence[Tensor],
    exact: Sequence[Tensor],
    floors: Sequence[float],
    run: Callable[[], list[Tensor]],
    template: str,
    smooth: bool = True,
) -> str | None:
    """Breaks the law if the error of an output or a gradient is too large, see
    `bfloat16_stays_near_float32`.

    Args:
        rough: an output, and gradients, in bfloat16.
        exact: the same in float32.
        floors: for each, the smallest length to which an error is relative.
        run: computes them in float32.
        template: the evidence, with a placeholder for the tensor and its error.
        smooth: as declared by the mechanism.

    Returns:
        A note on an ill-conditioned formula and its error; None: there is none.
    """
    rounded: list[float] = []
    note = None
    for i, error in enumerate(_errors(rough, exact, floors)):
        tolerance = BFLOAT16_TOLERANCE * (1 if i == 0 and smooth else 4)
        if error < tolerance:
            continue
        rounded = rounded or _by_rounded_factors(run, exact, floors)
        what = f"{'a gradient' if i else 'the output'} is {error:.0%} off"
        evidence = template.format(what)
        if rounded[i] >= tolerance / 2:
            evidence += f"; rounding the factors of its products makes it {rounded[i]:.0%} off: "
            evidence += "compute what is ill-conditioned (an inverse, a difference) in float32"
        demand(error < min(MARGIN * rounded[i], 4 * tolerance), evidence)
        note = note or f"{what} in bfloat16, since the formula is ill-conditioned"
    return note


def _errors(
    rough: Sequence[Tensor], exact: Sequence[Tensor], floors: Sequence[float]
) -> list[float]:
    """Returns the error of each tensor, as a share of its length."""
    return [
        float((computed.float() - expected).norm() / expected.norm().clamp(min=floor))
        for computed, expected, floor in zip(rough, exact, floors, strict=True)
    ]


def _by_rounded_factors(
    run: Callable[[], list[Tensor]], exact: Sequence[Tensor], floors: Sequence[float]
) -> list[float]:
    """Returns the largest error of each tensor over some draws when only the factors of products
    are rounded, which autocast does in any code.
    """
    draws = []
    for draw in range(DRAWS):
        with _RoundedFactors(2 ** (draw / DRAWS)):
            draws.append(_errors(run(), exact, floors))
    return [max(errors) for errors in zip(*draws, strict=True)]


class _RoundedFactors(TorchDispatchMode):
    """Gives the factors of products twice their error in bfloat16: their own error, and that of the
    product, which usually is a factor of the next one.

    Args:
        scale: multiplies a factor while it is rounded, from 1 to 2. Equal numbers get equal errors,
            so that a large constant that is added and subtracted again cancels out.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in flop_registry:
            args = [self._rounded(arg) for arg in args]
        return func(*args, **(kwargs or {}))

    def _rounded(self, factor: Any) -> Any:
        if not isinstance(factor, Tensor) or not factor.is_floating_point():
            return factor
        rounded = (factor * self.scale).bfloat16().to(factor.dtype) / self.scale
        return factor + 2 * (rounded - factor)


def compiled_equals_eager(case: Case) -> None:
    """`torch.compile` captures the mechanism in one graph and differentiates it ahead of time, with
    the numbers and gradients of plain Python. (Backend `aot_eager_decomp_partition`: this tests
    the graphs that inductor receives, not the code that it generates.)
    """
    attention = case.build().train()
    context = case.context.clone().requires_grad_()
    inputs = [context, *attention.parameters()]

    def results_of(run: Callable[..., Tensor]) -> list[Tensor]:
        x = context if case.role == "self" else case.x
        return _results(lambda: run(x, context, case.mask), inputs)

    expected = results_of(attention)
    compiled = _compiled(attention)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        try:
            computed = results_of(compiled)
        except TorchDynamoException as error:
            line = line_in(str(error))
            raise Broken(
                f"no single graph: {first_line(error)}{line and f', at {line}'}"
            ) from error
        finally:
            torch._dynamo.reset()
    by = kernel_of(attention, context if case.role == "self" else case.x, context, case.mask)
    names = ["output", "gradient by the tokens"]
    names += [f"gradient by {name}" for name, _ in attention.named_parameters()]
    for name, fast, slow in zip(names, computed, expected, strict=True):
        demand_close(fast, slow, f"{name}, compiled{by}")


def _compiled(attention: Attention) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(attention, backend="aot_eager_decomp_partition", fullgraph=True)
