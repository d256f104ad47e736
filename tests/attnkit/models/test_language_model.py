"""LanguageModel: its options, its parts, and its cache."""

import pytest
import torch

from attnkit.models.language_model import LanguageModel
from attnkit.registry import MASKS, POSITIONS, RegistryError

V, T = 11, 12


def built(**options):
    torch.manual_seed(0)
    defaults = {"max_seq_len": T, "dim": 16, "num_layers": 2}
    return LanguageModel(V, **(defaults | options)).eval()


def shaken(**options):
    """With noise on all parameters: GPT-2's small start would hide much."""
    model = built(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.fixture
def tokens():
    return torch.randint(V, (2, T), generator=torch.Generator().manual_seed(1))


def test_no_layers_are_a_bigram_model(tokens):
    """Without positions a prediction depends on its own token alone."""
    model = shaken(num_layers=0, position="none")
    logits = model(tokens)
    assert logits.shape == (2, T, V)
    torch.testing.assert_close(logits[0], model(tokens[:1, :].T)[:, 0])
    torch.testing.assert_close(
        logits, model.norm(model.embedding(tokens)) @ model.embedding.weight.T
    )


@pytest.mark.parametrize("position", ["sinusoidal", "learned"])
def test_positions_do_not_drown_tokens_at_the_start(position, tokens):
    """Sines of unit size would: tokens start fifty times smaller."""
    seen = []
    model = built(position=position)
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(tokens)
    words = model.embedding(tokens)
    places = seen[0] - words
    assert 0.5 < places.std() / words.std() < 2


def test_without_an_mlp_attention_stands_alone(tokens):
    model = shaken(mlp="none")
    assert all(layer.mlp is None and layer.mlp_norm is None for layer in model.layers)
    x = model.embedding(tokens) + model.position(torch.arange(T))
    for layer in model.layers:
        normed = layer.attention_norm(x)
        x = x + layer.attention(normed, normed, model.masks[0])
    torch.testing.assert_close(model(tokens), model.head(model.norm(x)))


def test_without_norms_the_residual_stream_is_read_as_it_is(tokens):
    model = shaken(norm="none", mlp="relu", num_layers=1)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "embedding",
        "position",
        "layers",
    }
    x = model.embedding(tokens) + model.position(torch.arange(T))
    layer = model.layers[0]
    x = x + layer.attention(x, x, model.masks[0])
    x = x + layer.mlp.down(torch.relu(layer.mlp.up(x)))
    torch.testing.assert_close(model(tokens), x @ model.embedding.weight.T)


@pytest.mark.parametrize(
    ("mlp", "function"),
    [
        ("gelu", torch.nn.functional.gelu),
        ("relu", torch.relu),
        ("squared_relu", lambda x: torch.relu(x) ** 2),
    ],
)
def test_mlp_nonlinearities(mlp, function):
    branch = shaken(mlp=mlp, num_layers=1).layers[0].mlp
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    expected = function(x @ branch.up.weight.T) @ branch.down.weight.T
    torch.testing.assert_close(branch(x), expected)


def test_swiglu_has_a_gate_and_the_same_size():
    branch = shaken(mlp="swiglu", num_layers=1, dim=48, attention="single_head").layers[0].mlp
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(2))
    gate = x @ branch.gate.weight.T
    hidden = gate * torch.sigmoid(gate) * (x @ branch.up.weight.T)
    torch.testing.assert_close(branch(x), hidden @ branch.down.weight.T)
    assert sum(p.numel() for p in branch.parameters()) == 8 * 48**2


def test_tied_embeddings_are_one_parameter(tokens):
    tied, untied = built(tied_embeddings=True), built(tied_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    size = {m: sum(p.numel() for p in m.parameters()) for m in (tied, untied)}
    assert size[untied] - size[tied] == V * 16
    tied(tokens).sum().backward()
    assert tied.embedding.weight.grad is not None


@pytest.mark.parametrize(("init_std", "expected"), [(None, 64**-0.5), (0.02, 0.02)])
def test_matrices_start_as_large_as_their_inputs_ask(init_std, expected):
    layer = built(dim=64, init_std=init_std).layers[0]
    for matrix in (layer.attention.query, layer.attention.key, layer.attention.value, layer.mlp.up):
        assert float(matrix.weight.detach().std()) == pytest.approx(expected, rel=0.1)
    for matrix in (layer.attention.output, layer.mlp.down):
        assert float(matrix.weight.detach().std()) < 0.02


def test_init_std_must_be_positive():
    with pytest.raises(ValueError, match="init_std must be above 0, got 0"):
        built(init_std=0.0)


def test_zero_init_starts_from_the_identity(tokens):
    model = built(zero_init=True, tied_embeddings=False)
    assert float(model(tokens).detach().abs().max()) == 0
    with torch.no_grad():
        model.head.weight.normal_()
    identity = model.norm(model.embedding(tokens) + model.position(torch.arange(T)))
    torch.testing.assert_close(model(tokens), model.head(identity))
    with pytest.raises(ValueError, match="set one of them to false"):
        built(zero_init=True, tied_embeddings=True)


def test_a_hybrid_has_one_mechanism_a_layer(tokens):
    model = shaken(
        num_layers=3,
        attention=["linear", {"name": "grouped_query", "num_heads": 4}, "sigmoid"],
    )
    names = [type(layer.attention).__name__ for layer in model.layers]
    assert names == ["Linear", "GroupedQuery", "Sigmoid"]
    assert model(tokens).shape == (2, T, V)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": ["linear"]}, "lists 1 mechanisms for num_layers 2"),
        ({"attention": "linear", "mask": "prefix"}, "attention linear cannot obey the mask prefix"),
        ({"attention": ["multi_head", "linear"], "position": "alibi"}, "no place for position"),
        ({"max_seq_len": 0}, "max_seq_len must be at least 1, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"num_layers": -1}, "num_layers must be at least 0, got -1"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
        ({"dim": 18}, "num_heads 4 does not divide dim 18"),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_an_unknown_mechanism_is_named():
    with pytest.raises(RegistryError, match="did you mean `multi_head`"):
        built(attention="multihead")


@pytest.mark.parametrize("position", POSITIONS.names())
def test_decoding_equals_the_full_pass_with_every_position(position, tokens):
    model = shaken(position=position)
    cache = model.new_cache()
    with torch.no_grad():
        chunks = [model(tokens[:, a:b], cache=cache) for a, b in ((0, 7), (7, 8), (8, 11), (11, T))]
        torch.testing.assert_close(torch.cat(chunks, 1), model(tokens), atol=1e-4, rtol=1e-4)
    assert cache.length == T


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("position", POSITIONS.names())
def test_a_model_computes_in_the_dtype_of_its_weights(position, dtype, tokens):
    model = shaken(position=position)
    exact = model(tokens)
    logits = model.to(dtype)(tokens)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.to(torch.float32), exact, atol=0.5, rtol=0.1)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "none"])
def test_under_autocast_on_a_cpu_layers_add_to_a_sum_in_bfloat16(norm, tokens, recwarn):
    """And what comes out is near that of float32; without a warning of torch's."""
    torch.manual_seed(0)
    model = LanguageModel(11, max_seq_len=16, dim=16, num_layers=3, norm=norm)
    kept = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _module, _given, x: kept.append(x.dtype))
    exact = model(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens)
    assert kept == [torch.float32] * 3 + [torch.bfloat16] * 3
    assert (logits - exact).norm() < 0.02 * exact.norm()
    assert not recwarn.list


def test_decoding_within_documents_equals_the_full_pass(tokens):
    model = shaken(mask=["causal", "document"])
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 6 + [2] * 4])
    cache = model.new_cache()
    with torch.no_grad():
        steps = [model(tokens[:, t : t + 1], documents[:, : t + 1], cache) for t in range(T)]
        full = model(tokens, documents)
    torch.testing.assert_close(torch.cat(steps, 1), full, atol=1e-4, rtol=1e-4)
    alone = model(tokens[:1, :5], documents[:1, :5])
    torch.testing.assert_close(full[:1, :5], alone, atol=1e-4, rtol=1e-4)


def test_a_model_that_sees_the_future_has_no_cache():
    assert not built(mask="none").can_cache
    with pytest.raises(ValueError, match="cannot decode from a cache"):
        built(mask="none").new_cache()


@pytest.mark.parametrize("mask", [n for n in MASKS.names() if n not in ("all_of", "any_of")])
def test_exactly_the_causal_masks_can_cache(mask):
    expected = mask in ("causal", "sliding_window", "dilated")
    assert built(mask=mask).can_cache == expected


def test_dropout_acts_in_training_alone(tokens):
    model = built(dropout=0.5)
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_bias_vectors_are_an_option():
    with_bias, without = built(bias=True), built()
    added = {n for n, _ in with_bias.named_parameters()} - {
        n for n, _ in without.named_parameters()
    }
    assert added
    assert all(name.endswith(".bias") for name in added)
    assert not any("attention." in name for name in added)  # a mechanism has an option of its own
