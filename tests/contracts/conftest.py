"""Every registered mechanism x mask x position that is not refused, as a `Case`.

A test that takes `case` runs for all of them, one that takes `module_case` for each mechanism and
position under the first mask that it can serve, and one that takes `broken` makes cases of
mechanisms that break a law on purpose.
"""

import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attnkit.attention.base import Attention
from attnkit.masks import Mask, Padding, build_mask
from attnkit.registry import ATTENTION, MASKS, POSITIONS

B, T, C = 2, 16, 32

DOCUMENTS = torch.tensor(
    [[0] * 5 + [1] * 4 + [2] * 61, [0] * 7 + [1] * 1 + [2] * 30 + [3] * 32]
)  # (B, 70)
KEEP = torch.ones(B, 70, dtype=torch.bool)
KEEP[0, 11:13] = False
KEEP[0, 40:44] = False
KEEP[1, :2] = False  # padded at the left: under a causal mask the first rows are empty

SMALL_OPTIONS = {
    "sliding_window": [{"window": 3}, {"window": 4, "centered": True}],
    "prefix": [{"length": 3}],
    "dilated": [{"dilation": 3}, {"dilation": 2, "window": 3}],
    "all_of": [{"masks": ["causal", {"name": "sliding_window", "window": 6, "centered": True}]}],
    "any_of": [
        {"masks": ["causal", {"name": "prefix", "length": 4}]},
        {"masks": [{"name": "sliding_window", "window": 2}, {"name": "dilated", "window": 3}]},
    ],
}
"""Options that make a mask bite at a few tokens; a mask that is not named here takes its own."""


def mask_cases() -> dict[str, Callable[[int], Mask]]:
    """Masks by a readable name, each a function of the number of keys."""
    specs: dict[str, list] = {}
    for name in MASKS.names():
        for options in SMALL_OPTIONS.get(name, [{}]):
            specs["-".join([name, *map(_word, options.values())])] = [{"name": name, **options}]
    specs["causal&document"] = ["causal", "document"]
    found = {name: functools.partial(_bound, spec, False) for name, spec in specs.items()}
    padded = {
        "padding": [],
        "causal&padding": ["causal"],
        "window&document&padding": [{"name": "sliding_window", "window": 4}, "document"],
    }
    return found | {name: functools.partial(_bound, spec, True) for name, spec in padded.items()}


def _word(option: object) -> str:
    """An option's value as part of a test's name."""
    if isinstance(option, list):
        return "+".join(part if isinstance(part, str) else part["name"] for part in option)
    return str(option)


def _bound(spec: list, padded: bool, num_keys: int) -> Mask:
    mask = build_mask(spec).bind(documents=DOCUMENTS[:, :num_keys])
    return mask & Padding(KEEP[:, :num_keys]) if padded else mask


class Case:
    """One mechanism with one position encoding under one mask, and its influences, measured once.

    Args:
        mechanism: the class.
        mask_name: a key of `mask_cases()`.
        position: name of a position encoding.
    """

    B, T, C = B, T, C
    documents, keep = DOCUMENTS[:, :T], KEEP[:, :T]

    def __init__(self, mechanism: type[Attention], mask_name: str, position: str) -> None:
        self.mechanism = mechanism
        self.mask_name = mask_name
        self.position = position
        self.mask_over = mask_cases()[mask_name]

    def __repr__(self) -> str:
        return f"{self.mechanism.__name__}-{self.mask_name}-{self.position}"

    def build(self, **options) -> Attention:
        """The mechanism in evaluation mode, with noise on all parameters: an identity or a zero at
        the start must not hide anything.
        """
        torch.manual_seed(3)
        attention = self.mechanism(C, **options)
        if POSITIONS.get(self.position).acts_on != "embeddings":
            attention.with_position(self.position)
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return attention.eval()

    @functools.cached_property
    def attention(self) -> Attention:
        """The mechanism, built once for the tests that only read it."""
        return self.build()

    @functools.cached_property
    def mask(self) -> Mask:
        """The mask over T tokens."""
        return self.mask_over(T)

    @functools.cached_property
    def allowed(self) -> Tensor:
        """(B, T, S): the mask, written out."""
        return self.mask.dense(T, T).expand(B, 1, T, T)[:, 0]

    @functools.cached_property
    def x(self) -> Tensor:
        """(B, T, C)"""
        return torch.randn(B, T, C, generator=torch.Generator().manual_seed(5))

    @functools.cached_property
    def influences(self) -> dict[str, Tensor]:
        """How much each output (B, T) feels each token (S) of its own row as a *key*, by gradient
        and by perturbation; 0 means none at all. Rows of the batch are independent (own law).
        """
        return {"gradient": self._gradients(), "perturbation": self._perturbations()}

    def _gradients(self) -> Tensor:
        context = self.x.clone().requires_grad_()
        output = self.attention(self.x, context, self.mask)
        direction = torch.randn(C, generator=torch.Generator().manual_seed(6))
        rows = [
            torch.autograd.grad(output[:, t] @ direction, context, torch.ones(B), True)[0]
            for t in range(T)
        ]
        return torch.stack([row.norm(dim=-1) for row in rows], dim=1)

    @torch.no_grad()
    def _perturbations(self) -> Tensor:
        base = self.attention(self.x, self.x, self.mask)
        columns = []
        for s in range(T):
            context = self.x.clone()
            context[:, s] = context[:, s].flip(-1) * 2
            moved = self.attention(self.x, context, self.mask) - base
            columns.append(moved.abs().amax(dim=-1))
        return torch.stack(columns, dim=2)

    def heads(self, requires_grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the tokens, placed."""
        q = self.attention.project_query(self.x)
        k, v = self.attention.project_context(self.x)
        q, k = self.attention.place(q, k)
        return q, k, v


def _position_cases() -> list[str]:
    """Encodings that act inside attention, and `none` for those that do not."""
    return ["none", *(n for n in POSITIONS.names() if POSITIONS.get(n).acts_on != "embeddings")]


@functools.cache
def all_cases() -> list[Case]:
    """Everything that no mechanism refuses."""
    product = itertools.product(ATTENTION.names(), mask_cases(), _position_cases())
    cases = [
        Case(ATTENTION.get(mechanism), mask, position) for mechanism, mask, position in product
    ]
    return [c for c in cases if c.mechanism.refusal("self", c.mask, c.position) is None]


@functools.cache
def module_cases() -> list[Case]:
    """One case for each mechanism and position: the first mask that it can serve."""
    first: dict[tuple[str, str], Case] = {}
    for case in all_cases():
        first.setdefault((case.mechanism.__name__, case.position), case)
    return list(first.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each law its cases."""
    for argument, cases in (("case", all_cases), ("module_case", module_cases)):
        if argument in metafunc.fixturenames:
            keep = getattr(metafunc.function, "only", lambda case: True)
            metafunc.parametrize(argument, [c for c in cases() if keep(c)], ids=repr)


@pytest.fixture
def broken() -> Callable[..., Case]:
    """Makes a case of a mechanism that breaks a law: `broken(cls, mask="causal")`."""

    def make(mechanism: type[Attention], mask: str = "causal", position: str = "none") -> Case:
        return Case(mechanism, mask, position)

    return make
