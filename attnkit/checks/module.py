"""Laws about a mechanism as a module: its parameters, gradients, modes and state dict."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from attnkit.attention import kernels
from attnkit.attention.base import Attention
from attnkit.attention.score_attention import ScoreAttention
from attnkit.attention.stream import Stream
from attnkit.checks.case import (
    Broken,
    Case,
    demand,
    demand_close,
    kernel_of,
    require,
    scaled_to_scores,
)
from attnkit.registry import options_of

DRAWS, SHARE = 150, 0.25
"""Equal sequences over which dropout is averaged, and the share that it drops: with a half, keeping
and dropping could be confused.
"""

ROUNDED = 1e-5
"""Share of the largest gradient or output below which another may be only rounding."""

LARGE_SCORE, LARGE_SCORE_BF16 = 1e5, 1e3
"""Scores of tokens that are larger than any norm allows."""

STEP, DIRECTIONS = 1e-7, 3
"""Finite differences in float64: the step, and the number of random directions."""


def gradients_reach_every_parameter(case: Case) -> None:
    """Every parameter is used, and has an effect, unlike a constant that is added to all scores of
    a softmax. A parameter may be trained by an auxiliary loss only.
    """
    attention = case.build()
    stream = Stream() if attention.has_auxiliary_losses() else None
    beside = {} if stream is None else {"stream": stream}
    output = attention(case.x, case.context, case.mask, **beside)
    terms = (stream.losses if stream else None) or {}
    (output.square().sum() + sum(terms.values())).backward()
    slopes = {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in attention.named_parameters()
    }
    idle = [name for name, slope in slopes.items() if not slope > 0]
    demand(not idle, f"no gradient reaches {', '.join(idle)}")
    # The option `bias` also adds one to the keys, which does not change a softmax.
    small = [n for n, slope in slopes.items() if slope < ROUNDED * max(slopes.values())]
    small = [name for name in small if name != "key.bias"]
    without = [name for name in small if not _moves_the_output(case, attention, name)]
    demand(
        not without,
        lambda: (
            f"{', '.join(without)}: no other value changes an output; the gradient is rounding, "
            f"{slopes[without[0]]:.0e} where the largest one is {max(slopes.values()):.0e}"
        ),
    )


@torch.no_grad()
def _moves_the_output(case: Case, attention: Attention, name: str) -> bool:
    """Returns True if another value of a parameter gives another output."""
    before, parameter = case.run(attention), attention.get_parameter(name)
    kept = parameter.clone()
    parameter.add_(1 + torch.arange(parameter.numel()).view(parameter.shape).cos())
    after = case.run(attention)
    parameter.copy_(kept)
    return float((after - before).abs().max()) > ROUNDED * max(1.0, float(before.abs().max()))


def gradients_agree_with_finite_differences(case: Case) -> str | None:
    """In float64, the gradient along random directions of tokens and parameters is the difference
    quotient of the output. A mechanism that computes in float32 is compared without its casts, and
    the card says so.
    """
    try:
        _demand_slopes(case, torch.float64, STEP, 1e-5, misses=0)
    except (Broken, RuntimeError):
        if not _computes_in_float32(case):
            raise
    else:
        return None
    try:
        with _WithoutCasts():
            _demand_slopes(case, torch.float64, STEP, 1e-5, misses=0)
    except RuntimeError:  # still two dtypes: all in float32
        # These steps are so long that one of them may cross a discontinuity.
        _demand_slopes(case, torch.float32, 1e-3, 0.02, misses=DIRECTIONS - 1)
    return "something computes in float32"


def _demand_slopes(
    case: Case, dtype: torch.dtype, step: float, tolerance: float, misses: int
) -> None:
    attention = case.build().to(dtype)
    context = case.context.to(dtype).requires_grad_()
    x = context if case.role == "self" else case.x.to(dtype)
    inputs = [context, *attention.parameters()]
    output = attention(x, context, case.mask)
    demand(output.dtype == dtype, f"the output of {dtype} inputs is {output.dtype}")
    wave = torch.arange(output.numel(), dtype=torch.float64).view(output.shape).sin()
    gradients = torch.autograd.grad(
        (output * wave).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    generator = torch.Generator().manual_seed(8)
    evidence = []
    for _ in range(DIRECTIONS):
        ways = [torch.randn(t.shape, generator=generator, dtype=dtype) for t in inputs]
        slope = sum(float((g * way).sum()) for g, way in zip(gradients, ways, strict=True))
        sides = []
        with torch.no_grad():
            for sign in (1, -2):  # one step forward, two steps back, and one forward again below
                for tensor, way in zip(inputs, ways, strict=True):
                    tensor.add_(sign * step * way)
                sides.append(float((attention(x, context, case.mask) * wave).sum()))
            for tensor, way in zip(inputs, ways, strict=True):
                tensor.add_(step * way)
        quotient = (sides[0] - sides[1]) / (2 * step)
        if abs(slope - quotient) >= tolerance * max(abs(quotient), 1.0):
            evidence.append(
                f"gradient {slope:.6g}, difference quotient {quotient:.6g}, in {str(dtype)[6:]}"
            )
    demand(len(evidence) <= misses, lambda: evidence[0])


class _WithoutCasts(TorchFunctionMode):
    """Makes `.float()`, `.to(torch.float32)` and `dtype=torch.float32` keep float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            return args[0] if args[0].dtype == torch.float64 else func(*args)
        kwargs = {name: wide(value) for name, value in (kwargs or {}).items()}
        return func(*map(wide, args), **kwargs)


class _Types(TorchDispatchMode):
    """Records whether any operation returns numbers of 32 bits or fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.narrow |= result.dtype != torch.float64 and result.numel() > 1
        return result


@torch.no_grad()
def _computes_in_float32(case: Case) -> bool:
    """Returns True if a mechanism with float64 weights computes anything in float32."""
    attention = case.build().double()
    context = case.context.double()
    x = context if case.role == "self" else case.x.double()
    with _Types() as types:
        try:
            output = attention(x, context, case.mask)
        except RuntimeError as error:  # an operation on two different dtypes
            return types.narrow and "type" in str(error)
    return types.narrow or output.dtype != torch.float64


def state_dict_round_trip(case: Case) -> None:
    """Weights that are saved and loaded into a new mechanism are equal, and so is the output."""
    other, saved = case.resized(seed=case.seed + 1).build(), case.attention.state_dict()
    other.load_state_dict(saved)
    for name, value in other.state_dict().items():
        demand(torch.equal(value, saved[name]), f"{name} differs after loading the weights")
    with torch.no_grad():
        restored = case.run(other)
    demand_close(restored, case.output, "output after loading the weights", atol=1e-5)


def dropout_acts_in_training_alone(case: Case) -> None:
    """With dropout, two passes in training differ, and two in evaluation are equal to each other
    and to those without dropout.
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
def dropout_drops_the_declared_share(case: Case) -> None:
    """With dropout 0.25, training drops a quarter of the weights, scales the others so that the
    mean stays the same, draws separately for each sequence, and uses no key that the mask forbids.
    Measured with one-hot values, if heads are linear in the values.
    """
    require("dropout" in options_of(case.mechanism), "it has no option `dropout`")
    require(case.mechanism.linear_in_values, "declared not to be linear in its values")
    require(case.position == "none", "tested without a position encoding")
    attention = case.build(dropout=SHARE)
    mask = case.mask_case.over(1, case.S, DRAWS)  # the first sequence, many times

    def many(heads: Tensor) -> Tensor:
        return heads[:1].expand(DRAWS, *heads.shape[1:])

    q, k, v = map(many, case.heads())
    beside = {name: many(tensor) for name, tensor in case.beside().items()}
    mix = functools.partial(attention.mix, q, k, mask=mask, **beside)
    count = min(v.shape[-1], case.S)
    one_hot = torch.zeros_like(v)
    one_hot[:, :, torch.arange(case.S - count, case.S), torch.arange(count)] = 1.0  # the last keys
    expected = mix(v=one_hot)[0, ..., :count]  # (H, T, count)
    attention.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed)
        drawn = mix(v=one_hot)[..., :count]
    forbidden = ~mask.dense(case.T, case.S).expand(DRAWS, 1, case.T, case.S)[..., -count:]
    leak = (drawn.abs() * forbidden).amax(dim=(0, 1))
    demand(
        not float(leak.max()) > 0,
        lambda: (
            f"training with dropout takes {float(leak.max()):.1e} from a key that the mask forbids"
        ),
    )
    seen = expected.abs() > 1e-4
    require(bool(seen.any()), "nothing to drop")
    spread = drawn.std(dim=0)
    demand(float(spread.max()) > 0, "all sequences of a batch drop the same weights")
    share = float(((drawn == 0) & seen).sum() / (DRAWS * seen.sum()))
    touched = bool((drawn == 0)[:, seen].any())  # otherwise it does not drop weights
    demand(
        not touched or abs(share - SHARE) < 0.1,
        f"dropout {SHARE} drops {share:.0%} of the weights in training",
    )
    away = (drawn.mean(dim=0) - expected).abs() - 6 * spread / DRAWS**0.5
    error = float(away.max())
    demand(
        error < 1e-5,
        lambda: (
            f"with dropout {SHARE} the mean of {DRAWS} draws is {error:.1e} further from "
            "evaluation than chance allows"
        ),
    )


def tokens_of_any_size_give_finite_numbers(case: Case) -> None:
    """Zeros, and tokens so large that scores are 1e5 (or tokens a thousand times as large as usual,
    if there are no scores), give finite outputs and gradients, in bfloat16 too.
    """
    attention = case.build()
    large, of_bf16 = scaled_to_scores(case, attention, (LARGE_SCORE, LARGE_SCORE_BF16))
    for factor in (0.0, large):
        _demand_finite(case, attention, factor, "")
    for factor in (0.0, of_bf16):
        _demand_finite(case, attention, factor, "under autocast to bfloat16")
    attention.bfloat16()
    for factor in (0.0, of_bf16):
        _demand_finite(case, attention, factor, "with weights in bfloat16")


def _demand_finite(case: Case, attention: Attention, factor: float, dtype: str) -> None:
    context = (factor * case.context).detach()
    x = factor * case.x
    if dtype.startswith("with"):
        context, x = context.bfloat16(), x.bfloat16()
    context.requires_grad_()
    x = context if case.role == "self" else x

    def results() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype.startswith("under")):
            output = attention(x, context, case.mask)
        inputs = [context, *attention.parameters()]
        gradients = torch.autograd.grad(
            output.float().sum(), inputs, allow_unused=True, materialize_grads=True
        )
        names = ["tokens", *(name for name, _ in attention.named_parameters())]
        named = {f"the gradient by {n}": g for n, g in zip(names, gradients, strict=True)}
        return {"the output": output, **named}

    for what, numbers in results().items():
        if bool(numbers.isfinite().all()):
            continue
        size = f"tokens times {factor:g}"
        if factor and issubclass(case.mechanism, ScoreAttention):
            size += f" (scores of about {LARGE_SCORE_BF16 if dtype else LARGE_SCORE:g})"
        by = kernel_of(attention, x, context, case.mask)
        if by.startswith(" (kernel"):
            with kernels.only("reference"):
                finite = bool(results()[what].isfinite().all())
            by += "; the written-out equation gives finite numbers" * finite
        raise Broken(f"{f'{size} {dtype}'.rstrip()}: {what} is NaN or infinite{by}")
