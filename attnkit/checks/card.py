"""The card of a mechanism: one line per law, with the evidence and the smallest case that breaks
it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attnkit.attention.base import Attention, Role
from attnkit.checks.blame import first_line, frames_of, is_a_refusal, is_about_in_place
from attnkit.checks.case import Broken, Case, DoesNotApply
from attnkit.checks.laws import BASIC, LAWS, SELF_ALONE, Law
from attnkit.checks.seats import ROLES, MaskCase
from attnkit.checks.selection import cases_for, cases_of
from attnkit.masks import name_of
from attnkit.registry import ATTENTION, MASKS, RegistryError

Outcome = Literal["holds", "does not apply", "broken", "crashed"]

SMALLER = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 65, 100)
"""Lengths to try, in this order, when reducing a case that breaks a law."""

REMEMBERS = "earlier calls succeeded: does it keep something between calls?"
FAR = (
    "outputs_do_not_depend_on_the_length",
    "decoding_far_into_a_sequence_equals_the_full_pass",
    "memory_grows_as_declared",
    "bfloat16_stays_near_float32",
)
"""Laws that use longer sequences than those of their case."""

LIMITED = (
    "if it supports only a limited length, raise a ValueError that says so: longer sequences are "
    "then not tested"
)


@dataclass(frozen=True)
class Line:
    """The result of one law.

    Attributes:
        law: name of the law.
        topic: topic of the law.
        outcome: `holds`: in every case to which it applies; `crashed`: the mechanism raised an
            error that the law does not expect.
        cases: number of tested cases to which the law applies.
        words: why it does not apply, the evidence, the error, or a note.
        smallest: the smallest case found that breaks it.
        remedy: the declaration that would make it legal.
        trace: for an error, a line per frame with file, line and code.
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
    """The results of all laws for one mechanism.

    Attributes:
        name: name of the mechanism.
        num_seats: number of seats (mask x position x role) that it does not refuse.
        lines: one per law; none after an error of the mechanism.
        refused: reasons why seats were refused, each once.
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
        """The most basic of several broken laws; empty if the others do not follow from it."""
        broken = [line.law for line in self.lines if line.outcome == "broken"]
        return broken[0] if len(broken) > 1 and broken[0] in BASIC else ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the card as plain data."""
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
    """Tests every law on a mechanism, in every seat that it does not refuse.

    An error of the mechanism ends the card, since other laws would fail with the same error.

    Args:
        mechanism: the class.
        options: options of the mechanism.
        masks: None: every registered one, and combinations.
        positions: names; None: `none` and all that act inside attention.
        roles: self- and cross-attention.
        laws: laws to test.
        thorough: test all laws in all cases, and long sequences in every seat; takes minutes.
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
    """Tests one law on its cases, until one breaks it."""
    num_tested, reason = 0, "nothing to test: every seat is refused"
    notes: dict[str, None] = {}
    selected = cases_for(law, cases, thorough)
    for case in selected:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # laws look at the numbers
                note = law.demand(case)
        except DoesNotApply as error:
            reason = str(error)
        except Broken as error:
            small, evidence = smallest(law, case, str(error))
            remedy = _remedy(law, case, small, selected)
            line = (law.name, law.topic, "broken", num_tested + 1)
            return Line(*line, evidence, str(small), remedy)
        except RegistryError:  # its message says all
            raise
        except Exception as error:
            if law.topic != LAWS[0].topic and is_a_refusal(error):
                reason = str(error)
                continue
            return Line(
                law.name,
                law.topic,
                "crashed",
                num_tested + 1,
                first_line(error),
                str(case),
                _hint(law, error),
                frames_of(error, case.mechanism),
            )
        else:
            num_tested += 1
            if note:
                notes[note] = None
    if num_tested:
        return Line(law.name, law.topic, "holds", num_tested, "; ".join(notes))
    return Line(law.name, law.topic, "does not apply", 0, reason)


def _remedy(law: Law, case: Case, small: Case, cases: Sequence[Case]) -> str:
    """Returns the declaration that would make a case legal: `roles`, if the law holds in
    self-attention; otherwise what the law suggests, or the masks under which it holds.
    """
    in_self = [other for other in cases if other.role == "self"]
    may_refuse = case.role == "cross" and in_self and law.topic != LAWS[0].topic
    if may_refuse and not any(_broken(law, other) for other in in_self):
        return SELF_ALONE
    remedies = [law.declaration(case, small)]
    if law.each in ("mask", "kernel") and "mask_names" not in law.remedy:
        remedies.append(masks_it_obeys(law, case, cases))
    return "; or ".join(filter(None, remedies))


def _hint(law: Law, error: Exception) -> str:
    """Returns a possible cause of an error, by the first law that meets it."""
    if is_about_in_place(error):
        return "compute a new tensor instead, as in `v * 0.9` instead of `v.mul_(0.9)`"
    if law.topic == LAWS[0].topic and law is not LAWS[0]:
        return REMEMBERS
    return LIMITED if law.each == "length" or law.name in FAR else ""


def smallest(law: Law, case: Case, evidence: str) -> tuple[Case, str]:
    """Reduces sequences, tokens and width of a case that breaks a law, as long as the evidence is
    of the same kind.
    """
    tries: list[dict[str, int]] = [{"T": length} for length in SMALLER if length < case.T]
    if law.name in FAR:  # they choose their own lengths, which the evidence states
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
    """Returns the declaration without the masks under which a law breaks, if it holds under most
    others; otherwise an empty string.
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
    failing = set().union(*breaks) - holds
    if not breaks or not all(names & failing for names in breaks) or len(failing) >= len(holds):
        return ""
    # A choice of masks, (a | b), has no name that can be declared.
    declared = ", ".join(repr(name) for name in sorted(holds & {*MASKS.names(), "padding"}))
    return (
        f"if it cannot obey {' and '.join(sorted(failing))} by design, declare "
        f"`mask_names = frozenset({{{declared}}})`"
    )


def _kind(evidence: str) -> str:
    """Returns the evidence without its numbers, except for those in names."""
    return re.sub(r"(?<![\w.])[\d.,]+(e[+-]?\d+)?", "#", evidence)


def _broken(law: Law, case: Case) -> str | None:
    """Returns the evidence if a case breaks a law. Other errors do not count: a size that cannot be
    built is no smaller case.
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
    """Returns the law of this name.

    Raises:
        KeyError: if there is none.
    """
    return _LAWS[name]
