"""Creates the files of a new mechanism: one that overrides a single step, and its test."""

from __future__ import annotations

import inspect
import keyword
import re
from pathlib import Path

from attnkit.attention.score_attention import ScoreAttention
from attnkit.masks import Causal
from attnkit.registry import ATTENTION, RegistryError

MECHANISM = '''\
"""{words}: what differs from {like}, and the paper that it comes from."""

from torch import Tensor

from {home} import {parent}
{imports}from attnkit.registry import ATTENTION


@ATTENTION.register("{name}")
class {cls}({parent}):
    """{summary}

    Args:
        multiplier: {help}
    """

    formula = "{formula}"

    def __init__(self, dim: int, *, multiplier: float = 2.0, **options) -> None:
        super().__init__(dim, **options)
        self.multiplier = multiplier

{step}
'''

SCORES = """\
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return self.multiplier * super().scores(q, k)"""

SCORES_ON_A_GRID = """\
    def scores(self, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        return self.multiplier * super().scores(q, k, grid)"""

QUERY = """\
    def project_query(self, x: Tensor) -> Tensor:
        return self.multiplier * super().project_query(x)"""

TEST = """\
from attnkit.checks import laws_of

test_{name} = laws_of("{name}", plugin="{name}.py")
"""


def write(name: str, like: str, folder: Path) -> tuple[Path, Path]:
    """Writes `NAME.py`, a mechanism that differs from another in one step, and `test_NAME.py`.

    Args:
        name: registered name.
        like: name of the mechanism that it inherits from.
        folder: folder of both files.

    Raises:
        RegistryError: if a name cannot be used, or a file already exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise RegistryError(
            f"name {name!r} is not snake_case (letters, digits, single _), such as my_attention"
        )
    if name in ATTENTION.names():
        raise RegistryError(f"attention mechanism `{name}` already exists; choose another name")
    parent = ATTENTION.get(like)
    if parent.__module__.startswith("attnkit_plugin_"):
        raise RegistryError(
            f"--like {like}: a plugin file cannot be imported; inherit from a mechanism of the kit"
        )
    files = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in files:
        if file.exists():
            raise RegistryError(f"{file} already exists; choose another name, or remove it")
    own_scores = issubclass(parent, ScoreAttention)
    on_a_grid = own_scores and "grid" in inspect.signature(parent.scores).parameters
    words = name.replace("_", " ")
    code = MECHANISM.format(
        words=words[0].upper() + words[1:],
        like=like,
        home=parent.__module__,
        parent=parent.__name__,
        name=name,
        cls="".join(part.capitalize() for part in name.split("_")),
        summary=f"As {like}, with {'sharper scores' if own_scores else 'longer queries'}.",
        help=f"factor of the {'scores' if own_scores else 'queries'}.",
        formula=_formula(parent.formula, own_scores),
        imports="from attnkit.masks import Grid\n" if on_a_grid else "",
        step=(SCORES_ON_A_GRID if on_a_grid else SCORES) if own_scores else QUERY,
    )
    files[0].write_text(code, encoding="utf-8")
    files[1].write_text(TEST.format(name=name), encoding="utf-8")
    return files


def _formula(inherited: str, own_scores: bool) -> str:
    """Returns the parent's equation with the change, in one line of the file."""
    change = "scores times multiplier" if own_scores else "q times multiplier"
    known = f"{inherited};  " if len(inherited) < 55 else ""
    return f"{known}{change}".replace("\\", "\\\\").replace('"', '\\"')


def next_commands(name: str, like: str) -> dict[str, str]:
    """Returns the next commands, by their purpose."""
    plugin = f"'plugins=[{name}.py]' model.attention={name} variant={name}"
    if ATTENTION.get(like).refusal("self", Causal(), "none"):
        plugin += " model.mask=none"
    if "queries_and_keys" not in ATTENTION.get(like).position_kinds:  # quickstart's is rotary
        plugin += " model.position=sinusoidal"
    return {
        "check it": f"attnkit check {name}.py",
        "run it": f"attnkit run quickstart {plugin}",
        "look at it": f"attnkit attention runs/quickstart/{name}/seed0 --text 'Return the name.'",
    }
