import multiprocessing
import os
from collections.abc import Callable

import pytest

from attnkit.data.order import end_without_parent

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def exit_code(who_forked: Callable[[], int] = os.getppid) -> int | None:
    def load() -> None:
        os.getppid = who_forked
        end_without_parent(0)

    process = multiprocessing.get_context("fork").Process(target=load)
    process.start()
    process.join(20)
    return process.exitcode


def test_a_process_that_was_forked_by_one_that_has_died_since_ends() -> None:
    assert exit_code() == 0
    assert exit_code(who_forked=lambda: 1) == 1
