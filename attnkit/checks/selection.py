"""Selects the cases on which laws are tested: the seats of a mechanism, and those for each law."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attnkit.attention.base import Attention, Role
from attnkit.checks.case import FEWER, Case
from attnkit.checks.laws import Law
from attnkit.checks.seats import ROLES, MaskCase, long_mask_cases, mask_cases, seats
from attnkit.registry import MASKS, POSITIONS, options_of

FEW_MASKS = ("none", "causal", "causal&padding")
"""Masks for laws that are not about masks."""

MASKS_OF_KERNELS = (*FEW_MASKS, "padding", "sliding_window-3", "window&document&padding")
"""Masks that together run every kernel."""

MASKS_OF_POSITIONS = ("none", "causal", "causal&padding", "sliding_window-3")
"""Masks for laws about masks, with each position encoding."""

OTHER_OPTIONS: tuple[dict[str, Any], ...] = (
    {"num_heads": 6},
    {"num_heads": 1},
    {"head_dim": 12},
    {"num_kv_heads": 2},
    {"bias": True},
)
"""Options of most mechanisms. A card tests each of them in addition to the defaults: a number of
heads that is not a power of two, a single head, and heads that are not `dim / num_heads` wide.
"""

SHORTEST_LONG, LONG, LONGEST = 67, 160, 515
"""Lengths of long sequences: in all seats; without a position encoding; under few masks."""

LONG_MASKS_OF_POSITIONS = ("sliding_window-21", "sliding_window-22-centered")
"""Masks for long sequences with a position encoding, in addition to `FEW_MASKS`."""

MASKS_OF_LONGEST = (
    "causal",
    "sliding_window-40",
    "sliding_window-100",
    "sliding_window-21-centered",
)
MASKS_OF_LONG = ("none", "causal&padding", *MASKS_OF_LONGEST)


def cases_of(
    mechanism: type[Attention],
    options: Mapping[str, Any] | None = None,
    *,
    masks: Sequence[MaskCase] | None = None,
    positions: Sequence[str] | None = None,
    roles: Sequence[Role] = ROLES,
) -> tuple[list[Case], list[str]]:
    """Returns a case for each seat that a mechanism does not refuse, and the reasons why it refuses
    others, each once. Some seats occur again, with fewer keys than queries or with other options.
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
    return cases, _joined(reasons)


_ABOUT_ONE = re.compile(r"(.*?\b(position|mask) )(\w+)(.*)", re.DOTALL)
"""A reason that names one position encoding or mask."""


def _joined(reasons: Iterable[str]) -> list[str]:
    """Returns reasons, those that differ only in the name of a position or mask as one."""
    names: dict[tuple[str, str], list[str]] = {}
    for reason in reasons:
        found = _ABOUT_ONE.fullmatch(reason)
        known = POSITIONS if found and found[2] == "position" else MASKS
        if found and found[3] in (*known.names(), "padding"):
            names.setdefault((found[1], found[4]), []).append(found[3])
        else:
            names[reason, ""] = [""]
    return [
        f"{before}{', '.join(each[:-1])}{' or ' * (len(each) > 1)}{each[-1]}{after}"
        for (before, after), each in names.items()
    ]


def _with_other_options(cases: Sequence[Case]) -> Iterator[Case]:
    """Yields one case, causal if possible, with each of `OTHER_OPTIONS` that the mechanism has."""
    seat = next((c for c in cases if c.mask_case.name == "causal"), cases[0])
    known = options_of(seat.mechanism)
    for options in OTHER_OPTIONS:
        if not set(options) <= set(known):
            continue
        case = Case(seat.mechanism, seat.mask_case, seat.position, seat.role, options)
        try:
            case.build()
        except ValueError:  # the mechanism does not support these options together
            continue
        yield case


def cases_for(law: Law, cases: Sequence[Case], thorough: bool = False) -> list[Case]:
    """Returns the cases on which a law is tested, by its `each`:

    mask, kernel    every mask, or those that run different kernels, without a position encoding;
                    few masks with each encoding
    position        `FEW_MASKS` in self-attention without a position encoding; otherwise their last
    seat            one of `FEW_MASKS` for each position and role
    length          long sequences
    mechanism       a single case, causal if possible

    Of several position encodings of the kit that act on the same thing, only the first is tested,
    and the others under one mask if `each` is `mask` or `kernel`. `thorough` tests all cases.
    """
    if not cases:
        return []
    first = cases[0].position  # "none", unless only other encodings are tested
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

        def is_tested(case: Case) -> bool:
            name = case.mask_case.name
            if name not in usual:  # the mask of a plugin
                return True
            if case.position == first or (name, case.role) not in without:
                return name in MASKS_OF_KERNELS if of_kernels else True
            return name in (MASKS_OF_POSITIONS if case.position in leading else ("causal",))

        return list(filter(is_tested, cases)) or list(cases[:1])
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
    """Returns `none`, the first encoding of each kind in the kit, and all encodings of plugins."""
    found: dict[str, str] = {}
    for name in positions:
        cls = POSITIONS.get(name)
        own = not cls.__module__.startswith("attnkit.")
        found.setdefault(name if own or name == "none" else cls.acts_on, name)
    return set(found.values())


def _long(cases: Sequence[Case], thorough: bool) -> Iterator[Case]:
    """Yields a long sequence for each position and role, under masks of the kinds in `cases`;
    without a position encoding, longer ones too.
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
            has_effect = (mask.over(1, LONGEST).back or 0) < SHORTEST_LONG
            lengths = [SHORTEST_LONG] if has_effect else []
            if thorough or (plain and mask.name in MASKS_OF_LONG):
                lengths.append(LONG)
            if thorough or (plain and mask.name in MASKS_OF_LONGEST):
                lengths.append(LONGEST)
            for length in lengths:
                long = case.resized(B=1, T=length, mask_case=mask)
                if long.refusal() is None:
                    yield long


def _is_usual(case: Case, cases: Sequence[Case]) -> bool:
    """Returns True if a case has the same options and context length as the first one."""
    return case.options == cases[0].options and case.extra == cases[0].extra
