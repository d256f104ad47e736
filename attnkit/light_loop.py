"""What keeps the cost of Lightning's loop small: a training step of a small model takes a few
hundredths of a second, so that a millisecond of the loop's own is worth saving.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler


class NoProfiler(PassThroughProfiler):
    """Measures nothing, and costs nothing: Lightning's own makes a generator for each of some 30
    hooks a step.
    """

    _nothing = nullcontext("")

    def profile(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, action_name: str
    ) -> AbstractContextManager[str]:
        """A context that does nothing."""
        return self._nothing


@contextmanager
def long_lived_memory() -> Iterator[None]:
    """What exists now is left out of garbage collection inside: the modules of torch and Lightning
    are half a million objects, and looking through them takes a fifth of a second each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
