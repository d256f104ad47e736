"""A mechanism's card: a line a law, with the evidence and the smallest case where one is broken."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attnkit.attention.base import Attention, Role
from attnkit.checks.blame import first_line, frames_of, is_a_refusal
from attnkit.checks.case import FEWER, Broken, Case, DoesNotApply
from attnkit.checks.laws import BASIC, LAWS, SELF_ALONE, Law
from attnkit.checks.seats import ROLES, MaskCase, long_mask_cases, mask_cases, seats
from attnkit.masks import name_of
from attnkit.registry import ATTENTION, MASKS, POSITIONS, options_of

Outcome = Literal["holds", "does not apply", "broken", "crashed"]

SMALLER = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 65, 100)
"""Lengths that are tried, in this order, when a broken law's case is made smaller."""

FEW_MASKS = ("none", "causal", "causal&padding")
"""Masks under which a law that is not about masks is asked."""

MASKS_OF_KERNELS = (*FEW_MASKS, "padding", "sliding_window-3", "window&document&padding")
"""Masks that between them run every kernel."""

MASKS_OF_POSITIONS = ("none", "causal", "causal&padding", "sliding_window-3")
"""Masks under which a law about masks is asked once more for each position encoding."""

OTHER_OPTIONS: tuple[dict[str, Any], ...] = (
    {"num_heads": 6},
    {"num_heads": 1},
    {"head_dim": 12},
    {"num_kv_heads": 2},
    {"bias": True},
)
"""Options of most mechanisms, each of which a card tries beside the defaults: heads that are no
power of two, a single one, and a width of heads that is not the model's over their number.
"""

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

SHORTEST_LONG, LONG, LONGEST = 67, 160, 515
"""Tokens of long sequences: in all seats; without a position encoding; under few masks."""

LONG_MASKS_OF_POSITIONS = ("sliding_window-21", "sliding_window-22-centered")
"""Masks under which long sequences are asked about with a position encoding, beside `FEW_MASKS`."""

MASKS_OF_LONG = (
    "none",
    "causal",
    "causal&padding",
    "sliding_window-40",
    "sliding_window-100",
    "sliding_window-21-centered",
)
MASKS_OF_LONGEST = (
    "causal",
    "sliding_window-40",
    "sliding_window-100",
    "sliding_window-21-centered",
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


def cases_of(
    mechanism: type[Attention],
    options: Mapping[str, Any] | None = None,
    *,
    masks: Sequence[MaskCase] | None = None,
    positions: Sequence[str] | None = None,
    roles: Sequence[Role] = ROLES,
) -> tuple[list[Case], list[str]]:
    """Every seat that a mechanism does not refuse, and the reasons why it refuses others. Some
    seats come twice: with fewer keys than queries, and with other options.
    """
    cases, reasons = [], {}
    for mask, position, role in seats(masks, positions, roles):
        case = Case(mechanism, mask, position, role, options or {})
        refusal = case.refusal()
        if refusal is None:
            cases.append(case)
        else:
            reasons[refusal] = None
    few = [c for c in cases if c.role == "cross" and c.mask_case.name in ("none", "padding")]
    cases += [case.resized(extra=FEWER) for case in few]
    if options is None and cases:
        cases += _with_other_options(cases)
    return cases, list(reasons)


def _with_other_options(cases: Sequence[Case]) -> Iterator[Case]:
    """One case, causal if it can be, with each of `OTHER_OPTIONS` that the mechanism takes."""
    seat = next((c for c in cases if c.mask_case.name == "causal"), cases[0])
    known = options_of(seat.mechanism)
    for options in OTHER_OPTIONS:
        if not set(options) <= set(known):
            continue
        case = Case(seat.mechanism, seat.mask_case, seat.position, seat.role, options)
        try:
            case.build()
        except ValueError:  # its own word: these options do not go together
            continue
        yield case


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


def spoken_about(law: Law, cases: Sequence[Case], thorough: bool = False) -> list[Case]:
    """The cases about which a law is asked: every mask, or those that run different kernels,
    without a position encoding, and few masks with each encoding; with no mask, with a causal one,
    and with padding on top, of which each encoding sees one; for each position and role, one of
    these; long ones; or a single one, causal if it can be. Encodings of the kit that act on the
    same thing as another are asked about under one mask. All of them where it is `thorough`.
    """
    if not cases:
        return []
    first = cases[0].position  # none, unless it is asked with others alone
    leading = _leading({case.position: None for case in cases})
    if not thorough and law.each not in ("mask", "kernel"):
        cases = [case for case in cases if case.position in leading]
    if law.each == "length":
        return list(_long(cases, thorough))
    if thorough and law.each in ("mask", "kernel", "position"):
        return list(cases)
    if law.each in ("mask", "kernel"):
        usual = {case.name for case in mask_cases()}
        of_kernels = law.each == "kernel"
        without = {(c.mask_case.name, c.role) for c in cases if c.position == first}

        def is_asked(case: Case) -> bool:
            name = case.mask_case.name
            if name not in usual:  # somebody's own mask
                return True
            if case.position == first or (name, case.role) not in without:
                return name in MASKS_OF_KERNELS if of_kernels else True
            return name in (MASKS_OF_POSITIONS if case.position in leading else ("causal",))

        return list(filter(is_asked, cases)) or list(cases[:1])
    few = [case for case in cases if case.mask_case.name in FEW_MASKS]
    few = few or list(cases[:1])
    if law.each == "position":
        # With positions, and across sequences, the mask that hides most.
        last = {(c.position, c.role, c.extra, repr(c.options)): c for c in few}.values()
        return [c for c in few if (c.position == first and c.role == "self") or c in last]
    if law.each == "seat":
        usual = [case for case in few if _is_usual(case, cases)]
        usual.sort(key=lambda case: case.mask_case.name != "causal")
        return list({(case.position, case.role): case for case in reversed(usual)}.values())[::-1]
    return [case for case in few if case.mask_case.name == "causal"][:1] or few[:1]


def _leading(positions: Iterable[str]) -> set[str]:
    """No encoding, the kit's first one of each kind, and all of somebody's own."""
    found: dict[str, str] = {}
    for name in positions:
        cls = POSITIONS.get(name)
        own = not cls.__module__.startswith("attnkit.")
        found.setdefault(name if own or name == "none" else cls.acts_on, name)
    return set(found.values())


def _long(cases: Sequence[Case], thorough: bool) -> Iterator[Case]:
    """One long sequence for each position and role, under masks of the cases' kinds; without a
    position encoding, longer ones too.
    """
    usual = {case.name for case in mask_cases()}
    own = {case.mask_case.name: case.mask_case for case in cases}
    kinds = {mask.kind for mask in own.values()}
    masks = [mask for mask in long_mask_cases() if mask.kind in kinds]
    left_out = {mask.name for mask in masks} - {*FEW_MASKS, *LONG_MASKS_OF_POSITIONS}
    masks += [mask for name, mask in own.items() if name not in usual]
    found = {(case.role, case.position): case for case in cases if _is_usual(case, cases)}
    for case in found.values():
        first = case.position == cases[0].position
        plain = case.role == "self" and first
        for mask in masks:
            if not first and mask.name in left_out and not thorough:
                continue
            bites = (mask.over(1, LONGEST).back or 0) < SHORTEST_LONG
            lengths = [SHORTEST_LONG] if bites else []
            if thorough or (plain and mask.name in MASKS_OF_LONG):
                lengths.append(LONG)
            if thorough or (plain and mask.name in MASKS_OF_LONGEST):
                lengths.append(LONGEST)
            for length in lengths:
                long = case.resized(B=1, T=length, mask_case=mask)
                if long.refusal() is None:
                    yield long


def _is_usual(case: Case, cases: Sequence[Case]) -> bool:
    """True if a case has the options, and the length of the context, of the first one."""
    return case.options == cases[0].options and case.extra == cases[0].extra


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
    # A choice of masks, (a | b), is no name that can be declared.
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
