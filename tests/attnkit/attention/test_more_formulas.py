"""The mechanisms beyond the classic ones, each against its formula, written out here in loops."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention.base import build_attention
from attnkit.masks import Causal, NoMask, Padding

B, T, S, C, H = 2, 5, 7, 12, 3
D = C // H
CAUSAL = torch.ones(T, S).tril(S - T) > 0


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(B, T, C), torch.randn(B, S, C)


def built(name, **options):
    """In float64: the formulas are exact, and so must be what computes them."""
    torch.manual_seed(1)
    attention = build_attention({"name": name, "num_heads": H, **options}, C).eval().double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return attention


def split(x, linear, num_heads=H):
    """(B, T, C) -> (B, H, T, D)"""
    projected = x @ linear.weight.T + (0 if linear.bias is None else linear.bias)
    return projected.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def projected(attention, x, context):
    parts = (x, attention.query), (context, attention.key), (context, attention.value)
    return [split(tokens.double(), linear) for tokens, linear in parts]


def joined(heads, attention):
    return heads.transpose(1, 2).flatten(-2) @ attention.output.weight.T


def softmax(scores):
    return scores.masked_fill(~CAUSAL, -math.inf).softmax(dim=-1)


def assert_gives(attention, x, context, expected, mask=None):
    computed = attention(x.double(), context.double(), Causal() if mask is None else mask)
    torch.testing.assert_close(computed, expected, atol=1e-10, rtol=1e-8)


def normalised(heads, norm):
    size = heads.square().mean(dim=-1, keepdim=True) + 1e-5
    return heads / size.sqrt() * norm.weight


def test_additive_compares_by_a_hidden_layer(inputs):
    attention = built("additive")
    q, k, v = projected(attention, *inputs)
    scores = torch.zeros(B, H, T, S, dtype=torch.float64)
    for h in range(H):
        for t in range(T):
            for s in range(S):
                hidden = torch.tanh(q[:, h, t] + k[:, h, s])
                scores[:, h, t, s] = hidden @ attention.match[h * D : (h + 1) * D]
    assert_gives(attention, *inputs, joined(softmax(scores) @ v, attention))


@pytest.mark.parametrize("least", [0.0, 0.5, 1.0])
def test_gated_shuts_features_by_the_token_that_asks(inputs, least):
    attention = built("gated", least=least)
    q, k, v = projected(attention, *inputs)
    heads = softmax(q @ k.mT / D**0.5) @ v
    gate = 1 / (1 + (-split(inputs[0].double(), attention.gate)).exp())
    gate = least + (1 - least) * gate
    assert_gives(attention, *inputs, joined(heads * gate, attention))


@pytest.mark.parametrize("learned", [True, False])
def test_a_sink_has_one_more_place_that_holds_nothing(inputs, learned):
    attention = built("sink", learned=learned)
    q, k, v = projected(attention, *inputs)
    exponentials = (q @ k.mT / D**0.5).exp() * CAUSAL
    empty = attention.empty.exp().view(H, 1, 1) if learned else 1.0
    weights = exponentials / (empty + exponentials.sum(dim=-1, keepdim=True))
    assert_gives(attention, *inputs, joined(weights @ v, attention))


def test_a_sink_starts_off_by_one():
    assert not build_attention("sink", C).empty.any()


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_relu_counts_the_keys_that_each_query_sees(inputs, power):
    attention = built("relu", power=power)
    q, k, v = projected(attention, *inputs)
    positive = (q @ k.mT / D**0.5).clamp(min=0) ** power
    seen = torch.tensor([3.0, 4, 5, 6, 7]).view(T, 1)
    assert_gives(attention, *inputs, joined(positive * CAUSAL / seen @ v, attention))
    assert_gives(attention, *inputs, joined(positive / S @ v, attention), NoMask())


def nearest_on_the_simplex(scores, share, power):
    """The weights relu(scores x share - tau)^power that sum to 1, tau found by bisection."""
    scores = scores * share
    low, high = scores.amax() - 1, scores.amax()
    for _ in range(200):
        tau = (low + high) / 2
        total = ((scores - tau).clamp(min=0) ** power).sum()
        low, high = (tau, high) if total > 1 else (low, tau)
    return (scores - tau).clamp(min=0) ** power


@pytest.mark.parametrize(("name", "share", "power"), [("sparsemax", 1.0, 1), ("entmax15", 0.5, 2)])
def test_sparse_weights_are_those_that_bisection_finds(inputs, name, share, power):
    attention = built(name)
    q, k, v = projected(attention, *inputs)
    weights = torch.zeros(B, H, T, S, dtype=torch.float64)
    scores = q @ k.mT / D**0.5
    for b, h, t in torch.cartesian_prod(*map(torch.arange, (B, H, T))).tolist():
        seen = S - T + t + 1
        row = nearest_on_the_simplex(scores[b, h, t, :seen], share, power)
        weights[b, h, t, :seen] = row
    assert (weights[..., 1:][CAUSAL[:, 1:].expand(B, H, T, S - 1)] == 0).any()  # sparse indeed
    assert_gives(attention, *inputs, joined(weights @ v, attention))


def test_top_k_keeps_the_largest_scores(inputs):
    attention = built("top_k", num_kept=2)
    q, k, v = projected(attention, *inputs)
    scores = (q @ k.mT / D**0.5).masked_fill(~CAUSAL, -math.inf)
    weights = torch.zeros_like(scores)
    for b, h, t in torch.cartesian_prod(*map(torch.arange, (B, H, T))).tolist():
        best = scores[b, h, t].argsort(descending=True)[:2]
        weights[b, h, t, best] = scores[b, h, t, best].softmax(dim=-1)
    assert_gives(attention, *inputs, joined(weights @ v, attention))


@pytest.mark.parametrize("learned", [True, False])
def test_differential_takes_a_second_map_away(inputs, learned):
    attention = built("differential", lambda_init=0.6, learned=learned)
    q, k, v = projected(attention, *inputs)
    first = softmax(q[..., ::2] @ k[..., ::2].mT / (D / 2) ** 0.5)
    second = softmax(q[..., 1::2] @ k[..., 1::2].mT / (D / 2) ** 0.5)
    away = 0.6
    if learned:
        (a1, b1), (a2, b2) = attention.mixers.view(2, 2, D // 2)
        away = away + (a1 @ b1).exp() - (a2 @ b2).exp()
    heads = normalised((first - away * second) @ v, attention.norm) * (1 - 0.6)
    assert_gives(attention, *inputs, joined(heads, attention))


def test_forgetting_adds_what_the_gates_between_leave(inputs):
    attention = built("forgetting")
    x, context = inputs
    q, k, v = projected(attention, x, context)
    gates = torch.sigmoid(split(context.double(), attention.gate))[..., 0]  # (B, H, S)
    scores = q @ k.mT / D**0.5
    for t in range(T):
        for s in range(S - T + t + 1):
            scores[:, :, t, s] += gates[:, :, s + 1 : S - T + t + 1].log().sum(dim=-1)
    assert_gives(attention, x, context, joined(softmax(scores) @ v, attention))


def test_gates_of_padding_forget_nothing(inputs):
    attention = built("forgetting")
    x = inputs[1].double()
    keep = torch.tensor([True, True, False, True, True, False, True])
    padded = attention(x, x, Causal() & Padding(keep.expand(B, S)))
    alone = attention(x[:, keep], x[:, keep], Causal())
    torch.testing.assert_close(padded[:, keep], alone, atol=1e-10, rtol=1e-8)


def test_stick_breaking_gives_what_nearer_keys_leave(inputs):
    attention = built("stick_breaking")
    q, k, v = projected(attention, *inputs)
    share = torch.sigmoid(q @ k.mT / D**0.5)
    weights = torch.zeros_like(share)
    for t in range(T):
        left = torch.ones(B, H, dtype=torch.float64)
        for s in range(S - T + t, -1, -1):
            weights[:, :, t, s] = left * share[:, :, t, s]
            left = left * (1 - share[:, :, t, s])
    assert_gives(attention, *inputs, joined(weights @ v, attention))


# Through a state, token by token, across the edges of the chunks in which it is computed

LENGTHS = [1, 5, 33, 70]


def sequence(length):
    return torch.randn(B, length, C, generator=torch.Generator().manual_seed(3)).double()


def read(q, k, v, step):
    """Heads (B, H, T, D) of a state that `step(state, t, k, v)` carries on from token to token."""
    state, heads = torch.zeros(B, H, D, D, dtype=torch.float64), []
    for t in range(q.shape[2]):
        state = step(state, t, k[:, :, t], v[:, :, t])
        heads.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(heads, dim=2)


def written(k, v):
    return k[..., :, None] * v[..., None, :]


@pytest.mark.parametrize("length", LENGTHS)
def test_retention_fades_at_a_rate_of_each_head(length):
    attention, x = built("retention"), sequence(length)
    q, k, v = projected(attention, x, x)
    fade = torch.tensor([1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128]).double().view(H, 1, 1)
    heads = read(q / D**0.5, k, v, lambda state, t, k, v: fade * state + written(k, v))
    heads = normalised(heads, attention.norm) * F.silu(split(x, attention.gate))
    assert_gives(attention, x, x, joined(heads, attention))


@pytest.mark.parametrize("length", LENGTHS)
def test_gated_linear_fades_as_each_token_says(length):
    attention, x = built("gated_linear"), sequence(length)
    q, k, v = projected(attention, x, x)
    fade = torch.sigmoid(split(attention.decay_down(x), attention.decay_up)) ** (1 / 16)
    heads = read(
        q / D**0.5,
        k,
        v,
        lambda state, t, k, v: fade[:, :, t, :, None] * state + written(k, v),
    )
    heads = normalised(heads, attention.norm) * F.silu(split(x, attention.gate))
    assert_gives(attention, x, x, joined(heads, attention))


@pytest.mark.parametrize("length", LENGTHS)
def test_delta_net_writes_the_difference(length):
    attention, x = built("delta_net"), sequence(length)
    q, k, v = projected(attention, x, x)
    q, k = (F.silu(heads) / F.silu(heads).norm(dim=-1, keepdim=True) for heads in (q, k))
    strength = torch.sigmoid(split(x, attention.write))  # (B, H, T, 1)

    def step(state, t, k, v):
        known = (k[:, :, None] @ state)[:, :, 0]
        return state + written(k, strength[:, :, t] * (v - known))

    heads = normalised(read(q, k, v, step), attention.norm)
    assert_gives(attention, x, x, joined(heads, attention))


def test_linformer_asks_mixtures_of_keys(inputs):
    attention = built("linformer", rank=3, max_keys=9)
    q, k, v = projected(attention, *inputs)
    E, M = attention.mix_keys[:, :S], attention.mix_values[:, :S]
    weights = (q @ torch.einsum("rs,bhsd->bhrd", E, k).mT / D**0.5).softmax(dim=-1)
    heads = weights @ torch.einsum("rs,bhsd->bhrd", M, v)
    assert_gives(attention, *inputs, joined(heads, attention), NoMask())


@pytest.mark.parametrize("name", ["linear", "retention", "gated_linear", "delta_net"])
def test_a_state_decodes_one_token_at_the_price_of_one(name):
    """Not at that of a whole chunk."""
    attention = build_attention(name, C)
    token, cache = torch.ones(1, 1, C), attention.new_cache()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(token, token, Causal(), cache)
    declared = attention.projection_flops() + attention.mixing_flops(1, 1)
    assert counter.get_total_flops() < 1.5 * declared


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("differential", {"num_heads": 2, "head_dim": 6}, "head_dim 6 must be a multiple of 4"),
        (
            "differential",
            {"num_heads": 3, "lambda_init": 1.0},
            r"lambda_init must be in \[0, 1\), got 1.0",
        ),
        ("gated", {"least": 1.5}, r"least must be in \[0, 1\], got 1.5"),
        ("top_k", {"num_kept": 0}, "num_kept must be at least 1, got 0"),
        ("relu", {"power": 0.5}, "power must be at least 1, got 0.5"),
        ("linformer", {"rank": 0}, "rank 0 and max_keys 512 must be at least 1"),
    ],
)
def test_options_out_of_range_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_attention({"name": name, **options}, C)


def test_linformer_says_how_many_keys_it_knows(inputs):
    attention = built("linformer", max_keys=6)
    with pytest.raises(ValueError, match="shares for 6 keys but got 7; set its option max_keys"):
        attention(inputs[0].double(), inputs[1].double(), NoMask())
    with pytest.raises(ValueError, match="never causal"):
        attention.new_cache()


@pytest.mark.parametrize("name", ["forgetting", "stick_breaking"])
def test_what_goes_from_left_to_right_refuses_to_look_ahead(name):
    cls = type(build_attention(name, C))
    assert "cannot obey the mask none, which shows later tokens" in cls.refusal(
        "self", NoMask(), "none"
    )
    assert cls.refusal("self", Causal(), "none") is None
    assert "cannot serve cross-attention" in cls.refusal("cross", Causal(), "none")


def test_latent_attention_makes_all_heads_of_one_vector(inputs):
    """Written out with the keys and values that the mechanism never makes."""
    attention = built("multi_head_latent", latent_dim=6, rotary_dim=2)
    x, context = (tokens.double() for tokens in inputs)
    q = split(x, attention.query)  # (B, H, T, D + 2)
    latent = normalised(context @ attention.value.weight.T, attention.norm)
    turned = context @ attention.key.weight.T
    up_key, up_value = (up.view(H, D, 6) for up in (attention.up_key, attention.up_value))
    k = torch.stack([torch.cat((latent @ up_key[h].T, turned), dim=-1) for h in range(H)], dim=1)
    v = torch.stack([latent @ up_value[h].T for h in range(H)], dim=1)
    heads = softmax(q @ k.mT / (D + 2) ** 0.5) @ v
    assert_gives(attention, *inputs, joined(heads, attention))


def test_latent_attention_caches_less_than_one_head_of_each_kind_would():
    attention = build_attention({"name": "multi_head_latent", "num_heads": 8}, 128)
    plain = build_attention({"name": "multi_head", "num_heads": 8}, 128)
    assert attention.cache_elements(10) == 10 * (32 + 8)
    assert plain.cache_elements(10) == 10 * 256


def test_latent_attention_names_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="rotary_dim 3 even and at least 2"):
        build_attention({"name": "multi_head_latent", "rotary_dim": 3}, C)


@pytest.mark.parametrize("at_once", [1, 700, 2**26])
def test_additive_makes_its_hidden_layer_some_queries_at_a_time(at_once, monkeypatch):
    """In training as well: nothing that is made or kept has T x S x D numbers."""
    monkeypatch.setattr("attnkit.attention.additive.NUMBERS_AT_ONCE", at_once)
    attention = built("additive")
    q, k = (torch.randn(B, H, T, D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs, largest = (q, k, attention.match), 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            largest = max(largest, made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    gradient = torch.randn(B, H, T, T, dtype=torch.float64)
    with Sizes():
        scores = attention.scores(q, k)
        gradients = torch.autograd.grad(scores, inputs, gradient)
    hidden = (q.unsqueeze(3) + k.unsqueeze(2)).tanh()
    expected = (hidden * attention.match.view(H, 1, 1, D)).sum(dim=-1)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, gradient))
    assert largest <= max(at_once, k.numel(), scores.numel())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_additive_keeps_no_hidden_layer_either():
    attention, x = (
        build_attention({"name": "additive", "num_heads": 2}, 128),
        torch.randn(1, 64, 128),
    )
    kept = []
    run = torch.compile(attention, backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        run(x, x, Causal())
    hidden = 2 * 64 * 64 * 64
    assert 0 < sum({t.untyped_storage().data_ptr(): t.numel() for t in kept}.values()) < hidden / 4
    torch._dynamo.reset()
