"""States: all chunks at once, whatever the length, and what a mechanism with a state must say."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnkit.attention.base import build_attention
from attnkit.attention.cache import StateCache
from attnkit.attention.linear import Linear
from attnkit.attention.recurrent import Recurrent, decayed_sums, states_before
from attnkit.masks import Causal, NoMask
from attnkit.registry import ATTENTION

NAMES = ["linear", "retention", "gated_linear", "delta_net"]
STATES = [name for name in ATTENTION.names() if issubclass(ATTENTION.get(name), Recurrent)]
LONG = {"cosformer": {"max_tokens": 16384}}
"""Options for 16,384 tokens."""

C, H = 32, 2
D = C // H


def built(name, **options):
    torch.manual_seed(0)
    return build_attention({"name": name, "num_heads": H, **options}, C)


class Operations(TorchDispatchMode):
    """Counts what torch is told to do."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(attention, length):
    x = torch.randn(1, length, C)
    with Operations() as counted:
        attention(x, x, Causal()).sum().backward()
    return counted.count


@pytest.mark.parametrize("name", STATES)
def test_a_sequence_four_times_as_long_takes_a_few_operations_more(name):
    """Chunks are computed at once, and their states in a scan of logarithmic depth. A loop over
    chunks would take four times as many.
    """
    attention = built(name, **LONG.get(name, {}))
    counts = [operations(attention, length) for length in (256, 1024, 4096)]
    more = counts[1] - counts[0]
    assert more == counts[2] - counts[1]  # two steps of the scan each
    assert more <= 0.4 * counts[0]
    assert name != "linear" or more == 0


def bytes_kept(attention, length):
    """Of all tensors that a forward pass keeps for the backward one, each storage once."""
    kept = []
    x = torch.randn(1, length, C)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        attention(x, x, Causal())
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}.values()
    )


@pytest.mark.parametrize("name", STATES)
def test_memory_grows_with_the_length_up_to_16k(name):
    attention = built(name, **LONG.get(name, {}))
    short, long = bytes_kept(attention, 1024), bytes_kept(attention, 16384)
    assert 12 < long / short < (22 if name == "log_linear" else 17)  # T log T


def random_steps(num_steps, kind):
    torch.manual_seed(num_steps)
    added = torch.randn(2, H, num_steps, D, 3, dtype=torch.float64)
    if kind == "stays":
        return None, added
    if kind == "matrices":
        return torch.randn(2, H, num_steps, D, D, dtype=torch.float64) / D, added
    return torch.rand(1, H, num_steps, D, 1, dtype=torch.float64), added


@pytest.mark.parametrize("kind", ["stays", "fades", "matrices"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("goes_on", [False, True])
def test_the_scan_equals_step_after_step(kind, num_steps, goes_on):
    fade, added = random_steps(num_steps, kind)
    state = torch.randn(2, H, D, 3, dtype=torch.float64) if goes_on else None
    now, expected = torch.zeros(2, H, D, 3, dtype=torch.float64) if state is None else state, []
    for n in range(num_steps):
        expected.append(now)
        if kind == "matrices":
            now = fade[:, :, n] @ now
        elif kind == "fades":
            now = fade[:, :, n] * now
        now = now + added[:, :, n]
    torch.testing.assert_close(states_before(fade, added, state), torch.stack(expected, dim=2))


@pytest.mark.parametrize("width", [1, D])
@pytest.mark.parametrize("strength", [1.0, 80.0, 1e4, 1e30])
def test_decays_of_any_strength_are_finite_and_exact(width, strength):
    """Some features of some tokens forget all, others nothing."""
    torch.manual_seed(0)
    inputs = [torch.randn(1, H, 150, D) for _ in range(3)]
    inputs.append(-strength * torch.rand(1, H, 150, width) * (torch.rand(1, H, 150, width) < 0.3))
    inputs = [tensor.requires_grad_() for tensor in inputs]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    heads, state = decayed_sums(*inputs, None, 64)
    q, k, v, log_decay = exact
    now, expected = q.new_zeros(1, H, D, D), []
    for t in range(150):
        now = log_decay[:, :, t, :, None].exp() * now + k[:, :, t, :, None] * v[:, :, t, None]
        expected.append((q[:, :, t, None] @ now)[:, :, 0])
    expected = torch.stack(expected, dim=2)
    torch.testing.assert_close(heads.double(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(state.double(), now, rtol=1e-4, atol=1e-4)
    heads.sum().backward()
    expected.sum().backward()
    for computed, true in zip(inputs, exact, strict=True):
        scale = true.grad.abs().max()
        torch.testing.assert_close(
            computed.grad.double() / scale, true.grad / scale, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
def test_products_in_bfloat16_with_sums_in_float32_stay_near(name):
    """What an accelerator does under autocast; on a CPU the products stay float32."""
    attention = built(name).double()
    x = torch.randn(2, 600, C, dtype=torch.float64)
    q = attention.project_query(x)
    k, v = attention.project_context(x)
    exact, _ = attention.advance(q, k, v, Causal(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heads, state = attention.advance(q.float(), k.float(), v.float(), Causal(), None)
    states = state.values() if isinstance(state, dict) else [state]
    assert all(tensor.dtype == torch.float32 for tensor in states)
    assert (heads.double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("name", ["gated_linear", "delta_net"])
def test_one_graph_serves_all_lengths_of_as_many_chunks(name):
    attention, graphs = built(name), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(attention, backend=count, fullgraph=True, dynamic=True)
    for length in (130, 170, 150):
        x = torch.randn(1, length, C)
        torch.testing.assert_close(compiled(x, x, Causal()), attention(x, x, Causal()))
    assert len(graphs) == 1


def test_another_feature_map_is_one_method():
    """Performer's positive random features, wider than a head."""

    class Performer(Linear):
        def __init__(self, dim, **options):
            super().__init__(dim, **options)
            self.register_buffer("rows", torch.randn(self.head_dim, 4 * self.head_dim))

        def features(self, x):
            x = x / self.head_dim**0.25
            return (x @ self.rows - x.square().sum(dim=-1, keepdim=True) / 2).exp()

    torch.manual_seed(0)
    attention = Performer(C, num_heads=H).double()
    x = torch.randn(2, 90, C, dtype=torch.float64)
    q, (k, v) = attention.project_query(x), attention.project_context(x)
    weights = attention.features(q) @ attention.features(k).mT
    for mask, allowed in ((Causal(), weights.tril()), (NoMask(), weights)):
        heads = allowed / allowed.sum(dim=-1, keepdim=True) @ v
        torch.testing.assert_close(attention(x, x, mask), attention.merge(heads, x))
    assert attention.cache_elements(90) == H * 4 * D * (D + 1)
    assert attention.mixing_flops(90, 0) == 90 * H * 4 * D * (4 * D + 2)


def test_a_mechanism_with_a_state_needs_one_method():
    """The mean of all values so far, in two tensors: what is not declared is counted."""

    class Mean(Recurrent):
        def advance(self, q, k, v, mask, state):
            before, seen = (0.0, 0.0) if state is None else (state["mean"], state["seen"])
            seen = seen + torch.ones_like(v[:, :1, :, :1]).cumsum(dim=2)
            total = before + v.cumsum(dim=2)
            return total / seen, {"mean": total[:, :, -1:], "seen": seen[:, :, -1:]}

    attention = Mean(C, num_heads=H)
    x = torch.randn(3, 7, C)
    expected = attention(x, x, Causal())
    cache = attention.new_cache()
    steps = [attention(token, token, Causal(), cache) for token in x.split((4, 1, 2), dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected)
    assert attention.cache_elements(7) == H * D + 1
    assert attention.mixing_flops(7, 28) == 0
    assert cache.num_bytes() == 4 * 3 * (H * D + 1)
    kept = cache.state["mean"][[2, 0]]
    cache.select(torch.tensor([2, 0]))
    assert torch.equal(cache.state["mean"], kept)
    assert len(cache.state["seen"]) == 2


def test_a_state_may_be_one_tensor():
    cache = StateCache()
    cache.update(torch.arange(3.0), 5)
    cache.select(torch.tensor([1]))
    assert [tensor.tolist() for tensor in cache.tensors()] == [[1.0]]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_hides_values_from_all_later_queries(name):
    attention = built(name, dropout=0.5).train()
    q, k, v = (torch.randn(1, H, 5, D) for _ in range(3))
    k = torch.cat(
        (k, -torch.rand(1, H, 5, {"gated_linear": D, "delta_net": 1}.get(name, 0))), dim=-1
    )
    v[:, :, 1:] = 0  # only the first token has something to hand over
    torch.manual_seed(1)
    full = attention.eval().mix(q, k, v, Causal())
    drawn = torch.stack([attention.train().mix(q, k, v, Causal()) for _ in range(40)])
    ratio = (drawn / full).squeeze(1).mean(dim=-1)  # (draws, H, T)
    torch.testing.assert_close(ratio, ratio[:, :, :1].expand_as(ratio))
    assert {round(float(r), 3) for r in ratio.flatten()} == {0.0, 2.0}


@pytest.mark.parametrize(
    ("name", "flops"), [("retention", 5 * D * D), ("delta_net", 6 * D * D), ("linear", 4 * D * D)]
)
def test_the_declared_price_of_a_token_is_that_of_the_recurrence(name, flops):
    attention = built(name)
    assert attention.mixing_flops(10, 55) / (10 * H) == pytest.approx(flops, rel=0.15)
    assert math.isclose(attention.cache_elements(10), H * D * D, rel_tol=0.1)


def test_queries_fewer_than_keys_stand_at_the_end():
    for name in NAMES:
        attention = built(name).double()
        x = torch.randn(1, 200, C, dtype=torch.float64)
        q, (k, v) = attention.project_query(x), attention.project_context(x)
        full = attention.mix(q, k, v, Causal())
        torch.testing.assert_close(attention.mix(q[:, :, -3:], k, v, Causal()), full[:, :, -3:])
