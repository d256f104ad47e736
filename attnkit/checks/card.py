"""A mechanism's card: a line a law, with the evidence and the smallest case where one is broken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attnkit.attention.base import Attention, Role
from attnkit.checks.case import Broken, Case, DoesNotApply
from attnkit.checks.laws import LAWS, Law
from attnkit.checks.seats import ROLES, MaskCase, seats
from attnkit.registry import ATTENTION

Outcome = Literal["holds", "does not apply", "broken"]

SMALLER = (1, 2, 3, 4, 5, 6, 8)
"""Lengths that are tried, in this order, when a broken law's case is made smaller."""


@dataclass(frozen=True)
class Line:
    """What became of one law.

    Attributes:
        law: its name.
        topic: what it is about.
        outcome: `holds`: in every case that it speaks about.
        cases: how many cases it was asked about, those left out where it does not apply.
        words: why it does not apply; or the evidence.
        smallest: the smallest case found that breaks it.
    """

    law: str
    topic: str
    outcome: Outcome
    cases: int = 0
    words: str = ""
    smallest: str = ""


@dataclass(frozen=True)
class Card:
    """All lines of one mechanism.

    Attributes:
        name: of the mechanism.
        num_seats: masks x positions x roles that it does not refuse.
        lines: one for each law.
        refused: why seats were refused, each reason once.
    """

    name: str
    num_seats: int
    lines: list[Line] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[Line]:
        """The laws that do not hold."""
        return [line for line in self.lines if line.outcome == "broken"]

    def to_dict(self) -> dict[str, Any]:
        """The card as plain data."""
        return asdict(self)


def check(
    mechanism: type[Attention],
    options: Mapping[str, Any] | None = None,
    *,
    masks: Sequence[MaskCase] | None = None,
    positions: Sequence[str] | None = None,
    roles: Sequence[Role] = ROLES,
    laws: Sequence[Law] = LAWS,
    on_line: Callable[[Line], None] = lambda line: None,
) -> Card:
    """Asks every law about a mechanism, in every seat that it does not refuse.

    Args:
        mechanism: the class.
        options: of the mechanism.
        masks: None: every registered one, and combinations.
        positions: names; None: all that act inside attention, and none.
        roles: self- and cross-attention.
        laws: which laws.
        on_line: called with each line as soon as it is known.
    """
    cases, refused = cases_of(mechanism, options, masks=masks, positions=positions, roles=roles)
    card = Card(ATTENTION.name_of(mechanism), len(cases), refused=refused)
    for law in laws:
        line = judge(law, cases)
        card.lines.append(line)
        on_line(line)
    return card


def cases_of(
    mechanism: type[Attention],
    options: Mapping[str, Any] | None = None,
    *,
    masks: Sequence[MaskCase] | None = None,
    positions: Sequence[str] | None = None,
    roles: Sequence[Role] = ROLES,
) -> tuple[list[Case], list[str]]:
    """Every seat that a mechanism does not refuse, and the reasons why it refuses others."""
    cases, reasons = [], {}
    for mask, position, role in seats(masks, positions, roles):
        case = Case(mechanism, mask, position, role, options or {})
        refusal = case.refusal()
        if refusal is None:
            cases.append(case)
        else:
            reasons[refusal] = None
    return cases, list(reasons)


def judge(law: Law, cases: Sequence[Case]) -> Line:
    """Asks one law about all cases that it speaks about, until one breaks it."""
    asked, reason = 0, "nothing to ask about: every seat is refused"
    for case in spoken_about(law, cases):
        try:
            law.demand(case)
            asked += 1
        except DoesNotApply as error:
            reason = str(error)
        except Exception as error:
            small, evidence = smallest(law, case, _evidence(error))
            return Line(law.name, law.topic, "broken", asked + 1, evidence, str(small))
    if asked:
        return Line(law.name, law.topic, "holds", asked)
    return Line(law.name, law.topic, "does not apply", 0, reason)


def spoken_about(law: Law, cases: Sequence[Case]) -> list[Case]:
    """The cases about which a law is asked: all; or, for each position and role, those with no
    mask, with a causal one, and with padding on top; or a single one, causal if it can be.
    """
    if law.each == "mask":
        return list(cases)
    few = [c for c in cases if c.mask_case.name in ("none", "causal", "causal&padding")]
    few = few or list(cases[:1])
    if law.each == "position":
        return few
    return [c for c in few if c.mask_case.name == "causal"][:1] or few[:1]


def smallest(law: Law, case: Case, evidence: str) -> tuple[Case, str]:
    """Makes a case that breaks a law smaller, as long as it does: tokens, sequences, width."""
    tries: list[dict[str, int]] = [{"T": length} for length in SMALLER if length < case.T]
    for sizes in ([{"B": 1}], tries, [{"C": 8}, {"C": 16}]):
        for size in sizes:
            small = case.resized(**size)
            found = _broken(law, small)
            if found is not None:
                case, evidence = small, found
                break
    return case, evidence


def _broken(law: Law, case: Case) -> str | None:
    """The evidence, if a case breaks a law by its own words: a size that cannot be built at all is
    no smaller case.
    """
    try:
        law.demand(case)
    except Broken as error:
        return _evidence(error)
    except Exception:
        return None
    return None


def _evidence(error: Exception) -> str:
    """A law's own words, or the error of the mechanism."""
    if isinstance(error, Broken):
        return str(error)
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0]}"


@functools.cache
def law(name: str) -> Law:
    """The law of this name.

    Raises:
        KeyError: if there is none.
    """
    return {law.name: law for law in LAWS}[name]
