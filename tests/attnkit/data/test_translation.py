"""Pairs as batches: what is dropped, how much is padding, and that batch n depends on (seed, n)."""

import numpy as np
import pytest
import torch

from attnkit.data.pair_batch import IGNORED, translation_batch
from attnkit.data.pair_store import pair_store
from attnkit.data.pairs.base import Pair
from attnkit.data.pairs.cldr_pairs import CldrPairs
from attnkit.data.tokenizers import BpeTokenizer, CharTokenizer
from attnkit.data.translation import TranslationData, load_vocabularies
from attnkit.errors import DataError
from attnkit.tasks.pair_task import padding_share


def prepared(seed=0, target_tokenizer=None, batch_tokens=600, **options):
    data = TranslationData(
        CldrPairs(num_train=600, num_val=40),
        BpeTokenizer(vocab_size=500),
        target_tokenizer,
        max_seq_len=options.pop("max_seq_len", 100),
        max_ratio=4.0,
        batch_tokens=batch_tokens,
        seed=seed,
        val_max_tokens=400,
    )
    data.prepare()
    return data


@pytest.fixture
def data():
    return prepared()


def test_a_batch_begins_ends_and_pads_as_it_should():
    batch = translation_batch(
        [np.array([5, 6]), np.array([7])], [np.array([1]), np.array([2, 3])], 9, 8
    )
    assert batch.source.tolist() == [[5, 6, 9], [7, 9, 9]]
    assert batch.source_keep.tolist() == [[True, True, True], [True, True, False]]
    assert batch.target.tolist() == [[8, 1, 8], [8, 2, 3]]
    assert batch.predicted.tolist() == [[1, 8, IGNORED], [2, 3, 8]]
    assert batch.num_tokens == 5


def test_an_epoch_has_each_pair_once_within_the_limit_and_little_padding(data):
    batches = data.train_batches(0, 10_000)
    n = batches.num_per_epoch
    for epoch in (0, 1):
        members = [batches.members(epoch * n + i) for i in range(n)]
        assert sorted(np.concatenate(members)) == list(range(len(data.train_store)))
    for i in range(n):
        batch = batches[i]
        assert max(batch.source.numel(), batch.target.numel()) <= 600
    assert padding_share(batches) < 0.1


def test_batch_n_is_a_function_of_seed_and_n(data):
    one, again = data.train_batches(0, 500), data.train_batches(150, 300)
    for n in (299, 150, 200):
        assert torch.equal(one[n].source, again[n - 150].source)
    per_epoch = one.num_per_epoch
    assert not np.array_equal(one.members(0), one.members(per_epoch))
    assert not np.array_equal(one.members(0), prepared(seed=1).train_batches(0, 9).members(0))


@pytest.mark.parametrize("world_size", [2, 8])
def test_processes_share_a_batch_and_their_losses_weigh_what_they_hold(data, world_size):
    """Their mean is that of the whole batch, also where there are fewer pairs than processes."""
    whole = data.train_batches(0, 200)
    shares = [data.train_batches(0, 200, rank, world_size) for rank in range(world_size)]
    smallest = min(range(whole.num_per_epoch), key=lambda n: len(whole.members(n)))
    assert len(whole.members(smallest)) < 8
    for n in (3, smallest):
        parts = [share[n] for share in shares]
        counted = [part for part in parts if part.num_tokens]
        pairs = [len(part.source) for part in counted]
        assert sum(pairs) == len(whole[n].source)
        assert max(pairs) - min(pairs) <= 1
        total = sum(part.num_tokens for part in parts)
        assert total == whole[n].num_tokens
        mean = sum(part.num_tokens * mean_target(part) for part in parts) / total
        assert mean == pytest.approx(mean_target(whole[n]))


def mean_target(batch):
    """Stands for a mean loss: a number of each real target."""
    return float(batch.predicted[batch.predicted != IGNORED].float().mean())


def test_validation_uses_a_part_while_training(data):
    part, whole = data.val_batches(400), data.val_batches(None)
    counted = [sum(batches[i].num_tokens for i in range(len(batches))) for batches in (part, whole)]
    assert counted[0] < 500 < counted[1] == data.val_store.target_lengths.sum()


def test_what_is_empty_too_long_or_lopsided_is_dropped_and_counted():
    tokenizer = CharTokenizer()
    tokenizer.train(["abc "])
    pairs = [Pair("abc", "cba"), Pair(" ", "a"), Pair("a", ""), Pair("a" * 30, "b"),
             Pair("aaaaaaaaa", "b"), Pair("ab", "a")]  # fmt: skip
    options = {"split": "train", "max_seq_len": 20, "max_ratio": 3.0}
    store = pair_store(pairs, (tokenizer, tokenizer), **options)
    assert [pair.source for pair in store.pairs] == ["abc", "ab"]
    assert (store.dropped.empty, store.dropped.too_long, store.dropped.lopsided) == (2, 1, 1)
    kept = pair_store(pairs, (tokenizer, tokenizer), **options, keep_all=True)
    assert len(kept) == 6
    assert kept.source_lengths.max() == 20
    with pytest.raises(DataError, match="no pair left of 1: 1 are empty"):
        pair_store([Pair("", "")], (tokenizer, tokenizer), **options)


def test_dropped_pairs_are_reported(caplog):
    caplog.set_level("WARNING")
    prepared(max_seq_len=30)
    assert "pairs dropped (0 empty," in caplog.text
    assert "longer than 30 tokens" in caplog.text


def test_a_batch_that_is_too_small_for_a_pair_is_told():
    with pytest.raises(DataError, match=r"trainer.batch_tokens 20 is less than a pair of \d+"):
        prepared(batch_tokens=20)


def test_vocabularies_are_joint_or_separate_and_come_back(tmp_path, data):
    assert len(data.vocab_sizes) == 1
    apart = prepared(target_tokenizer=CharTokenizer())
    assert apart.vocab_sizes == (apart.tokenizers[1].vocab_size, apart.tokenizers[0].vocab_size)
    apart.save_vocabulary(tmp_path)
    source, target = load_vocabularies(tmp_path, separate=True)
    assert (source.fingerprint(), target.fingerprint()) == tuple(
        tokenizer.fingerprint() for tokenizer in apart.tokenizers
    )
    (tmp_path / "target_tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"target_tokenizer/tokenizer.json is missing"):
        load_vocabularies(tmp_path, separate=True)
