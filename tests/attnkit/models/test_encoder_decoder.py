"""The encoder-decoder: who sees whom, what padding changes, what caches hold, what is refused."""

import pytest
import torch

from attnkit.attention.cache import KeyValueCache, StateCache
from attnkit.models.accounting import cache_bytes, costs, parameter_counts
from attnkit.models.encoder_decoder import (
    CrossOptions,
    DecoderOptions,
    EncoderDecoder,
    EncoderOptions,
)
from attnkit.registry import ATTENTION, Spec

EXACT = {"atol": 3e-5, "rtol": 1e-4}
HEADS = {"num_heads": 2}


def build(attention="multi_head", position="sinusoidal", seed=0, **options):
    torch.manual_seed(seed)
    spec = Spec(attention) if attention == "single_head" else Spec(attention, HEADS)
    found = {
        "dim": 16,
        "max_seq_len": 24,
        "encoder": EncoderOptions(num_layers=2, attention=spec, position=Spec(position)),
        "decoder": DecoderOptions(num_layers=2, attention=spec, position=Spec(position)),
        "cross": CrossOptions(attention=spec),
    }
    model = EncoderDecoder(20, **(found | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def inputs(source_length=7, target_length=6):
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(20, (3, source_length), generator=generator)
    target = torch.randint(20, (3, target_length), generator=generator)
    keep = torch.arange(source_length) < torch.tensor([[source_length], [4], [2]])
    return source, keep, target


@torch.no_grad()
def test_the_target_sees_no_later_token_and_all_of_the_source():
    model = build()
    source, keep, target = inputs()
    before = model(source, keep, target)
    changed = target.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 20
    moved = (model(source, keep, changed) - before).abs().amax(dim=(0, 2))
    assert float(moved[:3].max()) == 0
    assert float(moved[3:].min()) > 1e-3
    for place in range(7):
        other = source.clone()
        other[:, place] = (other[:, place] + 1) % 20
        moved = (model(other, keep, target) - before).abs().amax(dim=(1, 2))
        assert [bool(m > 1e-6) for m in moved] == keep[:, place].tolist()


@pytest.mark.parametrize("attention", ["multi_head", "linear", "qk_norm", "single_head"])
@torch.no_grad()
def test_padding_changes_nothing(attention):
    model = build(attention)
    source, keep, target = inputs()
    together = model(source, keep, target)
    for row, length in enumerate(keep.sum(dim=1).tolist()):
        alone = model(
            source[row : row + 1, :length], keep[row : row + 1, :length], target[row][None]
        )
        torch.testing.assert_close(together[row : row + 1], alone, **EXACT)


NAMES = ATTENTION.names()  # here, before other tests register plugins in this process


def served():
    """Mechanisms that serve both roles under a causal mask and padding."""
    names = []
    for name in NAMES:
        try:
            build(name)
        except (ValueError, TypeError, RuntimeError):
            continue
        names.append(name)
    return names


@pytest.mark.parametrize("position", ["sinusoidal", "rotary"])
@torch.no_grad()
def test_decoding_from_the_caches_equals_the_full_pass(position):
    names = served()
    assert {"multi_head", "linear", "grouped_query", "multi_head_latent"} <= set(names)
    source, keep, target = inputs()
    for name in names:
        try:
            model = build(name, position)
        except ValueError:  # it takes no such position, and says so
            continue
        full = model(source, keep, target)
        cache = model.new_cache(source, keep)
        steps = [model.decode(target[:, t : t + 1], cache) for t in range(target.shape[1])]
        torch.testing.assert_close(torch.cat(steps, dim=1), full, **EXACT, msg=name)
        assert cache.length == target.shape[1]


@torch.no_grad()
def test_several_hypotheses_of_a_source_share_its_keys():
    model = build()
    source, keep, target = inputs()
    cache = model.new_cache(source, keep)
    both = torch.stack((target, target.flip(1)), dim=1).flatten(0, 1)  # (B 2, T)
    together = model.decode(both, cache).unflatten(0, (3, 2))
    torch.testing.assert_close(together[:, 0], model(source, keep, target), **EXACT)
    torch.testing.assert_close(together[:, 1], model(source, keep, target.flip(1)), **EXACT)
    assert cache.source[0][0].shape[0] == 3


@torch.no_grad()
def test_keys_of_the_source_are_computed_once():
    model = build()
    source, keep, target = inputs()
    calls = []
    for layer in model.decoder.layers:
        layer.cross_attention.key.register_forward_hook(lambda *_: calls.append(1))
    cache = model.new_cache(source, keep)
    for t in range(4):
        model.decode(target[:, t : t + 1], cache)
    assert len(calls) == 2


@torch.no_grad()
def test_a_cache_holds_what_is_counted():
    model = build()
    source, _, target = inputs(6, 6)
    cache = model.new_cache(source, torch.ones(3, 6, dtype=torch.bool))
    model.decode(target, cache)
    assert cache.num_bytes() == 3 * cache_bytes(model, 6, torch.float32)


def test_caches_keep_the_rows_that_are_selected():
    keys = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 3, 2)
    cache = KeyValueCache()
    cache.append(keys, keys + 10)
    cache.select(torch.tensor([2, 2, 0]))
    k, v = cache.append(torch.zeros(3, 1, 1, 2), torch.zeros(3, 1, 1, 2))
    assert k[:, 0, 0, 0].tolist() == [2, 2, 0]
    assert v[:, 0, 2, 1].tolist() == [12, 12, 10]
    assert cache.length == 4
    state = StateCache()
    state.update(torch.arange(3.0), 5)
    state.select(torch.tensor([1]))
    assert state.state.tolist() == [1.0]
    assert state.length == 5


def test_embeddings_are_shared_and_tied_where_that_is_said():
    shared = build()
    assert shared.head.weight is shared.target_embedding.weight is shared.source_embedding.weight
    apart = EncoderDecoder(20, 30, dim=16, shared_embeddings=False, tied_embeddings=False)
    assert apart.source_embedding.weight.shape == (30, 16)
    assert apart.head.weight is not apart.target_embedding.weight
    parts = parameter_counts(shared)
    assert sum(parts.values()) == sum(p.numel() for p in shared.parameters())
    assert parts["embeddings"] == 20 * 16
    assert parts["head"] == 0
    assert parts["query"] == (2 + 2 + 2) * 16 * 16
    assert costs(shared)["training_flops_per_token"] > 6 * 6 * 4 * 16 * 16


REFUSED = [
    ({"decoder": DecoderOptions(mask=Spec("none"))}, "decoder.mask none lets a token see later"),
    ({"cross": CrossOptions(mask=Spec("causal"))}, "cross.mask causal compares positions"),
    ({"cross": CrossOptions(position=Spec("rotary"))}, "cross.attention position rotary compares"),
    ({"cross": CrossOptions(position=Spec("learned"))}, "cross.position learned is added to"),
    ({"encoder": EncoderOptions(num_layers=0)}, "encoder.num_layers must be at least 1"),
    ({"encoder": EncoderOptions(mask=Spec("document"))}, "encoder.mask document needs documents"),
    (
        {"cross": CrossOptions(attention=[Spec("multi_head")])},
        "cross.attention lists 1 mechanisms for num_layers 2",
    ),
    ({"max_seq_len": 1}, "max_seq_len must be at least 2"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[m[:24] for _, m in REFUSED])
def test_what_cannot_be_is_refused_with_the_reason(options, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        build(**options)


def test_a_mechanism_that_serves_no_cross_attention_is_refused(monkeypatch):
    monkeypatch.setattr(ATTENTION.get("multi_head"), "roles", frozenset({"self"}))
    with pytest.raises(
        ValueError, match=r"cross.attention multi_head cannot serve cross-attention"
    ):
        build()


def test_two_vocabularies_cannot_share_a_matrix():
    with pytest.raises(ValueError, match="the source has 30 tokens and the target 20"):
        EncoderDecoder(20, 30, dim=16)
