"""Masks against tables written by hand, and what they say of themselves against their tables."""

import itertools

import pytest
import torch

from attnkit.masks import (
    AllOf,
    AnyOf,
    BigBird,
    Causal,
    Dilated,
    Document,
    Mask,
    NoMask,
    Padding,
    Prefix,
    SlidingWindow,
    build_mask,
    name_of,
)
from attnkit.registry import MASKS, RegistryError, Spec


def table(mask: Mask, num_queries: int, num_keys: int, row: int = 0) -> list[str]:
    """The mask as lines of 1 (may look) and 0, one line a query."""
    dense = mask.dense(num_queries, num_keys)
    dense = dense.expand(dense.shape[0], 1, num_queries, num_keys)[row, 0]
    return ["".join(str(int(allowed)) for allowed in line) for line in dense]


SQUARE = {
    NoMask(): "11111 11111 11111 11111 11111",
    Causal(): "10000 11000 11100 11110 11111",
    SlidingWindow(window=2): "10000 11000 01100 00110 00011",
    SlidingWindow(window=1): "10000 01000 00100 00010 00001",
    SlidingWindow(window=3, centered=True): "11000 11100 01110 00111 00011",
    SlidingWindow(window=4, centered=True): "11000 11100 11110 01111 00111",
    Prefix(length=3): "11100 11100 11100 11110 11111",
    Dilated(dilation=2): "10000 01000 10100 01010 10101",
    Dilated(dilation=2, window=2): "10000 01000 10100 01010 00101",
    Causal() | Prefix(length=2): "11000 11000 11100 11110 11111",
    Causal() & SlidingWindow(window=3, centered=True): "10000 11000 01100 00110 00011",
    SlidingWindow(window=2) | Dilated(dilation=3): "10000 11000 01100 10110 01011",
}


@pytest.mark.parametrize(("mask", "expected"), SQUARE.items(), ids=repr)
def test_square_tables(mask, expected):
    assert table(mask, 5, 5) == expected.split()


def test_bigbird_sees_near_blocks_global_blocks_and_random_ones():
    shape = {"block_size": 3, "window": 3, "num_global": 2, "num_random": 2}
    blocks = BigBird(**(shape | {"block_size": 1, "num_random": 0}))
    assert table(blocks, 6, 6) == ["111111", "111111", "111100", "111110", "110111", "110011"]
    size = 40
    dense = BigBird(**shape).dense(3 * size, 3 * size)[0, 0]
    tiles = dense.view(size, 3, size, 3).movedim(2, 1)
    assert (tiles.flatten(2).all(dim=2) == tiles.flatten(2).any(dim=2)).all()  # whole blocks
    drawn = tiles[:, :, 0, 0] & ~blocks.dense(size, size)[0, 0]
    assert torch.equal(drawn, drawn.T)
    earlier = drawn.tril().sum(dim=1).tolist()
    assert earlier == [min(max(row - 3, 0), 2) for row in range(size)]  # 0, 1 and one near
    assert drawn.any(dim=0)[2:].float().mean() > 0.9  # spread over the blocks
    cut = BigBird(**shape).dense(60, 60)[0, 0]
    assert torch.equal(cut, dense[:60, :60])  # whatever the length
    others = [BigBird(**shape, seed=seed).dense(120, 120)[0, 0] for seed in (0, 1, 2**40)]
    assert [torch.equal(dense, other) for other in others] == [True, False, False]


@pytest.mark.parametrize(("mask", "expected"), SQUARE.items(), ids=repr)
def test_fewer_queries_are_the_last_rows(mask, expected):
    assert table(mask, 2, 5) == expected.split()[-2:]
    assert table(mask, 1, 5) == expected.split()[-1:]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Causal(), "00 00 10 11"),
        (SlidingWindow(window=1), "00 00 10 01"),
        (SlidingWindow(window=3, centered=True), "00 10 11 11"),
        (Prefix(length=1), "10 10 10 11"),
        (NoMask(), "11 11 11 11"),
    ],
)
def test_more_queries_than_keys_stand_before_the_first_key(mask, expected):
    assert table(mask, 4, 2) == expected.split()


def test_document_tells_the_rows_of_a_batch_apart():
    mask = Document(torch.tensor([[0, 0, 1, 1], [5, 6, 6, 5]]))
    assert table(mask, 4, 4, row=0) == ["1100", "1100", "0011", "0011"]
    assert table(mask, 4, 4, row=1) == ["1001", "0110", "0110", "1001"]
    assert table(mask, 2, 4, row=1) == ["0110", "1001"]
    assert mask.batch_size == 2


def test_document_with_queries_of_another_sequence():
    mask = Document(torch.tensor([[0, 1, 1]]), query_documents=torch.tensor([[1, 0]]))
    assert table(mask, 2, 3) == ["011", "100"]
    assert not mask.has_no_empty_row(2, 3)


def test_padding_hides_keys_alone():
    mask = Padding(torch.tensor([[True, False, True], [True, True, True]]))
    assert table(mask, 3, 3, row=0) == ["101", "101", "101"]
    assert table(mask, 3, 3, row=1) == ["111", "111", "111"]
    assert table(mask & Causal(), 3, 3, row=0) == ["100", "100", "101"]


def test_a_single_row_of_documents_serves_every_row_of_the_batch():
    mask = Document(torch.tensor([[0, 0, 1]])) & Padding(torch.tensor([[True] * 3, [False] * 3]))
    assert table(mask, 3, 3, row=0) == ["110", "110", "001"]
    assert table(mask, 3, 3, row=1) == ["000", "000", "000"]


def test_rows_that_do_not_fit_each_other_are_an_error():
    mask = Document(torch.zeros(2, 3, dtype=torch.long)) & Padding(torch.ones(3, 3).bool())
    with pytest.raises(IndexError):
        mask.dense(3, 3)


def test_a_document_mask_needs_documents():
    with pytest.raises(ValueError, match="call bind"):
        (Causal() & Document()).dense(3, 3)


def test_bind_reaches_masks_inside_of_masks():
    documents = torch.tensor([[0, 0, 1]])
    mask = (Causal() & (Document() | SlidingWindow(window=2))).bind(documents=documents)
    assert table(mask, 3, 3) == ["100", "110", "011"]
    assert Causal().bind(documents=documents) == Causal()


PLAIN = list(SQUARE)
DOCUMENTS = Document(torch.tensor([[0] * 4 + [1] * 3]))
PADDING = Padding(torch.tensor([[True, False, True, False, False, True, True]]))
COMBINED = [
    join(a, b)
    for a, b in itertools.combinations([*PLAIN, DOCUMENTS, PADDING], 2)
    for join in (lambda a, b: a & b, lambda a, b: a | b)
]


@pytest.mark.parametrize("mask", [*PLAIN, DOCUMENTS, PADDING, *COMBINED], ids=name_of)
def test_what_a_mask_says_of_itself_holds_in_its_table(mask):
    """`back`, `ahead`, `sees_itself` and `has_no_empty_row` promise; the table proves."""
    for num_queries, num_keys in ((7, 7), (3, 7), (7, 4)):
        if num_queries > num_keys and "document" in name_of(mask):
            continue  # a query before the first key belongs to no document
        dense = mask.dense(num_queries, num_keys).expand(1, 1, num_queries, num_keys)[0, 0]
        query = torch.arange(num_keys - num_queries, num_keys)[:, None]
        reach = (torch.arange(num_keys)[None] - query)[dense]
        if mask.ahead is not None:
            assert int(reach.max()) <= mask.ahead
        if mask.back is not None:
            assert int(reach.min()) >= -mask.back
        if mask.has_no_empty_row(num_queries, num_keys):
            assert dense.any(dim=1).all()
        if mask.sees_itself and num_queries == num_keys:
            assert dense.diagonal().all()


@pytest.mark.parametrize("mask", PLAIN, ids=repr)
def test_the_bounds_of_a_plain_mask_are_tight(mask):
    """No smaller number would be true, and `None` stands where no number is."""
    dense = mask.dense(12, 12).expand(1, 1, 12, 12)[0, 0]
    reach = (torch.arange(12)[None] - torch.arange(12)[:, None])[dense]
    at_most = 11 if not isinstance(mask, Prefix | AnyOf) else None
    for bound, largest in ((mask.ahead, int(reach.max())), (mask.back, -int(reach.min()))):
        if bound is not None:
            assert bound == largest or isinstance(mask, AllOf)
        elif at_most is not None:
            assert largest >= 9


@pytest.mark.parametrize("mask", [*PLAIN, *COMBINED[:6]], ids=repr)
@pytest.mark.parametrize("num_tokens", [1, 7])
def test_pairs_counts_the_table(mask, num_tokens):
    dense = mask.dense(num_tokens, num_tokens).expand(1, 1, num_tokens, num_tokens)
    assert mask.pairs(num_tokens) == int(dense.sum())


def test_pairs_counts_in_slices_and_takes_one_document():
    assert Causal().pairs(1500) == 1500 * 1501 // 2
    assert SlidingWindow(window=3).pairs(1500) == 3 * 1500 - 3
    assert (Causal() & Document()).pairs(10) == 55


def test_and_flattens_and_forgets_none():
    mask = Causal() & NoMask() & (SlidingWindow(window=2) & Prefix(length=1))
    assert mask.parts() == (Causal(), SlidingWindow(window=2), Prefix(length=1))
    assert (NoMask() & Causal()) == Causal()
    assert (NoMask() & NoMask()) == NoMask()
    assert (Causal() | Prefix(length=1)).parts() == (AnyOf(masks=[Causal(), Prefix(length=1)]),)


def test_masks_are_values():
    assert SlidingWindow(window=3) == SlidingWindow(window=3) != SlidingWindow(window=4)
    both = [Causal() & Prefix(length=2), Causal() & Prefix(length=2)]
    assert both[0] == both[1]
    assert hash(both[0]) == hash(both[1])
    assert both[0] != Causal() | Prefix(length=2)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("causal", Causal()),
        (Spec("sliding_window", {"window": 3}), SlidingWindow(window=3)),
        ({"name": "prefix", "length": 2}, Prefix(length=2)),
        (["causal", {"name": "dilated", "dilation": 3}], Causal() & Dilated(dilation=3)),
        (["causal", "none"], Causal()),
        ([], NoMask()),
        (
            {"name": "any_of", "masks": ["causal", {"name": "prefix", "length": 2}]},
            Causal() | Prefix(length=2),
        ),
        (Causal(), Causal()),
    ],
)
def test_build_mask_reads_what_a_recipe_writes(written, expected):
    assert build_mask(written) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("casual", "unknown mask `casual`; did you mean `causal`"),
        ({"name": "sliding_window", "windw": 3}, "no option `windw`; did you mean `window`"),
        ({"name": "sliding_window", "window": 0}, "window must be at least 1, got 0"),
        ({"name": "prefix", "length": 0}, "length of the prefix must be at least 1, got 0"),
        ({"name": "dilated", "dilation": 0}, "dilation must be at least 1, got 0"),
        ({"name": "dilated", "window": 0}, "window must be at least 1, got 0"),
        ({"name": "bigbird", "block_size": 0}, "block_size must be at least 1, got 0"),
        ({"name": "bigbird", "window": 2}, "window must be odd and at least 1, got 2"),
        ({"name": "bigbird", "num_random": -1}, "num_random must be at least 0, got -1"),
        ({"name": "all_of", "masks": []}, "at least one mask"),
        ({"name": "any_of"}, "needs the option `masks`"),
        (3, "expected a name"),
    ],
)
def test_what_makes_no_sense_is_said(written, message):
    with pytest.raises((RegistryError, ValueError), match=message):
        build_mask(written)


def test_name_of_speaks_the_recipes_words():
    assert {name_of(build_mask(n)) for n in ("causal", "none", "document")} < set(MASKS.names())
    assert name_of(Causal() & PADDING & (Prefix() | Dilated())) == (
        "causal & padding & (prefix | dilated)"
    )
