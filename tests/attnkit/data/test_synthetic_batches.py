import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from attnkit.data.keyed_random import KeyedRandom
from attnkit.data.synthetic_batches import draw_split, fingerprints
from attnkit.data.synthetic_data import SyntheticData
from attnkit.errors import DataError
from attnkit.registry import SYNTHETIC


def data_of(name="induction", seed=0, batch_size=12, val_part="all", **options):
    source = SYNTHETIC.build({"name": name, "length": 12, **options})
    return SyntheticData(
        source,
        max_seq_len=64,
        batch_size=batch_size,
        seed=seed,
        val_max_tokens=None,
        val_part=val_part,
    )


def same(a, b):
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets)


def rows(batches):
    return {tuple(row) for batch in batches for row in batch.tokens.tolist()}


@pytest.mark.parametrize("name", SYNTHETIC.names())
def test_a_step_and_a_seed_make_the_batch_and_nothing_else_does(name):
    options = {"length": 48}
    run = data_of(name, seed=3, **options).train_batches(0, 20)
    resumed = data_of(name, seed=3, **options).train_batches(7, 20)
    assert same(run[9], resumed[2])
    assert same(run[9], run[9])
    assert not same(run[9], run[10])
    assert not same(run[9], data_of(name, seed=4, **options).train_batch(9))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_loader_yields_the_steps_in_order_with_any_workers():
    batches = data_of(min_length=5).train_batches(5, 9)
    loaded = list(DataLoader(batches, batch_size=None, num_workers=2))
    assert len(loaded) == 4
    assert all(same(batch, batches[i]) for i, batch in enumerate(loaded))


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_the_ranks_share_the_same_global_batch(world_size):
    data = data_of(min_length=5)
    whole = data.train_batch(4)
    parts = [data.train_batch(4, rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(DataError, match=r"trainer.batch_size 12 .* 5 processes.*multiple of 5"):
        data_of().train_batch(0, 0, 5)


def test_validation_and_test_are_fixed_and_of_the_lengths_asked_for():
    data, other = (data_of(seed=s, num_eval=20, test_lengths=(12, 30)) for s in (0, 9))
    assert all(map(same, data.val_batches(None), other.val_batches(None)))
    assert all(map(same, data.final_batches(), other.final_batches()))
    assert [tuple(b.tokens.shape) for b in data.val_batches(None)] == [(12, 12), (8, 12)]
    lengths = [tuple(b.tokens.shape) for b in data.final_batches()]
    assert lengths == [(12, 12), (8, 12), (12, 30), (8, 30)]
    assert [len(b.tokens) for b in data.val_batches(12 * 5 + 3)] == [5]
    assert [len(b.tokens) for b in data.val_batches(1)] == [1]
    assert same(data.val_batches(12 * 12)[0], data.val_batches(None)[0])


def test_what_options_are_chosen_by_is_not_what_they_are_judged_by():
    chosen_by, judged_by = (data_of(val_part=p) for p in ("first_half", "second_half"))
    assert all(map(same, chosen_by.final_batches(), chosen_by.val_batches(None)))
    assert not rows(chosen_by.final_batches()) & rows(judged_by.final_batches())
    assert all(map(same, judged_by.final_batches(), data_of().final_batches()))


def test_tokens_of_a_batch_are_counted_over_its_possible_lengths():
    assert data_of().tokens_per_batch == 12 * 12
    data = data_of("sort", length=12, min_length=5)
    drawn = [data.train_batch(step).tokens.numel() for step in range(400)]
    assert data.tokens_per_batch == 12 * 9
    assert abs(np.mean(drawn) - 12 * 9) < 4


def test_no_sequence_is_in_two_splits_and_little_is_left_out():
    """Eight bits and the sign: so few sequences that each is drawn many times."""
    data = data_of("parity", length=9, num_eval=2000)
    train = rows(data.train_batch(step) for step in range(400))
    val, test = rows(data.val_batches(None)), rows(data.final_batches())
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train | val | test) == 2**8
    assert len(train) > 160


def test_half_of_the_answers_stay_odd_in_each_split():
    """What is held out is decided by a fingerprint that knows nothing of the answer."""
    task = SYNTHETIC.build({"name": "parity", "length": 17})
    for split in ("train", "val", "test"):
        _, answers = draw_split(task, split, KeyedRandom(1, 1), 4000, 17)
        assert answers[:, -1].mean() == pytest.approx(0.5, abs=0.03)


def test_fingerprints_are_spread_evenly():
    tokens = KeyedRandom(0, 0).below(2, 20_000, 14)
    share = np.bincount((fingerprints(tokens) % np.uint64(8)).astype(int), minlength=8) / 20_000
    assert np.abs(share - 1 / 8).max() < 0.01


def test_too_few_sequences_are_refused():
    with pytest.raises(DataError, match="too few different sequences of 2 tokens"):
        data_of("parity", length=2).prepare()


def test_shorter_training_sequences_come_evenly_and_only_where_the_task_allows_them():
    data = data_of("sort", length=12, min_length=5)
    assert data.source.train_lengths == (6, 8, 10, 12)
    lengths = [data.train_batch(step).tokens.shape[1] for step in range(400)]
    assert set(lengths) == {6, 8, 10, 12}
    assert max(map(lengths.count, lengths)) < 150


def test_what_pins_the_data_down_changes_with_it():
    first, again, other = data_of(), data_of(seed=5), data_of(vocab_size=19)
    assert first.describe() == again.describe()
    assert first.describe()["sha256"] != other.describe()["sha256"]
    assert first.describe()["source"] == "induction"
