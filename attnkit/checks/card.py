"""A mechanism's card: a line a law, with the evidence and the smallest case where one is broken."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attnkit.attention.base import Attention, Role
from attnkit.checks.asked_cases import cases_of, spoken_about
from attnkit.checks.blame import first_line, frames_of, is_a_refusal
from attnkit.checks.case import Broken, Case, DoesNotApply
from attnkit.checks.laws import BASIC, LAWS, SELF_ALONE, Law
from attnkit.checks.seats import ROLES, MaskCase
from attnkit.masks import name_of
from attnkit.registry import ATTENTION, MASKS

Outcome = Literal["holds", "does not apply", "broken", "crashed"]

SMALLER = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 65, 100)
"""Lengths that are tried, in this order, when a broken law's case is made smaller."""

REMEMBERS = "other calls went well before this one: does it keep something of them?"
FAR = (
    "outputs_do_not_depend_on_the_length",
    "decoding_far_into_a_sequence_equals_the_full_pass",
    "memory_grows_as_declared",
    "bfloat16_stays_near_float32",
)
"""Laws that ask about longer sequences than those of their case."""

LIMITED = (
    "if there is a longest sequence that it takes, let it raise a ValueError that says so: longer "
    "ones are then not asked about"
)


@dataclass(frozen=True)
class Line:
    """What became of one law.

    Attributes:
        law: its name.
        topic: what it is about.
        outcome: `holds`: in every case that it speaks about; `crashed`: the mechanism raised an
            error that is not the law's.
        cases: how many cases it was asked about, those left out where it does not apply.
        words: why it does not apply; the evidence; the error; or what else there is to say.
        smallest: the smallest case found that breaks it.
        remedy: the declaration that would make it legal.
        trace: of an error: a line for each frame, file, line and code.
    """

    law: str
    topic: str
    outcome: Outcome
    cases: int = 0
    words: str = ""
    smallest: str = ""
    remedy: str = ""
    trace: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """All lines of one mechanism.

    Attributes:
        name: of the mechanism.
        num_seats: masks x positions x roles that it does not refuse.
        lines: one for each law; none after an error of the mechanism.
        refused: why seats were refused, each reason once.
    """

    name: str
    num_seats: int
    lines: list[Line] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[Line]:
        """The laws that do not hold, and the one at which the mechanism raised an error."""
        return [line for line in self.lines if line.outcome in ("broken", "crashed")]

    @property
    def fix_first(self) -> str:
        """The most basic of several broken laws; empty where others do not follow from it."""
        broken = [line.law for line in self.lines if line.outcome == "broken"]
        return broken[0] if len(broken) > 1 and broken[0] in BASIC else ""

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
    thorough: bool = False,
    on_line: Callable[[Line], None] = lambda line: None,
) -> Card:
    """Asks every law about a mechanism, in every seat that it does not refuse.

    An error of the mechanism ends the card: what follows would say the same.

    Args:
        mechanism: the class.
        options: of the mechanism.
        masks: None: every registered one, and combinations.
        positions: names; None: all that act inside attention, and none.
        roles: self- and cross-attention.
        laws: which laws.
        thorough: ask all laws in all cases, long sequences in every seat; takes minutes.
        on_line: called with each line as soon as it is known.
    """
    cases, refused = cases_of(mechanism, options, masks=masks, positions=positions, roles=roles)
    plain = {repr(case.mask_case) + case.position + case.role for case in cases}
    card = Card(ATTENTION.name_of(mechanism), len(plain), refused=refused)
    for law in laws:
        line = judge(law, cases, thorough)
        card.lines.append(line)
        on_line(line)
        if line.outcome == "crashed":
            break
    return card


def judge(law: Law, cases: Sequence[Case], thorough: bool = False) -> Line:
    """Asks one law about all cases that it speaks about, until one breaks it."""
    asked, reason = 0, "nothing to ask about: every seat is refused"
    notes: dict[str, None] = {}
    spoken = spoken_about(law, cases, thorough)
    for case in spoken:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they warn of shows in the numbers
                note = law.demand(case)
        except DoesNotApply as error:
            reason = str(error)
        except Broken as error:
            small, evidence = smallest(law, case, str(error))
            remedy = _remedy(law, case, small, spoken)
            return Line(law.name, law.topic, "broken", asked + 1, evidence, str(small), remedy)
        except Exception as error:
            if law.topic != LAWS[0].topic and is_a_refusal(error):
                reason = str(error)
                continue
            return Line(
                law.name,
                law.topic,
                "crashed",
                asked + 1,
                first_line(error),
                str(case),
                _hint(law),
                frames_of(error, case.mechanism),
            )
        else:
            asked += 1
            if note:
                notes[note] = None
    if asked:
        return Line(law.name, law.topic, "holds", asked, "; ".join(notes))
    return Line(law.name, law.topic, "does not apply", 0, reason)


def _remedy(law: Law, case: Case, small: Case, spoken: Sequence[Case]) -> str:
    """What would make a broken law's case legal: the roles alone, where it holds in
    self-attention; else what the law names, or the masks under which it holds.
    """
    in_self = [other for other in spoken if other.role == "self"]
    may_refuse = case.role == "cross" and in_self and law.topic != LAWS[0].topic
    if may_refuse and not any(_broken(law, other) for other in in_self):
        return SELF_ALONE
    told = [law.declaration(case, small)]
    if law.each in ("mask", "kernel") and "mask_names" not in law.remedy:
        told.append(masks_it_obeys(law, case, spoken))
    return "; or ".join(filter(None, told))


def _hint(law: Law) -> str:
    """What an error may come from, by the law that met it first."""
    if law.topic == LAWS[0].topic and law is not LAWS[0]:
        return REMEMBERS
    return LIMITED if law.each == "length" or law.name in FAR else ""


def smallest(law: Law, case: Case, evidence: str) -> tuple[Case, str]:
    """Makes a case that breaks a law smaller, as long as the evidence is of the same kind: tokens,
    sequences, width.
    """
    tries: list[dict[str, int]] = [{"T": length} for length in SMALLER if length < case.T]
    if law.name in FAR:  # they choose their own lengths, which the evidence tells
        tries = []
    for sizes in ([{"B": 1}], tries, [{"C": 8}, {"C": 16}]):
        for size in sizes:
            small = case.resized(**size)
            found = _broken(law, small)
            if found is not None and _kind(found) == _kind(evidence):
                case, evidence = small, found
                break
    return case, evidence


def masks_it_obeys(law: Law, broken: Case, cases: Sequence[Case]) -> str:
    """The declaration that leaves out the masks under which a law breaks, where it holds under most
    of them; else nothing.
    """
    seat = broken.role, broken.position, broken.options, broken.extra
    holds: set[str] = set()
    breaks: list[set[str]] = []
    for case in cases:
        if (case.role, case.position, case.options, case.extra) != seat:
            continue
        names = {name_of(part) for part in case.mask.parts()}
        evidence = _broken(law, case)
        if law.topic == "influence":  # some of these laws are about one kind of mask
            evidence = evidence or _broken(_LAWS["forbidden_keys_have_no_influence"], case)
        if evidence is None:
            holds |= names
        else:
            breaks.append(names)
    guilty = set().union(*breaks) - holds
    if not breaks or not all(names & guilty for names in breaks) or len(guilty) >= len(holds):
        return ""
    # A choice of masks, (a | b), has no name that can be declared.
    declared = ", ".join(repr(name) for name in sorted(holds & {*MASKS.names(), "padding"}))
    return (
        f"if it cannot obey {' and '.join(sorted(guilty))} by design, say "
        f"`mask_names = frozenset({{{declared}}})`"
    )


def _kind(evidence: str) -> str:
    """The evidence without its numbers; those in names stay."""
    return re.sub(r"(?<![\w.])[\d.,]+(e[+-]?\d+)?", "#", evidence)


def _broken(law: Law, case: Case) -> str | None:
    """The evidence, if a case breaks a law by its own words: a size that cannot be built at all is
    no smaller case.
    """
    try:
        law.demand(case)
    except Broken as error:
        return str(error)
    except Exception:
        return None
    return None


_LAWS = {law.name: law for law in LAWS}


def law(name: str) -> Law:
    """The law of this name.

    Raises:
        KeyError: if there is none.
    """
    return _LAWS[name]
