"""Laws about consecutive calls: nothing is changed, drawn, kept or mixed up. They are tested first,
since a mechanism that breaks one of them breaks most others too.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnkit.attention.base import Attention
from attnkit.attention.stream import Stream
from attnkit.checks.blame import first_line
from attnkit.checks.case import Broken, Case, demand, demand_close, require
from attnkit.checks.contents import held, held_outside, writes_nothing
from attnkit.checks.seats import documents, keep
from attnkit.masks import Document, Mask, Padding, SlidingWindow

T = TypeVar("T")
Call = Callable[[Attention], Tensor]


def calls_write_nothing_to_self(case: Case) -> None:
    """A call, in evaluation, in training or with a cache, changes no attribute and no buffer of the
    mechanism and its parts. If layers share values, two layers are called.
    """
    shares = case.role == "self" and case.mechanism.reads_stream()
    layers = [case.build() for _ in range(2 if shares else 1)]
    if shares:
        for i, attention in enumerate(layers):
            attention.at_layer(i, len(layers))
        for i, attention in enumerate(layers):
            attention.above(layers[:i])
    for training in (False, True):
        stream = Stream()
        for attention in layers:
            attention.train(training)
            x, context, mask = _inputs(case)
            beside = {"stream": stream.at(mask)} if shares else {}
            with writes_nothing(attention, " in training" * training), _drawn(training):
                attention(x, context, mask, **beside)
    if case.role == "self" and case.mask.ahead == 0 and case.mechanism.has_cache:
        attention, (x, _, _) = case.build(), _inputs(case)
        cache = attention.new_cache()
        with writes_nothing(attention, " with a cache"), torch.no_grad():
            attention(x, x, case.mask_over(case.S), cache)


@contextmanager
def _drawn(training: bool) -> Iterator[None]:
    """Runs a call with gradients in training only, and leaves the generator as it was."""
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
        yield


def _inputs(case: Case) -> tuple[Tensor, Tensor, Mask]:
    """Returns copies of the tokens and the context, and the mask with a padding, a window and
    documents, as far as the mechanism obeys them.
    """
    context = case.context.clone()
    x = context if case.role == "self" else case.x.clone()
    mask = case.mask_over(case.S)
    ends = Padding(keep(case.B, case.S) & keep(case.B, case.S).flip(1))
    if _served(case, ends):  # the first and the last token are padded somewhere
        mask = mask & ends
    window = SlidingWindow(window=4)
    if case.role == "self" and _served(case, window):
        mask = mask & window
    of_key = Document(documents(case.B, case.S))
    if case.role == "self" and not case.mask.needs_documents and _served(case, of_key):
        mask = mask & of_key
    return x, context, mask


def inputs_are_left_as_they_were(case: Case) -> None:
    """Neither the tokens, nor the mask, nor the parameters are changed by a forward pass, in
    evaluation or in training.
    """
    attention = case.build()
    parameters = {name: value.clone() for name, value in attention.named_parameters()}
    for training in (False, True):
        attention.train(training)
        x, context, mask = _inputs(case)
        before = _of_mask(mask)
        with torch.no_grad():
            attention(x, context, mask)
        when = " in training" * training
        demand(torch.equal(x, case.x), f"the tokens were changed in place{when}")
        demand(torch.equal(context, case.context), f"the context was changed in place{when}")
        for path, now in _of_mask(mask).items():
            old = before.get(path)
            if isinstance(now, Tensor) and isinstance(old, Tensor):
                same = torch.equal(now, old)
            else:
                same = bool(now == old)
            demand(same, f"the mask's own `{path}` was changed in place{when}")
        mode = "training" if training else "evaluation mode"
        for name, value in parameters.items():
            same = torch.equal(value, attention.get_parameter(name))
            demand(same, f"{name} was changed by a forward pass in {mode}")


def _of_mask(mask: Mask) -> dict[str, Any]:
    """Returns the contents of a mask by path: copies of its tensors, and its numbers and names."""
    found: dict[str, Any] = {}
    for part in mask.parts():
        for name, attribute in vars(part).items():
            path = f"{type(part).__name__}.{name}"
            if isinstance(attribute, int | float | str):
                found[path] = attribute
            for place, value in held(attribute, path):
                if isinstance(value, Tensor):
                    found[place] = value.clone()
    return found


def same_seed_gives_the_same_numbers(case: Case) -> None:
    """Two builds with the same seed have equal parameters and give equal outputs."""
    one, two = case.build(), case.build()
    states = one.state_dict(), two.state_dict()
    demand(states[0].keys() == states[1].keys(), "two builds have different parameters")
    for name, value in states[0].items():
        demand(torch.equal(value, states[1][name]), f"{name} differs under the same seed")
    with torch.no_grad():
        outputs = case.run(one), case.run(one), case.run(two)
    demand(torch.equal(outputs[0], outputs[1]), "two calls in evaluation mode differ")
    demand(torch.equal(outputs[0], outputs[2]), "two builds with the same seed differ")


BATCHES, ALONE = (2, 3, 5, 9, 17, 33), (0, 1, 2, 4, 8, 16, 32)
"""Sizes of batches, and the sequences that are also computed alone."""


@torch.no_grad()
def sequences_of_a_batch_come_out_as_if_alone(case: Case) -> None:
    """A sequence gives the same output alone and in a batch of any size, at any place in it, in
    evaluation and in training.
    """
    require(case.mask.batch_size == 1, "the mask differs between sequences")
    many, attention = case.resized(B=BATCHES[-1]), case.build()
    x, context = many.x, many.context
    alone = {
        row: attention(x[row : row + 1], context[row : row + 1], case.mask)[0] for row in ALONE
    }
    for training in (False, True):
        attention.train(training)
        for size in BATCHES:
            output = attention(x[:size], context[:size], case.mask)
            for row in (row for row in ALONE if row < size):
                when = " in training" * training
                what = f"sequence {row} in a batch of {size}{when}, against the same one alone"
                demand_close(output[row], alone[row], what)


def a_call_leaves_nothing_behind(case: Case) -> None:
    """Earlier calls have no effect: after other tokens, lengths, padding, documents and windows,
    and with a cache, a call gives the same numbers as in a mechanism that was never called.
    """
    used = case.build()
    calls = dict(_calls(case))
    with torch.no_grad():
        alone = {words: call(case.build()) for words, call in calls.items()}
        for words, call in [*calls.items(), *reversed(calls.items())]:
            again = _after_others(words, lambda call=call: call(used))
            _demand_the_same(again, alone[words], f"{words}, called after others")


def _after_others(words: str, call: Callable[[], T]) -> T:
    """Runs a call that succeeded alone."""
    try:
        return call()
    except Exception as error:
        raise Broken(f"{words}, called after others, raises {first_line(error)}") from error


def _demand_the_same(again: Tensor, alone: Tensor, what: str) -> None:
    """Demands equal numbers; NaN equals NaN, which is for another law to report."""
    demand_close(again.nan_to_num(), alone.nan_to_num(), what, atol=1e-6)


def a_training_step_leaves_nothing_behind(case: Case) -> None:
    """The same in training: outputs and gradients are those of a mechanism that has seen no batch
    before; no tensor of a graph is kept, in the module or elsewhere; and the number of kept tensors
    does not grow.
    """
    used = case.build().train()
    calls = list(_calls(case, training=True))
    alone = {words: _step(case.build().train(), call) for words, call in calls}
    for words, call in [*calls, *calls[:2]]:
        again = _after_others(words, lambda call=call: _step(used, call))
        for i, (now, first) in enumerate(zip(again, alone[words], strict=True)):
            what = "output" if i == 0 else "a gradient"
            _demand_the_same(now, first, f"{words}, {what} in training after other batches")
    _demand_no_graph(case)


def _step(attention: Attention, call: Call) -> list[Tensor]:
    """Returns the output, and the gradients by all parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        output = call(attention)
    wave = torch.arange(output.numel()).view(output.shape).sin()
    parameters = list(attention.parameters())
    gradients = torch.autograd.grad(
        (output * wave).sum(), parameters, allow_unused=True, materialize_grads=True
    )
    return [output.detach(), *gradients]


def _calls(case: Case, training: bool = False) -> Iterator[tuple[str, Call]]:
    """Yields calls that differ in one thing each; each call builds its own mask."""

    def plain(of: Case, mask: Callable[[], Mask]) -> Call:
        return lambda attention: attention(of.x, of.context, mask())

    other, shorter = case.resized(seed=case.seed + 1), case.resized(T=max(1, case.T - 3))
    yield "the tokens", plain(case, lambda: case.mask)
    yield "other tokens", plain(other, lambda: case.mask)
    for shift in (0, 1):
        real = keep(case.B, case.S).roll(shift, dims=1)
        if _served(case, Padding(real)):
            words = "other padding" if shift else "padding"
            yield words, plain(case, lambda real=real: case.mask & Padding(real))
    of_key = documents(case.B, case.S)
    for numbers, words in ((of_key, "documents"), (of_key // 2, "other documents")):
        if case.role == "self" and _served(case, Document(numbers)):
            yield words, plain(case, lambda numbers=numbers: case.mask & Document(numbers))
    for width in (4, 2):
        window = SlidingWindow(window=width)
        if case.role == "self" and _served(case, window):
            words = "a window" if width == 4 else "a narrower window"
            yield words, plain(case, lambda window=window: case.mask & window)
    yield "fewer tokens", plain(shorter, lambda: shorter.mask_over(shorter.S))
    causal = case.role == "self" and case.mask.ahead == 0 and case.mechanism.has_cache
    if causal and not training:
        yield (
            "tokens with a cache",
            lambda attention: attention(case.x, case.x, case.mask, attention.new_cache()),
        )


def _served(case: Case, mask: Mask) -> bool:
    return case.mechanism.refusal(case.role, case.mask & mask, case.position) is None


def _demand_no_graph(case: Case) -> None:
    """Demands that training steps keep neither their graphs nor a growing number of tensors."""
    attention = case.build().train()

    class Token:  # lives as long as the graph that holds it
        pass

    def forward() -> weakref.ref[Token]:
        token = Token()
        context = (case.context * 1).requires_grad_()
        context.register_hook(lambda gradient, kept=token: None)
        through = context * 1
        attention(through if case.role == "self" else case.x, through, case.mask)
        return weakref.ref(token)

    counts, graphs, made = [], [], []
    for _ in range(3):
        with _Made() as call:
            graphs.append(forward())
        made.append(call.tensors)
        kept = list(held_outside(attention))
        for path, value in kept:
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise Broken(
                    f"{path} keeps the graph of a call; store `.detach()` of it, or nothing"
                )
        counts.append({path for path, _ in kept})
    grown = counts[2] - counts[1]
    demand(
        not grown, lambda: f"each call leaves one more tensor behind: {', '.join(sorted(grown))}"
    )
    if any(kept() is not None for kept in (*graphs, *made[1])):
        gc.collect()
    demand(
        all(graph() is None for graph in graphs),
        "something outside of the module, such as a list in its file, keeps the graph of a call",
    )
    # The first call may fill a table for all that follow.
    left = [tensor for kept in made[1] if (tensor := kept()) is not None]
    demand(
        not left,
        lambda: (
            f"each call leaves a tensor {tuple(left[0].shape)} behind, outside of the module, such "
            "as in a list in its file"
        ),
    )


class _Made(TorchDispatchMode):
    """Records the tensors that a call creates, without keeping them alive."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not any(result is arg for arg in args):
            self.tensors.append(weakref.ref(result))
        return result


@torch.no_grad()
def new_weights_take_effect_at_once(case: Case) -> None:
    """After a call, new weights give new numbers, whether they are loaded or written in place by an
    optimizer. Nothing that was computed from the old ones is kept.
    """
    attention, other = case.build(), case.resized(seed=case.seed + 1).build()
    case.run(attention)
    attention.load_state_dict(other.state_dict())
    what = "output after a call and `load_state_dict`, against a mechanism with those weights"
    demand_close(case.run(attention), case.run(other), what, atol=1e-6)
    fresh = case.build()
    for old, new in zip(attention.parameters(), fresh.parameters(), strict=True):
        old.copy_(new)
    for old, new in zip(attention.buffers(), fresh.buffers(), strict=True):
        old.copy_(new)
    what = "output after weights were changed in place, as an optimizer does"
    demand_close(case.run(attention), case.run(fresh), what, atol=1e-6)


def parameters_lie_in_the_module(case: Case) -> None:
    """Everything that can be trained is a parameter of the module, so that optimizers and
    checkpoints contain it.
    """
    attention = case.build()
    output = case.run(attention)
    known = {id(parameter) for parameter in attention.parameters()}
    lost = {id(leaf): leaf for leaf in _leaves(output) if id(leaf) not in known}
    if not lost:
        return
    places = [
        path
        for path, value in held_outside(attention)
        if id(value) in lost
        or (isinstance(value, nn.Module) and {id(p) for p in value.parameters()} & set(lost))
    ]
    where = f"in `{', '.join(places[:3])}`" if places else "in none of its attributes"
    raise Broken(
        f"{len(lost)} parameter{'s' * (len(lost) != 1)} outside of the module, {where}: optimizers "
        "and checkpoints do not find what is in a plain list, dict or variable; use "
        "nn.ParameterList, nn.ParameterDict or nn.ModuleList"
    )


def _leaves(output: Tensor) -> Iterator[Tensor]:
    """Yields the leaf tensors of a graph."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable  # pyright: ignore[reportAttributeAccessIssue]
        waiting += [before for before, _ in node.next_functions]
