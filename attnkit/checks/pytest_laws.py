"""The laws as tests of your own mechanism, with one line in your test file:

from attnkit.checks import laws_of

test_my_attention = laws_of("my_attention", plugin="my_attention.py")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attnkit.attention.base import Attention
from attnkit.checks.card import judge
from attnkit.checks.laws import LAWS, Law
from attnkit.checks.selection import cases_of
from attnkit.registry import ATTENTION, load_plugin


def laws_of(
    mechanism: str | type[Attention],
    options: Mapping[str, Any] | None = None,
    *,
    plugin: str | None = None,
) -> Callable[[Law], None]:
    """Returns a test of every law on a mechanism, with one test case per law.

    Args:
        mechanism: a registered name, or the class.
        options: options of the mechanism.
        plugin: a file beside the test, or a module, that registers the mechanism.
    """
    import pytest

    if plugin is not None:
        load_plugin(plugin, Path(inspect.stack()[1].filename).parent)
    cls = ATTENTION.get(mechanism) if isinstance(mechanism, str) else mechanism
    cases, _ = cases_of(cls, options)

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
    def test(law: Law) -> None:
        line = judge(law, cases)
        if line.outcome in ("broken", "crashed"):
            report = [f"{law.words}: {line.words}", *line.trace, line.smallest, line.remedy]
            pytest.fail("\n".join(filter(None, report)), pytrace=False)
        if line.outcome == "does not apply":
            pytest.skip(line.words)

    return test
