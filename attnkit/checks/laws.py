"""All laws, in the order of a card."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from attnkit.checks import costs, decoding, devices, influence, maps, module, paths
from attnkit.checks.case import Case

Scope = Literal["mask", "position", "mechanism"]


@dataclass(frozen=True)
class Law:
    """One law.

    Args:
        demand: breaks (`Broken`) or leaves (`DoesNotApply`) if it must.
        topic: what the law is about; laws of a topic stand together on a card.
        each: how often it is asked: under each mask; once for each position and role, under the
            first masks that the mechanism serves (`none`, else `causal`, ...); once for each
            mechanism.
        quick: cheap enough, and grave enough, to be asked before a plugin trains.
    """

    demand: Callable[[Case], None]
    topic: str
    each: Scope = "mask"
    quick: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        return self.demand.__name__

    @property
    def words(self) -> str:
        """The name as a person says it."""
        return self.name.replace("_", " ")

    @property
    def text(self) -> str:
        """The law itself: the function's docstring."""
        return inspect.getdoc(self.demand) or ""


LAWS: tuple[Law, ...] = (
    Law(influence.later_tokens_have_no_influence, "influence", quick=True),
    Law(influence.padded_keys_have_no_influence, "influence", quick=True),
    Law(influence.nothing_outside_the_window_has_influence, "influence", quick=True),
    Law(influence.documents_do_not_see_each_other, "influence", quick=True),
    Law(influence.forbidden_keys_have_no_influence, "influence", quick=True),
    Law(influence.every_allowed_key_has_influence, "influence", quick=True),
    Law(influence.batch_entries_do_not_see_each_other, "influence", "position", quick=True),
    Law(influence.cross_attention_reads_the_context_and_only_it, "influence", quick=True),
    Law(influence.order_of_the_keys_does_not_matter, "influence", "position"),
    Law(decoding.fewer_queries_than_keys_stand_at_the_end, "lengths", quick=True),
    Law(decoding.more_queries_than_keys_leave_the_first_rows_empty, "lengths"),
    Law(decoding.rows_with_nothing_allowed_give_zeros_and_finite_gradients, "lengths"),
    Law(decoding.decoding_token_by_token_equals_the_full_pass, "lengths", quick=True),
    Law(decoding.decoding_in_chunks_equals_the_full_pass, "lengths", quick=True),
    Law(decoding.decoding_far_into_a_sequence_equals_the_full_pass, "lengths", "position"),
    Law(decoding.rows_of_a_cache_go_on_alone, "lengths", "position"),
    Law(decoding.outputs_do_not_depend_on_the_length, "lengths", quick=True),
    Law(decoding.any_batch_size_and_length_works, "lengths", "position"),
    Law(maps.values_are_mixed_linearly, "map"),
    Law(maps.map_reproduces_the_output, "map", quick=True),
    Law(maps.map_is_zero_where_the_mask_forbids, "map", quick=True),
    Law(maps.map_rows_are_what_is_declared, "map", quick=True),
    Law(maps.map_is_taken_before_dropout, "map", "position"),
    Law(paths.fast_path_equals_the_reference, "paths"),
    Law(paths.training_mode_computes_the_same, "paths"),
    Law(paths.bfloat16_stays_near_float32, "paths", "position"),
    Law(paths.compiled_equals_eager, "paths", "mechanism"),
    Law(module.gradients_reach_every_parameter, "module", "position", quick=True),
    Law(module.gradients_agree_with_finite_differences, "module", "position"),
    Law(module.same_seed_gives_the_same_numbers, "module", "position"),
    Law(module.state_dict_round_trip, "module", "position"),
    Law(module.dropout_acts_in_training_alone, "module", "position"),
    Law(module.dropout_keeps_the_mean, "module", "position"),
    Law(module.tokens_of_any_size_give_finite_numbers, "module", "position"),
    Law(module.a_call_leaves_nothing_behind, "module", "position"),
    Law(module.inputs_are_left_as_they_were, "module", "position"),
    Law(costs.flops_are_those_that_torch_counts, "costs", "position"),
    Law(costs.memory_grows_as_declared, "costs", "position"),
    Law(costs.parameters_are_counted, "costs", "position"),
    Law(decoding.cache_holds_what_is_declared, "costs"),
    Law(devices.training_step_stays_on_its_device, "devices", "mechanism"),
)
"""Every law of the kit."""
