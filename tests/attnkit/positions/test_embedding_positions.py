"""Positions that are added to the embeddings."""

import math

import pytest
import torch

from attnkit.positions.learned import Learned
from attnkit.positions.none import NoPosition
from attnkit.positions.sinusoidal import Sinusoidal
from attnkit.registry import POSITIONS


def test_sinusoidal_entries_by_hand():
    encoding = Sinusoidal(4, 16)(torch.tensor([0, 1, 250]))
    angles = [(position, position / 100) for position in (0, 1, 250)]
    expected = [[math.sin(a), math.cos(a), math.sin(b), math.cos(b)] for a, b in angles]
    torch.testing.assert_close(encoding, torch.tensor(expected), atol=1e-5, rtol=0)


def test_sinusoidal_base_sets_the_longest_wavelength():
    encoding = Sinusoidal(4, 16, base=4.0)(torch.tensor([1]))
    torch.testing.assert_close(encoding[0, 2], torch.tensor(math.sin(0.5)))
    with pytest.raises(ValueError, match="even dim, got 5"):
        Sinusoidal(5, 16)


def test_learned_looks_up_its_table():
    learned = Learned(4, 6)
    torch.testing.assert_close(learned(torch.tensor([5, 0])), learned.table.weight[[5, 0]])


def test_none_adds_nothing():
    assert torch.equal(torch.ones(2, 3, 4) + NoPosition(4, 6)(torch.arange(3)), torch.ones(2, 3, 4))


@pytest.mark.parametrize("name", POSITIONS.names())
def test_each_says_where_it_acts_and_what_it_is(name):
    assert POSITIONS.get(name).acts_on in ("embeddings", "queries_and_keys", "scores", "content")
    assert POSITIONS.summary(name).endswith(".")
