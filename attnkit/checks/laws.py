"""All laws, in the order of a card."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from attnkit.checks import (
    calls,
    costs,
    decoding,
    devices,
    influence,
    long,
    maps,
    module,
    paths,
)
from attnkit.checks.case import Broken, Case

Scope = Literal["mask", "kernel", "position", "seat", "length", "mechanism"]


@dataclass(frozen=True)
class Law:
    """One law.

    Args:
        demand: tests a case; raises `Broken` or `DoesNotApply`.
        topic: topic of the law; laws of a topic are listed together on a card.
        each: how often it is tested: under each mask; under those that run different kernels; for
            each position and role, under few masks (`none`, `causal`, padding) or under one of
            these; on long sequences; once for each mechanism. See `cases_for`.
        quick: True for a cheap and important law, which is tested before a plugin trains.
        remedy: what a class can declare if the behaviour is intended.
        fits: whether that declaration would make a case legal; it is suggested only then.
        value: the declaration itself, derived from a case; empty: unknown.
        after: a law from which this one follows; if that is broken too, it is named instead.
    """

    demand: Callable[[Case], str | None]
    topic: str
    each: Scope = "mask"
    quick: bool = False
    remedy: str = ""
    fits: Callable[[Case], bool] = lambda case: True
    value: Callable[[Case], str] = lambda case: ""
    after: Callable[[Case], None] | None = None

    @property
    def name(self) -> str:
        """The function's name."""
        return self.demand.__name__

    @property
    def words(self) -> str:
        """The name in words."""
        return in_words(self.name)

    def declaration(self, case: Case, smallest: Case) -> str:
        """Returns what would make a case legal, with a suitable value; empty: nothing would."""
        if self.after and _is_broken(self.after, case):
            return f"fix `{in_words(self.after.__name__)}` first: this often follows from it"
        if not self.remedy or not self.fits(smallest):
            return ""
        try:
            value = self.value(case)
        except Exception:  # the remedy is useful without it
            value = ""
        return f"{self.remedy}; here: {value}" if value else self.remedy

    @property
    def text(self) -> str:
        """The docstring of the function, which is the law itself."""
        return inspect.getdoc(self.demand) or ""


def in_words(name: str) -> str:
    """Returns the name of a law in words."""
    return name.replace("_", " ")


def _is_broken(demand: Callable[[Case], None], case: Case) -> bool:
    try:
        demand(case)
    except Broken:
        return True
    except Exception:  # it does not apply to this case
        return False
    return False


SELF_ALONE = "if it supports self-attention only, declare `roles = frozenset({'self'})`"
RECOMPUTES = (
    "if a row needs earlier queries or tokens, return them from `carry`; if an output depends on "
    "all tokens at once, declare `has_cache = False`: samples and `generate` then read all of them "
    "at each step"
)
JACOBIAN = (
    "if it does more than weight the values, declare `linear_in_values = False`: its map is then a "
    "Jacobian"
)

LAWS: tuple[Law, ...] = (
    Law(calls.calls_write_nothing_to_self, "calls", "seat", quick=True),
    Law(calls.inputs_are_left_as_they_were, "calls", "seat", quick=True),
    Law(calls.same_seed_gives_the_same_numbers, "calls", "seat", quick=True),
    Law(calls.parameters_lie_in_the_module, "calls", "seat", quick=True),
    Law(calls.a_call_leaves_nothing_behind, "calls", "seat", quick=True),
    Law(calls.a_training_step_leaves_nothing_behind, "calls", "seat", quick=True),
    Law(calls.new_weights_take_effect_at_once, "calls", "seat", quick=True),
    Law(calls.sequences_of_a_batch_come_out_as_if_alone, "calls", "seat", quick=True),
    Law(influence.later_tokens_have_no_influence, "influence", quick=True),
    Law(influence.padded_keys_have_no_influence, "influence", quick=True),
    Law(influence.nothing_outside_the_window_has_influence, "influence", quick=True),
    Law(influence.documents_do_not_see_each_other, "influence", quick=True),
    Law(influence.forbidden_keys_have_no_influence, "influence", quick=True),
    Law(
        influence.forbidden_keys_have_no_influence_in_bfloat16, "influence", "position", quick=True
    ),
    Law(
        influence.every_allowed_key_has_influence,
        "influence",
        quick=True,
        remedy="if it leaves keys out by design (its own windows, blocks, strides), return the "
        "keys that each head attends to from `reaches(query, key)`",
        value=influence.observed_reach,
    ),
    Law(influence.nothing_beyond_its_own_reach_has_influence, "influence", quick=True),
    Law(influence.batch_entries_do_not_see_each_other, "influence", "position", quick=True),
    Law(
        influence.cross_attention_reads_the_context_and_only_it,
        "influence",
        "kernel",
        quick=True,
        remedy=SELF_ALONE,
    ),
    Law(
        influence.order_of_the_keys_does_not_matter,
        "influence",
        "position",
        remedy="if it distinguishes the order of keys by design, declare `knows_order = True`",
    ),
    Law(
        influence.an_accepted_position_has_an_effect,
        "influence",
        "position",
        quick=True,
        remedy="if it does not support this encoding, leave its kind out of `position_kinds`",
        fits=influence.ignores_its_position,
        value=influence.other_position_kinds,
    ),
    Law(
        long.padding_at_the_end_changes_nothing,
        "lengths",
        "kernel",
        remedy="if it cannot obey padding, list the masks that it can obey in `mask_names`",
        value=long.masks_without_padding,
        after=influence.later_tokens_have_no_influence,
    ),
    Law(
        decoding.fewer_queries_than_keys_stand_at_the_end,
        "lengths",
        "kernel",
        quick=True,
        remedy=RECOMPUTES,
    ),
    Law(decoding.more_queries_than_keys_leave_the_first_rows_empty, "lengths", "position"),
    Law(decoding.rows_with_nothing_allowed_give_zeros_and_finite_gradients, "lengths", "kernel"),
    Law(
        decoding.outputs_do_not_depend_on_the_length,
        "lengths",
        "kernel",
        quick=True,
        remedy=RECOMPUTES,
    ),
    Law(
        decoding.decoding_token_by_token_equals_the_full_pass,
        "lengths",
        quick=True,
        remedy=RECOMPUTES,
    ),
    Law(
        decoding.decoding_in_chunks_equals_the_full_pass,
        "lengths",
        "kernel",
        quick=True,
        remedy=RECOMPUTES,
    ),
    Law(
        decoding.decoding_far_into_a_sequence_equals_the_full_pass,
        "lengths",
        "position",
        remedy=RECOMPUTES,
    ),
    Law(decoding.rows_of_a_cache_go_on_alone, "lengths", "position"),
    Law(decoding.any_batch_size_and_length_works, "lengths", "position"),
    Law(long.long_sequences_obey_the_mask, "lengths", "length", quick=True),
    Law(long.long_sequences_are_computed_as_short_ones, "lengths", "length", quick=True),
    Law(maps.values_are_mixed_linearly, "map", "kernel", remedy=JACOBIAN),
    Law(
        maps.map_reproduces_the_output,
        "map",
        "kernel",
        quick=True,
        remedy=JACOBIAN,
        fits=maps.is_not_linear_in_values,
    ),
    Law(maps.map_is_zero_where_the_mask_forbids, "map", quick=True),
    Law(
        maps.map_rows_are_what_is_declared,
        "map",
        quick=True,
        remedy='`map_rows` may be "sum to 1", "unnormalised" or "signed"; the sum of a row is 0 if '
        "`reaches` leaves it empty",
        value=maps.observed_rows,
    ),
    Law(maps.map_is_taken_before_dropout, "map", "position"),
    Law(
        paths.fast_path_equals_the_reference,
        "paths",
        remedy=JACOBIAN,
        fits=maps.is_not_linear_in_values,
    ),
    Law(paths.training_mode_computes_the_same, "paths"),
    Law(
        paths.bfloat16_stays_near_float32,
        "paths",
        "position",
        remedy="if its output is discontinuous where a score passes a threshold, declare "
        "`smooth = False`",
    ),
    Law(paths.compiled_equals_eager, "paths", "mechanism"),
    Law(module.gradients_reach_every_parameter, "module", "position", quick=True),
    Law(module.gradients_agree_with_finite_differences, "module", "position"),
    Law(module.state_dict_round_trip, "module", "position"),
    Law(module.dropout_acts_in_training_alone, "module", "position"),
    Law(module.dropout_drops_the_declared_share, "module"),
    Law(module.tokens_of_any_size_give_finite_numbers, "module", "position"),
    Law(
        costs.declared_flops_are_right,
        "costs",
        "position",
        remedy="remove `mixing_flops` or `projection_flops`, whichever is wrong: costs that are "
        "not declared are counted",
    ),
    Law(
        costs.memory_grows_as_declared,
        "costs",
        "mechanism",
        remedy="return 2 from `memory_order()` if the backward pass stores a map, and otherwise 1",
    ),
    Law(costs.parameters_are_counted, "costs", "seat"),
    Law(
        decoding.cache_holds_what_is_declared,
        "costs",
        "position",
        remedy="remove `cache_elements`: costs that are not declared are counted",
    ),
    Law(devices.training_step_stays_on_its_device, "processes", "mechanism"),
    Law(devices.another_process_gives_the_same_numbers, "processes", "mechanism"),
)
"""Every law of the kit."""

_NAMES = [law.name for law in LAWS]
BASIC = tuple(_NAMES[: _NAMES.index("forbidden_keys_have_no_influence") + 1])
"""Laws on which others depend, the most basic one first: what a call changes or keeps, and what
leaks.
"""
