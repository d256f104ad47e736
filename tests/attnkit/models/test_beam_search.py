"""Beam search: against every translation there is, against greedy, with and without a cache, alone
and in a batch.
"""

import itertools
import math

import pytest
import torch

from attnkit.models.beam_search import Search, beam_search, in_batches
from attnkit.models.encoder_decoder import (
    CrossOptions,
    DecoderOptions,
    EncoderDecoder,
    EncoderOptions,
)
from attnkit.registry import Spec

V, END = 5, 4


def toy(seed=0, vocab=V, max_seq_len=5):
    """A small model with strong opinions."""
    torch.manual_seed(seed)
    heads = Spec("multi_head", {"num_heads": 2})
    model = EncoderDecoder(
        vocab,
        dim=8,
        max_seq_len=max_seq_len,
        encoder=EncoderOptions(num_layers=1, attention=heads),
        decoder=DecoderOptions(num_layers=1, attention=heads),
        cross=CrossOptions(attention=heads),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.6 * torch.randn(parameter.shape))
    return model


def batch(lengths=(4, 2, 3), vocab=V, width=None):
    generator = torch.Generator().manual_seed(2)
    width = width or max(lengths)
    source = torch.randint(vocab, (len(lengths), width), generator=generator)
    return source, torch.arange(width) < torch.tensor(lengths)[:, None]


@torch.no_grad()
def every_translation(model, source, keep, longest, alpha):
    """All token sequences, ended or cut at the greatest length, with their scores."""
    scored = []
    words = [w for w in range(V) if w != END]
    for length in range(1, longest + 1):
        lasts = [END] if length < longest else range(V)
        for body in itertools.product(words, repeat=length - 1):
            for last in lasts:
                target = torch.tensor([[END, *body]])
                probabilities = model(source, keep, target)[0].double().log_softmax(dim=-1)
                steps = [*body, last]
                total = sum(float(probabilities[t, w]) for t, w in enumerate(steps))
                tokens = list(body) if last == END else steps
                scored.append((total / ((5 + length) / 6) ** alpha, tokens))
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_that_is_wide_enough_finds_the_best_of_all(seed, alpha):
    model = toy(seed, max_seq_len=4)
    source, keep = batch((3, 2))
    search = Search(beam=V**4, n_best=4, length_penalty=alpha)
    found = beam_search(model, source, keep, END, search)
    for row in range(2):
        expected = every_translation(model, source[row][None], keep[row][None], 4, alpha)[:4]
        assert [one.tokens for one in found[row]] == [tokens for _, tokens in expected]
        for one, (value, _) in zip(found[row], expected, strict=True):
            assert one.score == pytest.approx(value, abs=1e-4)


@torch.no_grad()
def greedy(model, source, keep, longest, end):
    """One token after the other, the likeliest, written out."""
    tokens = [end]
    while len(tokens) - 1 < longest:
        tokens.append(int(model(source, keep, torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] == end:
            return tokens[1:-1]
    return tokens[1:]


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed):
    model = toy(seed, vocab=12, max_seq_len=16)
    source, keep = batch((6, 3, 1, 5), vocab=12)
    found = beam_search(model, source, keep, 11, Search(beam=1))
    longest = [min(16, 2 * length + 10) for length in (6, 3, 1, 5)]
    expected = [greedy(model, source[i][None], keep[i][None], longest[i], 11) for i in range(4)]
    assert [one[0].tokens for one in found] == expected


@pytest.mark.parametrize("beam", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_cache_changes_no_token(seed, beam):
    model = toy(seed, vocab=12, max_seq_len=16)
    source, keep = batch((6, 3, 1, 5), vocab=12)
    options = {"beam": beam, "n_best": beam}
    cached = beam_search(model, source, keep, 11, Search(**options))
    plain = beam_search(model, source, keep, 11, Search(**options, cached=False))
    for a, b in zip(cached, plain, strict=True):
        assert [one.tokens for one in a] == [one.tokens for one in b]
        assert [one.score for one in a] == pytest.approx([one.score for one in b], abs=1e-4)


def test_a_sentence_translates_alike_alone_and_in_any_batch():
    model = toy(3, vocab=12, max_seq_len=16)
    source, keep = batch((6, 3, 1, 5), vocab=12, width=9)
    search = Search(beam=4, n_best=2)
    together = beam_search(model, source, keep, 11, search)
    for i, length in enumerate((6, 3, 1, 5)):
        (alone,) = beam_search(model, source[i][None, :length], keep[i][None, :length], 11, search)
        assert [one.tokens for one in alone] == [one.tokens for one in together[i]]


def test_a_longer_search_never_finds_a_worse_translation_than_the_exhaustive_best():
    model = toy(1, max_seq_len=4)
    source, keep = batch((3,))
    best = every_translation(model, source, keep, 4, 1.0)[0][0]
    for beam in (1, 2, 4, 8):
        (found,) = beam_search(model, source, keep, END, Search(beam=beam))
        assert found[0].score <= best + 1e-6


def test_the_length_penalty_is_that_of_gnmt():
    search = Search(length_penalty=0.6)
    assert float(search.penalty(7)) == pytest.approx(((5 + 7) / 6) ** 0.6)
    assert float(Search(length_penalty=0.0).penalty(50)) == 1.0


def test_a_translation_is_never_longer_than_allowed():
    model = toy(0, vocab=12, max_seq_len=64)
    with torch.no_grad():
        model.head.weight[11] = 0  # the end grows unlikely
        model.head.weight[3] = 50
    source, keep = batch((2, 6), vocab=12)
    found = beam_search(model, source, keep, 11, Search(beam=2, max_ratio=1.0))
    for one, limit in zip(found, (12, 16), strict=True):
        assert len(one[0].tokens) <= limit
    assert math.isfinite(found[0][0].score)


def test_batches_hold_sentences_of_like_length_the_longest_first():
    lengths = [3, 9, 1, 4, 9, 30]
    found = list(in_batches(lengths, 18))
    assert found == [[5], [1, 4], [3, 0, 2]]
    assert sorted(i for one in found for i in one) == list(range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam must be at least 1"),
        ({"beam": 2, "n_best": 3}, "n_best must be from 1 to beam 2, got 3"),
        ({"length_penalty": -0.1}, "length_penalty must be at least 0"),
        ({"max_ratio": 0}, "max_ratio must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Search(**options)
