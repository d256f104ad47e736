"""Generation: what is drawn, and that the cache changes nothing."""

import pytest
import torch

from attnkit.attention.multi_head import MultiHead
from attnkit.masks import Causal
from attnkit.models.decoding import generate, sample
from attnkit.models.language_model import LanguageModel
from attnkit.registry import ATTENTION

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])

CAUSAL = [
    name
    for name in ATTENTION.names()
    if ATTENTION.get(name).refusal("self", Causal(), "none") is None
]
HYBRIDS = [["multi_head_latent", "delta_net"], ["linear", "forgetting"]]  # all kinds of cache


def drawn(count=2000, **options):
    """The share of each of the four tokens among `count` draws."""
    logits = PROBABILITIES.log().expand(count, 4)
    tokens = sample(logits, torch.Generator().manual_seed(0), **options)
    return torch.bincount(tokens, minlength=4) / count


def test_what_is_cut_off_is_never_drawn():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).expand(20000, 50)
    tokens = sample(logits, torch.Generator().manual_seed(0), top_k=3)
    assert set(tokens.tolist()) == set(logits[0].topk(3).indices.tolist())


def test_the_largest_number_draws_the_last_token_that_is_left(monkeypatch):
    largest = torch.full((1, 1), 1 - 2**-24)
    monkeypatch.setattr(torch, "rand", lambda *size, generator: largest)
    probabilities = torch.tensor([[0.1, 0.4, 0.0, 0.3, 0.2]])
    assert sample(probabilities.log(), torch.Generator()) == 0  # the least likely
    assert sample(probabilities.log(), torch.Generator(), top_k=3) == 4


def shares(*weights):
    return pytest.approx([w / sum(weights) for w in weights], abs=0.04)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1, 4, 2, 3)),
        ({"temperature": 0.5}, (1, 16, 4, 9)),
        ({"temperature": 0}, (0, 1, 0, 0)),
        ({"temperature": 1e-40}, (0, 1, 0, 0)),
        ({"temperature": 5e-324}, (0, 1, 0, 0)),
        ({"temperature": float("inf")}, (1, 1, 1, 1)),
        ({"top_k": 1}, (0, 1, 0, 0)),
        ({"top_k": 2}, (0, 4, 0, 3)),
        ({"top_k": 9}, (1, 4, 2, 3)),
        ({"top_p": 0.05}, (0, 1, 0, 0)),
        ({"top_p": 5e-324}, (0, 1, 0, 0)),
        ({"top_p": 0.45}, (0, 4, 0, 3)),
        ({"top_p": 0.75}, (0, 4, 2, 3)),
        ({"top_p": 1.0}, (1, 4, 2, 3)),
        # the two likeliest hold 4/7 and 3/7 once the others are gone
        ({"top_k": 2, "top_p": 0.55}, (0, 1, 0, 0)),
        # flattened first (2, 4, 2.83, 3.46 of 12.3), then cut: 0.6 needs two tokens
        ({"temperature": 2.0, "top_p": 0.6}, (0, 2, 0, 3**0.5)),
    ],
)
def test_what_is_drawn_and_how_often(options, expected):
    assert drawn(**options).tolist() == shares(*expected)


def test_rows_are_drawn_apart_and_the_seed_decides():
    logits = PROBABILITIES.log().expand(50, 4)
    draws = [sample(logits, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].unique().numel() > 1


def shaken(**options):
    torch.manual_seed(0)
    model = LanguageModel(13, **({"max_seq_len": 10, "dim": 16, "num_layers": 2} | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


PROMPT = torch.tensor([[1, 2, 3], [9, 0, 4]])


def generated(model, prompt=PROMPT, count=7, **options):
    return torch.stack(list(generate(model, prompt, count, **options)), dim=1)


def without_cache(model, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "can_cache", property(lambda self: False))
        return generated(model, **options)


@pytest.mark.parametrize("mechanism", [*CAUSAL, *HYBRIDS], ids=str)
@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 5, "seed": 3}])
def test_the_cache_changes_no_token(mechanism, options, monkeypatch):
    model = shaken(attention=mechanism)
    cached = generated(model, **options)
    assert torch.equal(cached, without_cache(model, monkeypatch, **options))


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_tokens_beyond_the_longest_sequence_are_read_afresh(position, monkeypatch):
    model = shaken(position=position)
    long = generated(model, count=25, seed=1)
    assert torch.equal(long, without_cache(model, monkeypatch, count=25, seed=1))
    tokens = torch.cat((PROMPT, long), dim=1)
    greedy = generated(model, tokens[:, -10:], count=1, temperature=0)
    assert torch.equal(generated(model, tokens, count=1, temperature=0), greedy)


def test_greedy_takes_the_likeliest_token_each_time():
    model, tokens = shaken(), PROMPT
    for following in generate(model, PROMPT, 5, temperature=0):
        assert torch.equal(following, model(tokens)[:, -1].argmax(dim=-1))
        tokens = torch.cat((tokens, following[:, None]), dim=1)


def test_the_seed_decides_what_is_sampled():
    model = shaken()
    assert torch.equal(generated(model, seed=5), generated(model, seed=5))
    assert not torch.equal(generated(model, seed=5), generated(model, seed=6))


def test_a_model_that_sees_the_future_generates_without_a_cache():
    tokens = generated(shaken(mask="none"), count=9)
    assert tokens.shape == (2, 9)


def test_a_document_ends_with_its_end_token(monkeypatch):
    """What stood before the end token no longer matters."""
    model = shaken(mask=["causal", "document"], position="none")
    first, second = torch.tensor([[5, 6, 0, 3, 2]]), torch.tensor([[8, 8, 0, 3, 2]])
    options = {"end_token": 0, "temperature": 0, "count": 5}
    assert torch.equal(generated(model, first, **options), generated(model, second, **options))
    assert torch.equal(
        generated(model, first, **options),
        without_cache(model, monkeypatch, prompt=first, **options),
    )
    inside = model(first, torch.zeros(1, 5, dtype=torch.long))[:, -1]
    apart = model(first, torch.tensor([[0, 0, 0, 1, 1]]))[:, -1]
    assert not torch.allclose(inside, apart)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (PROMPT[:, :0], {}, "the prompt is empty"),
        (PROMPT, {"temperature": -1}, "temperature must be at least 0, got -1"),
        (PROMPT, {"top_k": 0}, "top_k must be at least 1, got 0"),
        (PROMPT, {"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        (PROMPT, {"top_p": 1.5}, "got 1.5"),
        (PROMPT, {"seed": -1}, "seed must be from 0 to 9223372036854775807, got -1"),
        (PROMPT, {"seed": 10**20}, "got 100000000000000000000"),
    ],
)
def test_options_that_make_no_sense_are_named(prompt, options, message):
    with pytest.raises(ValueError, match=message):
        next(generate(shaken(), prompt, 3, **options))


class ReadsAllAtOnce(MultiHead):
    """Queries know the mean of all tokens, which no cache keeps."""

    has_cache = False

    def project_query(self, x):
        return super().project_query(x + x.mean(dim=1, keepdim=True))


def test_what_has_no_cache_is_read_anew_at_each_step(monkeypatch):
    monkeypatch.setitem(ATTENTION._classes, "reads_all_at_once", ReadsAllAtOnce)
    model = shaken(attention=["multi_head", "reads_all_at_once"])
    assert not model.can_cache
    tokens = torch.cat((PROMPT, generated(model, temperature=0)), dim=1)
    for length in range(3, 10):  # each token is what a pass over all before it says
        assert torch.equal(model(tokens[:, :length])[:, -1].argmax(-1), tokens[:, length])
    with pytest.raises(ValueError, match="has no cache"):
        model.new_cache()


FIXED = [name for name in CAUSAL if ATTENTION.get(name).why_no_fixed_cache() is None]


def assert_fixed_is_like_the_full_pass(model, documents=None, room=24):
    """And like the cache that grows: the same logits for each token."""
    tokens = torch.randint(13, (2, 20), generator=torch.Generator().manual_seed(1))
    expected = model(tokens, documents)
    cache, grown = model.new_cache(), model.new_cache()
    of_prompt = None if documents is None else documents[:, :5]
    for memory in (cache, grown):
        model(tokens[:, :5], of_prompt, memory)
    cache.fix(room, tokens.device)
    if documents is not None:
        documents = torch.nn.functional.pad(documents, (0, room - 20))
    places = [tensor.data_ptr() for tensor in cache.tensors()]
    for at in range(5, 20):
        token, so_far = tokens[:, at : at + 1], None
        if documents is not None:
            so_far = documents[:, : at + 1]
        logits = model(token, documents, cache)
        torch.testing.assert_close(logits, expected[:, at : at + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, model(token, so_far, grown), rtol=1e-4, atol=1e-5)
    assert int(cache.position) == 20
    assert places == [tensor.data_ptr() for tensor in cache.tensors()]  # nothing has moved


def turned_if_it_can(name):
    """rotary, where a mechanism turns its queries and keys; else learned positions."""
    takes = "queries_and_keys" in ATTENTION.get(name).position_kinds
    return "rotary" if takes else "learned"


@torch.no_grad()
@pytest.mark.parametrize(
    ("mechanism", "position"),
    [
        *((name, turned_if_it_can(name)) for name in FIXED),
        *(("multi_head", name) for name in ("learned", "alibi", "relative_bias", "shaw", "cope")),
        ("multi_head_latent", "alibi"),
        ("stick_breaking", "alibi"),
    ],
)
def test_a_cache_of_fixed_size_is_like_the_full_pass(mechanism, position):
    model = shaken(attention=mechanism, position=position, max_seq_len=20)
    assert_fixed_is_like_the_full_pass(model)


@torch.no_grad()
@pytest.mark.parametrize("mechanism", ["grouped_query", "sink"])
@pytest.mark.parametrize(
    "mask",
    [
        {"name": "sliding_window", "window": 4},
        {"name": "dilated", "dilation": 3},
        ["causal", "document"],
        ["causal", {"name": "bigbird", "block_size": 2, "window": 1, "num_random": 1}],
    ],
    ids=["window", "dilated", "document", "bigbird"],
)
def test_a_cache_of_fixed_size_obeys_masks(mask, mechanism):
    model = shaken(attention=mechanism, mask=mask, position="alibi", max_seq_len=20)
    documents = (torch.arange(20) // 7).expand(2, -1) if "document" in mask else None
    assert_fixed_is_like_the_full_pass(model, documents)


@pytest.mark.parametrize("mechanism", ["multi_head", "multi_head_latent", "gated_linear"])
@pytest.mark.parametrize("count", [7, 25], ids=["within", "beyond"])
def test_the_seed_draws_the_same_from_a_cache_of_fixed_size(mechanism, count):
    model = shaken(attention=mechanism, position="rotary")
    calls = []

    def run(tokens, documents, cache):
        calls.append(tokens.shape)
        return model(tokens, documents, cache)

    fixed = generated(model, count=count, seed=4, top_p=0.9, run=run)
    assert torch.equal(fixed, generated(model, count=count, seed=4, top_p=0.9))
    assert calls == [(2, 1)] * min(count - 1, 7)  # behind the prompt, up to the longest sequence


class LooksAtTheEnd(MultiHead):
    """Has scores of its own that count on the last query standing at the last key."""

    def scores(self, q, k):
        return super().scores(q, k) + torch.arange(k.shape[2]).sub(k.shape[2]) / 5


def test_a_mechanism_that_does_not_say_rows_alone_keeps_the_cache_that_grows(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(ATTENTION._classes, "looks_at_the_end", LooksAtTheEnd)
    model = shaken(attention=["multi_head", "looks_at_the_end"])
    assert torch.equal(generated(model, run=model.to), generated(model))  # nobody calls `run`
    why = "LooksAtTheEnd computes its own scores and does not declare rows_alone"
    assert caplog.messages == [f"tokens are decoded from a cache that grows: {why}"]
