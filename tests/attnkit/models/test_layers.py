"""Layers: wirings by hand, what mechanisms share through the stream, caches of patterns, costs."""

import pytest
import torch
from torch.nn import functional as F

from attnkit.attention.maps import attention_maps
from attnkit.attention.stream import Stream
from attnkit.masks import Causal
from attnkit.models.accounting import cache_bytes, layer_costs, parameter_counts
from attnkit.models.beam_search import Search, beam_search
from attnkit.models.decoding import generate
from attnkit.models.encoder_decoder import CrossOptions, DecoderOptions, EncoderDecoder
from attnkit.models.language_model import LanguageModel
from attnkit.models.layers import DecoderLayerEntry
from attnkit.registry import ATTENTION, WIRINGS, Spec

T = 20
TOKENS = torch.randint(11, (2, T), generator=torch.Generator().manual_seed(1))
WINDOW = {"name": "sliding_window", "window": 4}


def built(**options):
    torch.manual_seed(0)
    model = LanguageModel(11, **({"max_seq_len": T, "dim": 16, "num_layers": 2} | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def attend(layer, x):
    return layer.attention(x, x, Causal())


BY_HAND = {
    "pre_norm": lambda layer, x: (
        (y := x + attend(layer, layer.attention_norm(x))) + layer.mlp(layer.mlp_norm(y))
    ),
    "post_norm": lambda layer, x: layer.mlp_norm(
        (y := layer.attention_norm(x + attend(layer, x))) + layer.mlp(y)
    ),
    "sandwich": lambda layer, x: (
        (y := x + layer.attention_norm_after(attend(layer, layer.attention_norm(x))))
        + layer.mlp_norm_after(layer.mlp(layer.mlp_norm(y)))
    ),
    "parallel": lambda layer, x: (
        x + attend(layer, layer.norm_of_all(x)) + layer.mlp(layer.norm_of_all(x))
    ),
}


@pytest.mark.parametrize("name", WIRINGS.names())
def test_a_wiring_is_its_formula(name):
    layer = built(wiring=name).layers[0]
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer(x, Stream(mask=Causal())), BY_HAND[name](layer, x))
    assert WIRINGS.get(name).formula
    assert "arXiv:" in WIRINGS.get(name).paper


def test_behind_a_layer_whose_output_is_normalised_stands_no_norm():
    names = {name for name, _ in built(wiring="post_norm").named_parameters()}
    assert "norm.weight" not in names
    assert "norm.weight" in {name for name, _ in built().named_parameters()}


@pytest.mark.parametrize("name", WIRINGS.names())
def test_every_parameter_counts_and_takes_a_gradient(name):
    model = built(wiring=name, position="rotary")
    counts = parameter_counts(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert (
        counts["norms"] == 16 * {"pre_norm": 5, "post_norm": 4, "sandwich": 9, "parallel": 3}[name]
    )
    model(TOKENS).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# What layers share


def test_a_value_residual_adds_the_first_values():
    model = built(attention="value_residual", mlp="none", norm="none", num_layers=2)
    first, second = (layer.attention for layer in model.layers)
    assert first.shares is None
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    y = x + first(x, x, Causal())
    q, k = second.project_query(y), second.project_context(y)[0]
    a, b = second.shares
    v = a * second.project_context(y)[1] + b * first.project_context(x)[1]
    expected = y + second.merge(second.mix(q, k, v, Causal()), y)
    stream = Stream(mask=Causal())
    computed = model.layers[1](model.layers[0](x, stream), stream)
    torch.testing.assert_close(computed, expected)


def test_layers_that_share_keys_have_no_projections_and_no_cache_of_their_own():
    spec = {"name": "cross_layer", "share": 3, "num_heads": 4, "num_kv_heads": 2}
    model, other = (
        built(attention=spec, num_layers=5),
        built(attention="grouped_query", num_layers=5),
    )
    attentions = [layer.attention for layer in model.layers]
    assert [attention.lender for attention in attentions] == [None, 0, 0, None, 3]
    assert [attention.key is None for attention in attentions] == [False, True, True, False, True]
    whole = cache_bytes(other, T, torch.float32)
    assert cache_bytes(model, T, torch.float32) * 5 == whole * 2
    cache = model.new_cache()
    with torch.no_grad():
        model(TOKENS, cache=cache)
    assert cache.num_bytes() == 2 * cache_bytes(model, T, torch.float32)


def test_shared_keys_stand_where_their_own_layer_placed_them():
    """Equal to grouped_query in all layers whose keys and values come from the same input."""
    model = built(attention="cross_layer", position="rotary", num_layers=2, mlp="none")
    lender, user = (layer.attention for layer in model.layers)
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(2))
    stream = Stream(mask=Causal())
    lender(x, x, Causal(), None, stream)
    whole = ATTENTION.build("grouped_query", 16).with_position("rotary").eval()
    whole.load_state_dict(lender.state_dict() | user.state_dict(), strict=False)
    torch.testing.assert_close(user(x, x, Causal(), None, stream), whole(x, x, Causal()))


def test_an_auxiliary_loss_is_its_formula_and_asked_for():
    model = built(attention={"name": "disagreement", "weight": 0.5}, num_layers=1)
    assert model.has_auxiliary_losses
    assert not built().has_auxiliary_losses
    attention, x = model.layers[0].attention, torch.randn(2, 5, 16)
    heads = attention.mixed(attention.prepare(x, x, Causal()), Causal())
    cosines = F.cosine_similarity(heads[:, :, None], heads[:, None], dim=-1)  # (B, H, H, T)
    stream = Stream()
    attention(x, x, Causal(), None, stream)
    torch.testing.assert_close(stream.losses["disagreement"], 0.5 * cosines.mean())
    stream = Stream()
    assert torch.equal(model(TOKENS, stream=stream), model(TOKENS))
    assert list(stream.losses) == ["disagreement"]
    stream.losses["disagreement"].backward()
    assert attention.query.weight.grad.abs().max() > 0


def test_padding_counts_in_no_auxiliary_loss():
    spec = Spec("disagreement", {"num_heads": 2})
    torch.manual_seed(0)
    model = EncoderDecoder(
        11,
        max_seq_len=T,
        dim=16,
        decoder=DecoderOptions(num_layers=1, attention=spec),
        cross=CrossOptions(attention=Spec("multi_head", {"num_heads": 2})),
    ).eval()
    source, target = TOKENS[:1, :6], TOKENS[:1, 6:12]
    keep = torch.ones(1, 6, dtype=torch.bool)
    losses = []
    for padded in (0, 5):
        stream = Stream()
        model(
            F.pad(source, (0, padded)),
            F.pad(keep, (0, padded)),
            F.pad(target, (0, padded)),
            predicted=F.pad(target, (0, padded), value=-100),
            stream=stream,
        )
        losses.append(stream.losses["disagreement"])
    torch.testing.assert_close(losses[0], losses[1])


# Caches and costs of patterns

LOCAL_GLOBAL = {
    "layers": [{"mask": WINDOW, "position": "rotary"}, {"mask": "causal", "position": "none"}],
    "num_layers": 4,
}


def test_the_cache_of_a_window_is_its_window():
    model = built(**LOCAL_GLOBAL)
    cache = model.new_cache()
    with torch.no_grad():
        for t in range(T):
            model(TOKENS[:, t : t + 1], cache=cache)
            assert cache.num_bytes() == 2 * cache_bytes(model, t + 1, torch.float32)
    kept = [layer.num_bytes() // (2 * 2 * 16 * 4) for layer in cache.layers]
    assert kept == [4, T, 4, T]


def test_a_long_window_takes_no_more_room_than_twice_itself():
    model = built(mask=WINDOW, max_seq_len=200, num_layers=1)
    cache = model.new_cache()
    with torch.no_grad():
        for _ in range(10):
            model(TOKENS, cache=cache)
        for t in range(50):
            model(TOKENS[:, t % T : t % T + 1], cache=cache) if cache.length < 200 else None
    assert max(tensor.shape[2] for tensor in cache.tensors()) <= 2 * (T + 4)


def test_costs_are_told_layer_by_layer():
    model = built(**LOCAL_GLOBAL)
    local, everywhere, *_ = costs = layer_costs(model)
    assert [each.name for each in costs] == [f"layers.{i}" for i in range(4)]
    assert local.parameters == everywhere.parameters == 12 * 16 * 16 + 2 * 16
    assert local.cache_bytes(torch.float32) == 4 * 2 * 16 * 4
    assert everywhere.cache_bytes(torch.float32) == T * 2 * 16 * 4
    pairs = (4 * T - 6, T * (T + 1) // 2)
    assert [each.mixing for each in (local, everywhere)] == [4 * 16 * count for count in pairs]


@torch.no_grad()
@pytest.mark.parametrize(
    "layers",
    [
        LOCAL_GLOBAL["layers"],
        [{"attention": "cross_layer", "mask": WINDOW}, {"attention": "cross_layer"}],
        [{"attention": "linear"}, {"attention": "value_residual", "position": "alibi"}],
    ],
    ids=["windows", "shared", "states"],
)
def test_a_cache_of_fixed_size_serves_a_pattern(layers):
    model = built(layers=layers, num_layers=4, position="none")
    full = model(TOKENS)
    cache = model.new_cache()
    model(TOKENS[:, :7], cache=cache)
    cache.fix(24, TOKENS.device)
    places = [tensor.data_ptr() for tensor in cache.tensors()]
    for t in range(7, T):
        logits = model(TOKENS[:, t : t + 1], cache=cache)
        torch.testing.assert_close(logits, full[:, t : t + 1], rtol=1e-4, atol=1e-4)
    assert places == [tensor.data_ptr() for tensor in cache.tensors()]  # nothing has moved


@torch.no_grad()
def test_of_fixed_size_too_the_cache_of_a_window_is_its_window():
    """Rounded up to a multiple of eight keys, and whatever was read before it was fixed."""
    model = built(**LOCAL_GLOBAL, max_seq_len=100)
    for read in (1, 3, 9, T):
        cache = model.new_cache()
        model(TOKENS[:, :read], cache=cache)
        cache.fix(64, TOKENS.device)
        kept = [layer.num_bytes() // (2 * 2 * 16 * 4) for layer in cache.layers]
        assert kept == [8, 64, 8, 64]
        for t in range(read, T):
            logits = model(TOKENS[:, t : t + 1], cache=cache)
            torch.testing.assert_close(
                logits, model(TOKENS[:, : t + 1])[:, -1:], rtol=1e-4, atol=1e-4
            )
    with pytest.raises(
        ValueError, match=r"6 tokens at once do not fit .* window of 4; pass at most 5"
    ):
        model(TOKENS[:, :6], cache=cache)


def test_generation_uses_the_caches_of_a_pattern():
    model = built(**LOCAL_GLOBAL)
    cached = torch.stack(list(generate(model, TOKENS[:, :3], 12, temperature=0)), dim=1)
    tokens = torch.cat((TOKENS[:, :3], cached), dim=1)
    for length in range(3, 15):
        assert torch.equal(model(tokens[:, :length])[:, -1].argmax(-1), tokens[:, length])


@torch.no_grad()
def test_a_beam_follows_its_hypotheses_through_windows_and_shared_keys():
    torch.manual_seed(0)
    entries = [
        DecoderLayerEntry(attention="cross_layer", mask={"name": "sliding_window", "window": 3}),
        DecoderLayerEntry(attention="cross_layer"),
    ]
    model = EncoderDecoder(11, max_seq_len=T, dim=16, decoder=DecoderOptions(layers=entries)).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    source, keep = TOKENS[:, :8], torch.ones(2, 8, dtype=torch.bool)
    found = [
        beam_search(model, source, keep, 0, Search(beam=3, cached=cached))
        for cached in (True, False)
    ]
    assert [[one.tokens for one in row] for row in found[0]] == [
        [one.tokens for one in row] for row in found[1]
    ]


# Maps, and one graph


def test_maps_of_layers_that_use_what_others_left():
    model = built(attention="cross_layer", position="rotary", num_layers=4)
    maps = attention_maps(model, TOKENS)
    assert [one.mechanism for one in maps] == ["cross_layer"] * 4
    for one in maps:
        torch.testing.assert_close(one.weights.sum(dim=-1), torch.ones(2, 4, T))
    local = attention_maps(built(**LOCAL_GLOBAL), TOKENS)[0]
    assert int((local.weights[0, 0, -1] > 0).sum()) == 4


@pytest.mark.parametrize(
    "options",
    [
        LOCAL_GLOBAL | {"wiring": "parallel"},
        {"attention": "value_residual", "wiring": "sandwich"},
        {"attention": "cross_layer", "wiring": "post_norm"},
        {"attention": "disagreement"},
    ],
    ids=["pattern", "value residual", "shared keys", "auxiliary loss"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
def test_a_model_is_one_graph(options):
    model = built(**options)
    plain, compiled = Stream(), Stream()
    expected = model(TOKENS, targets=TOKENS, stream=plain)
    run = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(run(TOKENS, targets=TOKENS, stream=compiled), expected)
    assert list(compiled.losses) == list(plain.losses)
    for name, term in plain.losses.items():
        torch.testing.assert_close(compiled.losses[name], term)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize(
    "layers",
    [
        LOCAL_GLOBAL["layers"],
        [{"attention": "cross_layer", "mask": WINDOW}, {"attention": "cross_layer"}],
    ],
    ids=["windows", "shared"],
)
def test_decoding_from_the_caches_of_a_pattern_is_one_graph(layers):
    model = built(layers=layers, position="none", max_seq_len=40)
    expected = torch.stack(list(generate(model, TOKENS[:, :3], 15, temperature=0)), dim=1)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    run = torch.compile(model, backend=keep, fullgraph=True)
    drawn = list(generate(model, TOKENS[:, :3], 15, temperature=0, run=run))
    assert torch.equal(torch.stack(drawn, dim=1), expected)
    assert len(graphs) <= 2  # the first token may be one of its own
    torch._dynamo.reset()
