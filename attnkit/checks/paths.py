"""Laws about speed: whatever computes a mechanism, the numbers and gradients are the same."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from attnkit.attention import kernels
from attnkit.attention.base import Attention
from attnkit.attention.score_attention import ScoreAttention
from attnkit.checks.blame import first_line, line_in
from attnkit.checks.case import Broken, Case, demand, demand_close, kernel_of, require

BFLOAT16_TOLERANCE = 0.06
"""Largest error of an output in bfloat16, whose numbers are 2^-8 apart, as a share of its length.
Gradients, and outputs that are not smooth, may be four times as far off: a norm makes the rounding
of heads that nearly cancel out large.
"""

NOT_COMPARED = ("reference", "flex")
"""The kernel that others are compared with, and one that has no backward pass on a CPU."""

SMALL_GRADIENT = 0.05
"""A gradient shorter than this part of the longest one is measured by that."""

LONG, LAST = 500, 30
"""Tokens over which a sum in bfloat16 would lose its small terms (the next number after 256 is
258), and how many of them, at the end, are compared.
"""


def _wave(output: Tensor) -> Tensor:
    """A fixed weighing, so that no sum over a row hides an error."""
    return torch.arange(output.numel()).view(output.shape).sin()


def _results(run: Callable[[], Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output, and its gradients by the inputs (zeros where one plays no part)."""
    output = run()
    gradients = torch.autograd.grad(
        (output.float() * _wave(output)).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    return [output.detach(), *gradients]


def _paths(case: Case) -> dict[str, Callable[..., Tensor]]:
    """The ways in which a `ScoreAttention` may be computed here, beside the reference."""
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
    """Fused, explicit and windowed kernels give the numbers and the gradients of the written-out
    equation, `weights @ v`, and so does a `mix` of one's own.
    """
    require(issubclass(case.mechanism, ScoreAttention), "it has one path, which is its own")
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


def training_mode_computes_the_same(case: Case) -> None:
    """Without dropout, training mode and evaluation mode give the same numbers and gradients."""
    attention = case.build()
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    inputs = [context, *attention.parameters()]
    names = ["output", "gradient by the tokens"]
    names += [f"gradient by {name}" for name, _ in attention.named_parameters()]
    expected = _results(lambda: attention(x, context, case.mask), inputs)
    attention.train()
    computed = _results(lambda: attention(x, context, case.mask), inputs)
    for name, now, before in zip(names, computed, expected, strict=True):
        demand_close(now, before, f"{name} in training mode, against evaluation mode", atol=1e-6)


def bfloat16_stays_near_float32(case: Case) -> None:
    """Under autocast to bfloat16, output and gradients stay near those of float32; so does the
    output of a long sequence, and that of weights which are bfloat16 themselves. Where a mechanism
    is not `smooth` a rounded score may jump, so gradients are only finite, and outputs less near.
    """
    attention = case.build()
    context = case.context.clone().requires_grad_()
    x = context if case.role == "self" else case.x
    inputs = [context, *attention.parameters()]

    def run() -> Tensor:
        return attention(x, context, case.mask)

    exact = _results(run, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = _results(run, inputs)
    for computed in rough:
        demand(bool(computed.isfinite().all()), "NaN or infinity in bfloat16")
    largest = max(float(gradient.norm()) for gradient in exact[1:])
    # a gradient that is nothing beside the others may be nothing but rounding
    floors = [1e-3, *[SMALL_GRADIENT * largest] * (len(exact) - 1)]
    compared = list(zip(rough, exact, floors, strict=True))
    for i, (computed, expected, floor) in enumerate(compared if case.mechanism.smooth else []):
        error = float((computed.float() - expected).norm() / expected.norm().clamp(min=floor))
        what = "output" if i == 0 else "a gradient"
        tolerance = BFLOAT16_TOLERANCE if i == 0 else 4 * BFLOAT16_TOLERANCE
        demand(error < tolerance, f"{what} is {error:.0%} off in bfloat16, by its length")
    if case.position == "none" and case.role == "self" and not case.mask_case.padded:
        _long_in_bfloat16(case.resized(B=1, T=LONG))


@torch.no_grad()
def _long_in_bfloat16(case: Case) -> None:
    """Sums over many keys must not be kept in eight bits."""
    attention, x, context = case.build(), case.x, case.context
    exact = case.run(attention)[:, -LAST:]
    for autocast in (True, False):
        if not autocast:
            attention, x, context = attention.bfloat16(), x.bfloat16(), context.bfloat16()
            x = context if case.role == "self" else x
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            rough = attention(x, context, case.mask)[:, -LAST:]
        demand(rough.dtype == torch.bfloat16, f"{rough.dtype} comes out where bfloat16 computes")
        error = float((rough.float() - exact).norm() / exact.norm().clamp(min=1e-3))
        tolerance = BFLOAT16_TOLERANCE if case.mechanism.smooth else 4 * BFLOAT16_TOLERANCE
        demand(
            error < tolerance,
            f"the output of the last {LAST} of {case.S} tokens is {error:.0%} off "
            f"{'under autocast to' if autocast else 'with weights in'} bfloat16, by its length",
        )


def compiled_equals_eager(case: Case) -> None:
    """`torch.compile` captures the mechanism in one graph and differentiates it ahead of time, with
    the numbers and gradients of plain Python. (Backend `aot_eager_decomp_partition`: what inductor
    is given is proven, not the code that it makes of it.)
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
