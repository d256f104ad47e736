"""Laws about a mechanism as a module: its parameters, gradients, seeds, modes and what is saved."""

from __future__ import annotations

import torch

from attnkit.checks.case import Broken, Case, demand, demand_close, require
from attnkit.checks.seats import keep
from attnkit.masks import Padding
from attnkit.options import options_of

DRAWS = 400
"""Equal sequences over which dropout is averaged."""

LARGE = 1000.0
"""Factor that makes tokens larger than any norm would let them be."""

STEP, DIRECTIONS = 1e-6, 3
"""Finite differences in float64: the step, and how many random directions are tried."""


def gradients_reach_every_parameter(case: Case) -> None:
    """No parameter is left out of the computation."""
    attention = case.build()
    case.run(attention).square().sum().backward()
    for name, parameter in attention.named_parameters():
        demand(
            parameter.grad is not None and float(parameter.grad.abs().max()) > 0,
            f"no gradient reaches {name}",
        )


def gradients_agree_with_finite_differences(case: Case) -> None:
    """In float64, the gradient along random directions of tokens and parameters is the difference
    quotient of the output.
    """
    attention = case.build().double()
    context = case.context.double().requires_grad_()
    x = context if case.role == "self" else case.x.double()
    inputs = [context, *attention.parameters()]
    output = attention(x, context, case.mask)
    demand(output.dtype == torch.float64, f"float64 goes in, {output.dtype} comes out")
    wave = torch.arange(output.numel(), dtype=torch.float64).view(output.shape).sin()
    gradients = torch.autograd.grad(
        (output * wave).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    generator = torch.Generator().manual_seed(8)
    for _ in range(DIRECTIONS):
        ways = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs]
        slope = sum(float((g * way).sum()) for g, way in zip(gradients, ways, strict=True))
        sides = []
        with torch.no_grad():
            for sign in (1, -2):  # one step ahead; two back; and home again below
                for tensor, way in zip(inputs, ways, strict=True):
                    tensor.add_(sign * STEP * way)
                sides.append(float((attention(x, context, case.mask) * wave).sum()))
            for tensor, way in zip(inputs, ways, strict=True):
                tensor.add_(STEP * way)
        quotient = (sides[0] - sides[1]) / (2 * STEP)
        error = abs(slope - quotient) / max(abs(quotient), 1.0)
        demand(
            error < 1e-5, f"gradient {slope:.6g}, difference quotient {quotient:.6g}, in float64"
        )


def same_seed_gives_the_same_numbers(case: Case) -> None:
    """Built twice under one seed, all parameters are equal, and so are two outputs."""
    one, two = case.build(), case.build()
    states = one.state_dict(), two.state_dict()
    demand(states[0].keys() == states[1].keys(), "two builds have other parameters")
    for name, value in states[0].items():
        demand(torch.equal(value, states[1][name]), f"{name} differs under the same seed")
    with torch.no_grad():
        outputs = case.run(one), case.run(one), case.run(two)
    demand(torch.equal(outputs[0], outputs[1]), "two calls in evaluation mode give other numbers")
    demand(torch.equal(outputs[0], outputs[2]), "two builds under one seed give other numbers")


def state_dict_round_trip(case: Case) -> None:
    """Weights saved and loaded into a fresh mechanism give the same output, bit for bit."""
    other = case.resized(seed=case.seed + 1).build()
    other.load_state_dict(case.attention.state_dict())
    with torch.no_grad():
        restored = case.run(other)
    demand_close(restored, case.output, "output after loading the weights", atol=0, rtol=0)


def dropout_acts_in_training_alone(case: Case) -> None:
    """With dropout set, two passes in training differ, and two in evaluation are equal, to each
    other and to a mechanism without dropout.
    """
    require("dropout" in options_of(case.mechanism), "it has no option `dropout`")
    attention = case.build(dropout=0.5)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = case.run(attention), case.run(attention)
        demand(torch.equal(first, second), "two passes in evaluation mode differ")
        demand_close(first, case.output, "evaluation with dropout set, against none", atol=1e-6)
        attention.train()
        differ = not torch.equal(case.run(attention), case.run(attention))
    demand(differ, "two passes in training mode are equal with dropout 0.5")


@torch.no_grad()
def dropout_keeps_the_mean(case: Case) -> None:
    """With dropout set, each sequence of a batch draws its own, and over many equal sequences the
    heads in training average to those of evaluation, wherever they are linear in the values.
    """
    require("dropout" in options_of(case.mechanism), "it has no option `dropout`")
    require(case.mechanism.linear_in_values, "declared not to be linear in its values")
    require(case.mask.batch_size == 1, "the mask tells the sequences apart")
    attention = case.build(dropout=0.5)
    q, k, v = (heads[:1].expand(DRAWS, *heads.shape[1:]) for heads in case.heads(attention))
    expected = attention.mix(q[:1], k[:1], v[:1], case.mask)[0]
    attention.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed)
        drawn = attention.mix(q, k, v, case.mask)
    spread = drawn.std(dim=0)
    demand(float(spread.max()) > 0, "all sequences of a batch drop the same weights")
    away = (drawn.mean(dim=0) - expected).abs() - 6 * spread / DRAWS**0.5
    error = float(away.max())
    demand(
        error < 1e-5,
        lambda: (
            f"the mean of {DRAWS} draws is {error:.1e} further from evaluation than chance allows"
        ),
    )


def tokens_of_any_size_give_finite_numbers(case: Case) -> None:
    """Zeros, and tokens a thousand times as large as usual, give finite outputs and gradients."""
    for factor in (0.0, LARGE):
        attention = case.build()
        context = (factor * case.context).requires_grad_()
        x = context if case.role == "self" else factor * case.x
        output = attention(x, context, case.mask)
        demand(bool(output.isfinite().all()), f"tokens times {factor:g}: NaN or infinity")
        output.sum().backward()
        slopes = [("the tokens", context.grad)]
        slopes += [(name, parameter.grad) for name, parameter in attention.named_parameters()]
        for name, gradient in slopes:
            demand(
                gradient is None or bool(gradient.isfinite().all()),
                f"tokens times {factor:g}: the gradient by {name} is not finite",
            )


def a_call_leaves_nothing_behind(case: Case) -> None:
    """What was computed before changes nothing: after other tokens, under other padding and from a
    cache, a call gives the numbers of the first call of all, bit for bit; and no module keeps a
    tensor of a graph.
    """
    attention, other = case.build(), case.resized(seed=case.seed + 1)
    with torch.no_grad():
        padded = case.mask & Padding(keep(case.B, case.S).flip(1))
        if case.mechanism.refusal(case.role, padded, case.position) is None:
            attention(other.x, other.context, padded)
        attention(other.x, other.context, case.mask)
        if case.role == "self" and case.mask.ahead == 0:
            attention(other.x, other.x, case.mask, attention.new_cache())
        again = case.run(attention)
    demand(torch.equal(again, case.output), "a call after others gives other numbers")
    case.run(attention.train())
    for name, module in attention.named_modules():
        for held, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                raise Broken(f"{f'{name}.' * bool(name)}{held} keeps the graph of a call")


def inputs_are_left_as_they_were(case: Case) -> None:
    """Neither the tokens nor the parameters are changed by a forward pass."""
    x, context = case.x.clone(), case.context.clone()
    attention = case.build()
    before = {name: value.clone() for name, value in attention.state_dict().items()}
    with torch.no_grad():
        attention(x, x if case.role == "self" else context, case.mask)
    demand(torch.equal(x, case.x), "the tokens that ask were changed in place")
    demand(torch.equal(context, case.context), "the context was changed in place")
    for name, value in attention.state_dict().items():
        demand(torch.equal(value, before[name]), f"{name} was changed by a forward pass")
