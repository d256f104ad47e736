"""What is left out of garbage collection, and what is not."""

import gc
import weakref

import pytest

from attnkit import garbage, light_loop


class Knot:
    """Something that only garbage collection finds."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def _thawed(monkeypatch):
    """As in a process that has frozen nothing; the tests' own has, see `conftest.py`."""
    gc.unfreeze()
    monkeypatch.setattr(garbage, "_is_frozen", False)
    yield
    garbage.freeze()


def test_training_leaves_out_what_was_there_before():
    with light_loop.long_lived_memory():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


def test_imports_are_frozen_for_good_and_what_is_left_behind_later_is_not():
    with garbage.quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    gone = weakref.ref(Knot())
    with light_loop.long_lived_memory():
        assert gone() is None
        assert gc.get_freeze_count() > 0.99 * frozen
    assert gc.get_freeze_count() > 0.99 * frozen  # what nobody holds any longer is gone


def test_an_import_that_fails_leaves_garbage_collection_on():
    with pytest.raises(ImportError), garbage.quick_imports():
        import attnkit.nothing  # noqa: F401
    assert gc.isenabled()
