from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from attnkit.data.token_store import TokenCounts, TokenStore
from attnkit.data.windows import TrainBatches, ValBatches
from attnkit.errors import DataError


def counting_store(folder: Path, tokens: int) -> TokenStore:
    """A store whose token at place n is n, so that a window tells where it lies."""
    path = folder / f"{tokens}.bin"
    np.arange(tokens, dtype=np.uint16).tofile(path)
    counts = TokenCounts(
        tokens=tokens,
        unknown=0,
        characters=tokens,
        bytes=tokens,
        documents=1,
        dtype="uint16",
        source="",
        tokenizer="",
    )
    return TokenStore(path, counts)


def train_batches(store: TokenStore, **changes: Any) -> TrainBatches:
    options: dict[str, Any] = {
        "seed": 3,
        "batch_size": 12,
        "max_seq_len": 8,
        "end_of_document_id": None,
        "start": 0,
        "stop": 20,
    }
    return TrainBatches(store, **options | changes)


def test_a_step_and_a_seed_make_the_batch_and_nothing_else_does(tmp_path: Path) -> None:
    store = counting_store(tmp_path, 1000)
    run, resumed = train_batches(store), train_batches(store, start=7)
    assert torch.equal(run[9].tokens, resumed[2].tokens)
    assert torch.equal(run[9].tokens, run[9].tokens)
    assert not torch.equal(run[9].tokens, run[10].tokens)
    assert not torch.equal(run[9].tokens, train_batches(store, seed=4)[9].tokens)
    assert not torch.equal(train_batches(store, seed=0)[1].tokens, run[0].tokens)


def test_the_places_stay_the_same_across_versions_of_numpy(tmp_path: Path) -> None:
    batches = train_batches(counting_store(tmp_path, 60_000), seed=1, batch_size=4)
    assert batches.window_starts(0).tolist() == [32583, 59023, 42146, 21090]
    assert batches.window_starts(1000).tolist() == [24567, 11158, 15280, 44605]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_yields_the_steps_in_order_with_any_workers(tmp_path: Path, workers: int) -> None:
    batches = train_batches(counting_store(tmp_path, 1000), start=5, stop=9)
    loaded = list(DataLoader(batches, batch_size=None, num_workers=workers))
    assert len(loaded) == 4
    for index, batch in enumerate(loaded):
        assert type(batch) is type(batches[0])
        assert torch.equal(batch.tokens, batches[index].tokens)
        assert torch.equal(batch.targets, batches[index].targets)


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_the_ranks_share_the_same_global_batch(tmp_path: Path, world_size: int) -> None:
    store = counting_store(tmp_path, 1000)
    whole = train_batches(store)[4]
    parts = [
        train_batches(store, rank=rank, world_size=world_size)[4] for rank in range(world_size)
    ]
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trainer.batch_size 12 .* 5 processes.*multiple of 5"):
        train_batches(counting_store(tmp_path, 100), world_size=5)


def test_windows_begin_everywhere_with_equal_chance(tmp_path: Path) -> None:
    batches = train_batches(counting_store(tmp_path, 18), batch_size=10_000)
    starts = batches.window_starts(0)
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 850
    assert counts.max() < 1150
    assert batches[0].targets.max() == 17


def test_a_batch_that_does_not_exist_is_an_index_error(tmp_path: Path) -> None:
    batches = train_batches(counting_store(tmp_path, 100))
    for index in (-1, 20):
        with pytest.raises(IndexError, match="is out of range: there are 20"):
            batches[index]


def val_batches(store: TokenStore, max_tokens: int | None) -> ValBatches:
    return ValBatches(
        store, batch_size=4, max_seq_len=10, end_of_document_id=None, max_tokens=max_tokens
    )


def test_the_whole_split_is_covered_once(tmp_path: Path) -> None:
    batches = val_batches(counting_store(tmp_path, 106), None)
    assert [len(batch.tokens) for batch in batches] == [4, 4, 2]
    seen = torch.cat([batch.tokens.flatten() for batch in batches])
    assert seen.tolist() == list(range(100))
    assert batches.num_tokens == 100
    assert batches[2].targets[-1, -1] == 100


def test_the_last_window_needs_one_token_behind_it(tmp_path: Path) -> None:
    assert val_batches(counting_store(tmp_path, 100), None).num_tokens == 90
    assert val_batches(counting_store(tmp_path, 101), None).num_tokens == 100


def test_fewer_windows_are_spread_evenly_and_do_not_overlap(tmp_path: Path) -> None:
    batches = val_batches(counting_store(tmp_path, 1001), 255)
    assert batches.num_tokens == 250
    assert len(batches) == 7
    assert np.array_equal(batches.starts, np.arange(25) * 40)
    assert val_batches(counting_store(tmp_path, 1001), 10**9).num_tokens == 1000
    assert val_batches(counting_store(tmp_path, 1001), 3).num_tokens == 10
