"""The card, and the command that prints it."""

import functools
import io
import json
import operator
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from attnkit.attention import kernels
from attnkit.attention.base import Attention
from attnkit.attention.kernels.call import Verdict
from attnkit.attention.multi_head import MultiHead
from attnkit.checks import LAWS, check
from attnkit.checks.card import Card, Line, law
from attnkit.checks.case import Broken, Case
from attnkit.checks.laws import BASIC
from attnkit.checks.seats import MaskCase
from attnkit.checks.selection import cases_of
from attnkit.checks.subjects import Subject, subjects_of
from attnkit.checks.terminal import CardPrinter, show_matrix
from attnkit.cli.main import app
from attnkit.masks import Causal, Document, NoMask, Padding
from attnkit.registry import ATTENTION, load_plugin

LEAK = '''\
from attnkit import ATTENTION
from attnkit.attention.multi_head import MultiHead


@ATTENTION.register("my_leak")
class MyLeak(MultiHead):
    """Values know the mean of the whole sequence."""

    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v - v.mean(dim=2, keepdim=True)
'''
CAUSAL = [MaskCase("causal", "causal")]
QUICK = [law for law in LAWS if law.quick]
LENGTHS = [law for law in LAWS if law.topic == "lengths"]
FEW = [law for law in LAWS if law.topic in ("influence", "map")]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class MyLeak(MultiHead):
    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v - v.mean(dim=2, keepdim=True)


class MyCrash(MultiHead):
    def merge(self, heads, x):
        raise RuntimeError("size mismatch\nand more")


def test_a_sound_mechanism_breaks_nothing():
    card = check(MultiHead, masks=CAUSAL, laws=FEW)
    assert [line.law for line in card.lines] == [law.name for law in FEW]
    assert not card.broken
    assert card.num_seats == 7  # six positions, and cross-attention with none
    assert "padded keys" in next(
        line.law for line in card.lines if line.outcome == "does not apply"
    ).replace("_", " ")


def test_a_broken_law_has_evidence_and_a_smallest_case():
    card = check(MyLeak, masks=CAUSAL, laws=FEW)
    line = next(line for line in card.lines if line.law == "later_tokens_have_no_influence")
    assert line in card.broken
    assert re.match(
        r"output 0 moved by \d\.\de[+-]\d\d when token 1 of sequence 0 changed", line.words
    )
    assert line.smallest == ("MyLeak: self-attention, mask causal, position none, B=1 T=2 S=2 C=8")


def test_an_error_about_a_change_in_place_is_named_as_such():
    class ChangesItsValues(MultiHead):
        def expand(self, k, v):
            with torch.no_grad():
                v.mul_(0.9)
            return super().expand(k, v)

    line = check(ChangesItsValues, masks=CAUSAL, roles=("self",)).lines[-1]
    assert line.outcome == "crashed"
    assert line.trace[-1] == "look for a change in place in its own expand"
    assert "instead of `v.mul_(0.9)`" in line.remedy


def test_an_error_of_the_mechanism_ends_the_card_at_the_authors_line():
    card = check(MyCrash, masks=CAUSAL)
    (line,) = card.lines
    assert card.broken == [line]
    assert (line.outcome, line.words) == ("crashed", "RuntimeError: size mismatch")
    (frame,) = line.trace
    assert re.fullmatch(r".*/test_card.py:\d+ in merge: raise RuntimeError\(.*", frame)


class GivesTheWrongShape(MultiHead):
    def scores(self, q, k):
        return super().scores(q, k)[:, :1, :, :-1]


def test_an_error_in_the_kit_names_what_the_author_overrides():
    (line,) = check(GivesTheWrongShape, masks=CAUSAL).lines
    assert line.outcome == "crashed"
    assert "look at the shapes that its own scores return" in line.trace[-1]


class KnowsFiftyPlaces(MultiHead):
    roles = frozenset(("self",))
    knows_order = True

    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.places = nn.Parameter(torch.randn(self.num_heads, 50))

    def bias(self, query, key):
        return self.places[:, key.flatten()].unsqueeze(1).expand(-1, query.shape[-2], -1)


class SaysThatItKnowsFiftyPlaces(KnowsFiftyPlaces):
    def bias(self, query, key):
        if key.numel() > 50:
            raise ValueError(f"it knows 50 places, and got {key.numel()} keys")
        return super().bias(query, key)


def test_lengths_that_a_mechanism_refuses_in_words_are_not_asked_about():
    asked = [law("long_sequences_obey_the_mask"), law("fewer_queries_than_keys_stand_at_the_end")]
    (line,) = check(KnowsFiftyPlaces, masks=CAUSAL, positions=["none"], laws=asked).lines
    assert (line.outcome, line.words[:10]) == ("crashed", "IndexError")
    assert "raise a ValueError that says so" in line.remedy
    card = check(SaysThatItKnowsFiftyPlaces, masks=CAUSAL, positions=["none"], laws=asked)
    assert [line.outcome for line in card.lines] == ["does not apply", "holds"]
    assert card.lines[0].words.startswith("it knows 50 places, and got ")


class HasAnIdleGate(MultiHead):
    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.gate = nn.Linear(dim, 3)


def test_a_smaller_case_keeps_the_evidence():
    """With one token, no gradient reaches the queries of any mechanism."""
    (line,) = check(
        HasAnIdleGate, masks=CAUSAL, laws=[law("gradients_reach_every_parameter")]
    ).lines
    assert line.words == "no gradient reaches gate.weight, gate.bias"


class CountsTheBatch(MultiHead):
    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v * (1 + torch.arange(len(v)).view(-1, 1, 1, 1))


def test_copies_of_a_batch_are_no_leak():
    """What hangs on the place in the batch is told by that law, and by none about the future."""
    leaks = [each for each in LAWS if "no_influence" in each.name]
    assert not check(CountsTheBatch, masks=CAUSAL, laws=leaks).broken
    (line,) = check(
        CountsTheBatch, masks=CAUSAL, laws=[law("sequences_of_a_batch_come_out_as_if_alone")]
    ).lines
    assert line.words.startswith("sequence 1 in a batch of 2, against the same one alone: differs")


def test_every_size_of_a_case_is_another():
    for mechanism in map(ATTENTION.get, ATTENTION.names()):
        for case in cases_of(mechanism)[0]:
            built = case.attention
            sizes = [case.B, case.T, built.num_heads, built.head_dim, case.C]
            sizes += [case.S] * (case.role == "cross")
            if built.num_heads == 1:  # a head is as wide as the model
                sizes.remove(case.C)
            assert len(set(sizes)) == len(sizes), case


class CutsItsKeysWithoutATranspose(MultiHead):
    def project_context(self, context):
        k, v = super().project_context(context)
        return k, self.value(context).view(v.shape)


class AsksWithoutATranspose(MultiHead):
    def project_query(self, x):
        return self.query(x).view(super().project_query(x).shape)


class JoinsItsHeadsWithoutATranspose(MultiHead):
    def merge(self, heads, x):
        return self.output(heads.reshape(x.shape))


class SharpensByItsKeys(MultiHead):
    def scores(self, q, k):
        return super().scores(q, k) * k.norm(dim=-1).amax(dim=-1)[..., None, None]


class ShowsItsMaskLate(MultiHead):
    def normalize(self, scores, allowed):
        return super().normalize(scores, None)

    def weights(self, q, k, mask):
        return self.normalize(self.scores(q, k), None)


@pytest.mark.parametrize(
    ("mechanism", "step"),
    [
        (
            CutsItsKeysWithoutATranspose,
            "`project_context`: it mixes heads with tokens, as a `view`",
        ),
        (AsksWithoutATranspose, "`project_query`: it mixes heads with tokens, as a `view` without"),
        (JoinsItsHeadsWithoutATranspose, "`merge`: it mixes heads with tokens, as a `view` with"),
        (MyLeak, "`project_context`: other tokens depend on it there"),
        (SharpensByItsKeys, "its map: the weights of other keys depend on it; if scores are mixed"),
        (ShowsItsMaskLate, "its map, where the weight is "),
    ],
)
def test_a_leak_names_the_step_that_it_takes(mechanism, step):
    (line,) = check(
        mechanism, masks=CAUSAL, roles=["self"], laws=[law("later_tokens_have_no_influence")]
    ).lines
    assert f", by {step}" in line.words


class ShowsTheFirstSequencesMap(MultiHead):
    def weights(self, q, k, mask):
        return super().weights(q, k, mask)[:1].expand(len(q), -1, -1, -1)

    def mix(self, q, k, v, mask):
        return super().weights(q, k, mask) @ v


class BendsItsValues(MultiHead):
    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask).tanh()


def test_a_map_that_is_right_for_some_sequences_is_told_as_that():
    asked = [law("map_reproduces_the_output")]
    (line,) = check(ShowsTheFirstSequencesMap, laws=asked).lines
    assert "(sequence 0 of 3 is right): differs by" in line.words


class KeepsItsFirstTable(MultiHead):
    def scores(self, q, k):
        if not hasattr(self, "table"):
            self.table = torch.zeros(k.shape[2])
        return super().scores(q, k) + self.table


class WritesIntoThePadding(MultiHead):
    def weights(self, q, k, mask):
        for part in mask.parts():
            if isinstance(part, Padding):
                part.keep[:, 0] = True
        return super().weights(q, k, mask)

    def mix(self, q, k, v, mask):
        return self.weights(q, k, mask) @ v


def test_what_only_later_calls_raise_is_told_as_kept():
    asked = [law("a_call_leaves_nothing_behind")]
    (line,) = check(KeepsItsFirstTable, masks=CAUSAL, positions=["none"], laws=asked).lines
    assert line.outcome == "broken"
    assert line.words.startswith("fewer tokens, called after others, raises RuntimeError: The size")


@pytest.mark.parametrize(
    ("fault", "evidence"),
    [
        ("CountsItsCalls", "`self.calls` ({file}:{line} in merge: self.calls += 1)"),
        ("CountsItsSteps", "`self.steps` in training ({file}:{line} in scores: self.steps += 1)"),
        (
            "KeepsAMovingAverage",
            "`self.running` ({file}:{line} in project_query: self.running = 0.9",
        ),
        ("CollectsItsMaps", "`self.maps` ({file}:{line} in weights: self.maps.append("),
        ("KeepsItsStream", "`self.stream` ({file}:{line} in exchange: self.stream = stream)"),
    ],
)
def test_what_a_call_keeps_is_named_with_its_line_and_is_to_be_fixed_first(fault, evidence):
    file = Path(__file__).parents[2] / "contracts" / "faults" / "calls.py"
    mechanism = getattr(load_plugin(str(file)), fault)
    asked = [law("calls_write_nothing_to_self")]
    (line,) = check(mechanism, masks=CAUSAL, positions=["none"], laws=asked).lines
    start = evidence.partition("{line} in ")[2].partition(": ")[2].rstrip(")")
    number = next(i for i, code in enumerate(file.read_text().splitlines(), 1) if start in code)
    said = evidence.format(file=file, line=number)
    assert line.words.startswith(f"the call changed {said}"), line.words
    assert BASIC[0] == line.law


class KeepsWhatItsOptionsSay(MultiHead):
    """Neither a value that does not depend on a call, nor an equal one, is a change."""

    @functools.cached_property
    def sharpness(self):
        return 1 + 1 / self.num_heads

    def scores(self, q, k):
        self.scale = 1 / self.head_dim**0.5
        return super().scores(q, k) * self.sharpness


def test_what_depends_on_no_call_may_be_kept():
    asked = [law("calls_write_nothing_to_self")]
    (line,) = check(KeepsWhatItsOptionsSay, masks=CAUSAL, positions=["none"], laws=asked).lines
    assert line.outcome == "holds"


def test_what_breaks_other_laws_is_named_at_the_end(capsys):
    padded = [MaskCase("causal&padding", "causal", padded=True)]
    asked = [law("inputs_are_left_as_they_were"), law("padded_keys_have_no_influence")]
    card = check(WritesIntoThePadding, masks=padded, positions=["none"], laws=asked)
    assert card.lines[0].words == "the mask's own `Padding.keep` was changed in place"
    CardPrinter(Subject("multi_head")).end(card, 1.0)
    assert "Fix `inputs are left as they were` first: others often" in capsys.readouterr().out


class MixesItsScores(MultiHead):
    """Each score is joined by its neighbours', of earlier queries and of later keys."""

    def scores(self, q, k):
        scores = super().scores(q, k)
        return scores + nn.functional.pad(scores, (0, 0, 1, 0))[:, :, :-1] + scores.roll(-1, dims=3)


def test_a_leak_is_to_be_fixed_before_padding_is_given_up(capsys):
    asked = [
        law("later_tokens_have_no_influence"),
        law("padding_at_the_end_changes_nothing"),
        law("decoding_far_into_a_sequence_equals_the_full_pass"),
    ]
    card = check(MixesItsScores, masks=CAUSAL, positions=["none"], roles=["self"], laws=asked)
    leak, padding, decoding = card.lines
    assert padding.remedy == (
        "fix `later tokens have no influence` first: this often follows from it"
    )
    assert decoding.words.startswith("135 tokens, decoded 9 at a time: differs by")
    assert "return them from `carry`; if an output depends on all tokens" in decoding.remedy
    CardPrinter(Subject("multi_head")).end(card, 1.0)
    said = capsys.readouterr().out
    assert said.endswith(
        "3 broken. 1.0 s\nFix `later tokens have no influence` first: others often follow from it\n"
    )
    card.lines.remove(leak)
    assert card.fix_first == ""


class CountsFromTheLastToken(MultiHead):
    """A bias for each distance, which is none between two sequences."""

    def bias(self, query, key):
        return (-0.5 * (query - key).abs())[None]


def test_what_breaks_in_cross_attention_alone_is_told_the_roles():
    seats = {"masks": [MaskCase("none", "none")], "positions": ["none"]}
    asked = [law("padding_at_the_end_changes_nothing")]
    (line,) = check(CountsFromTheLastToken, laws=asked, **seats).lines
    assert line.smallest.startswith("CountsFromTheLastToken: cross-attention")
    assert (
        line.remedy == "if it supports self-attention only, declare `roles = frozenset({'self'})`"
    )
    (line,) = check(CountsFromTheLastToken, laws=asked, roles=["cross"], **seats).lines
    assert "`mask_names`" in line.remedy
    assert "; or " not in line.remedy


@pytest.mark.parametrize("name", ["map_reproduces_the_output", "fast_path_equals_the_reference"])
def test_a_declaration_is_named_only_where_it_would_help(name):
    (line,) = check(ShowsTheFirstSequencesMap, laws=[law(name)]).lines
    assert (line.outcome, line.remedy) == ("broken", "")
    (line,) = check(BendsItsValues, laws=[law(name)]).lines
    assert "`linear_in_values = False`" in line.remedy


class ForgetsDocuments(MultiHead):
    def mix(self, q, k, v, mask):
        parts = [part for part in mask.parts() if not isinstance(part, Document)]
        return super().mix(q, k, v, functools.reduce(operator.and_, parts, NoMask()))


def test_a_law_that_holds_under_most_masks_names_those():
    asked = [law("forbidden_keys_have_no_influence")]
    (line,) = check(ForgetsDocuments, positions=["none"], roles=["self"], laws=asked).lines
    assert line.remedy.startswith("if it cannot obey document by design, declare `mask_names = ")
    assert "'causal', 'dilated'," in line.remedy
    assert "'document'" not in line.remedy
    (line,) = check(MyLeak, positions=["none"], roles=["self"], laws=asked).lines
    assert line.remedy == ""  # it is no matter of a mask


class AddsAConstantToItsScores(MultiHead):
    def __init__(self, dim, **options):
        super().__init__(dim, **options)
        self.shift = nn.Parameter(torch.zeros(self.num_heads, 1, 1))

    def scores(self, q, k):
        return super().scores(q, k) + self.shift


def test_a_parameter_without_effect_is_none_that_a_gradient_reaches():
    """The softmax takes it away again, up to rounding."""
    asked = [law("gradients_reach_every_parameter")]
    (line,) = check(AddsAConstantToItsScores, masks=CAUSAL, laws=asked).lines
    assert line.words.startswith("shift: no other value changes an output; the gradient is round")
    assert not check(MultiHead, {"bias": True}, masks=CAUSAL, laws=asked).broken


class OverflowsInItsKernel(kernels.Kernel):
    name = "overflowing"

    def refusal(self, call):
        return None

    def suits(self, call, where):
        return Verdict(True, "it is planted")

    def __call__(self, call):
        return call.v.expand(-1, call.q.shape[1], -1, -1) / (call.q.abs().amax() < 100)


def test_numbers_that_a_kernel_spoils_name_the_kernel(monkeypatch):
    monkeypatch.setattr(
        kernels.choosing, "KERNELS", {"overflowing": OverflowsInItsKernel(), **kernels.KERNELS}
    )
    asked = [law("tokens_of_any_size_give_finite_numbers")]
    (line,) = check(MultiHead, masks=CAUSAL, laws=asked).lines
    assert "(kernel overflowing); the written-out equation gives finite numbers" in line.words


class CountsFromTheLastKey(MultiHead):
    def bias(self, query, key):
        return (key % 2 * 1.0).expand(*query.shape[:-1], key.shape[-1]).unsqueeze(-3)


def test_a_broken_law_names_what_would_make_it_legal():
    asked = law("order_of_the_keys_does_not_matter")
    (line,) = check(CountsFromTheLastKey, masks=[MaskCase("none", "none")], laws=[asked]).lines
    assert line.outcome == "broken"
    assert "`knows_order = True`" in line.remedy


class WindowsByHead(MultiHead):
    """Head h looks at the last 2^(h + 1) keys."""

    causal_only = True
    knows_order = True

    def reaches(self, query, key):
        widths = 2 ** torch.arange(1, self.num_heads + 1, device=query.device)
        return query - key < widths.view(-1, 1, 1)


def test_a_declared_sparsity_is_what_is_demanded():
    card = check(WindowsByHead, masks=CAUSAL, positions=["none"], roles=["self"], laws=QUICK)
    assert not card.broken
    weights = WindowsByHead(32).weights(*torch.randn(2, 1, 4, 9, 8), Causal())
    assert (weights[0] > 0).sum(dim=-1)[:, -1].tolist() == [2, 4, 8, 9]


class HidesWhatItLeavesOut(MultiHead):
    """Leaves keys out inside `normalize`, and says nothing of it."""

    causal_only = True
    knows_order = True

    def normalize(self, scores, allowed):
        T, S = scores.shape[-2:]
        query, key = torch.arange(S - T, S)[:, None], torch.arange(S)
        near = allowed & self.near(query, key)
        return super().normalize(scores, near).masked_fill(~near, 0.0)


class HidesItsWindows(HidesWhatItLeavesOut):
    def near(self, query, key):
        return query - key < 2 ** torch.arange(1, 5).view(-1, 1, 1)


class HidesItsStride(HidesWhatItLeavesOut):
    def near(self, query, key):
        return (query - key) % 3 == 0


class HidesItsBlocks(HidesWhatItLeavesOut):
    def near(self, query, key):
        return query // 4 == key // 4


@pytest.mark.parametrize(
    ("mechanism", "rule"),
    [
        (HidesItsWindows, "query - key < query.new_tensor([2, 4, 8, 16]).view(-1, 1, 1)"),
        (HidesItsStride, "(query - key) % 3 == 0"),
        (HidesItsBlocks, "query // 4 == key // 4"),
    ],
)
def test_an_undeclared_sparsity_is_told_what_to_declare(mechanism, rule):
    asked = [law("every_allowed_key_has_influence"), law("map_rows_are_what_is_declared")]
    seats = {"masks": CAUSAL, "positions": ["none"], "roles": ["self"]}
    line = check(mechanism, {"num_heads": 4}, laws=asked, **seats).lines[0]
    assert re.match(r"(head 0 of )?output \d+ never moved when token 0 changed", line.words)
    assert f"`def reaches(self, query, key): return {rule}`" in line.remedy
    declared = type("Declared", (mechanism,), {"reaches": eval(f"lambda self, query, key: {rule}")})
    assert not check(declared, {"num_heads": 4}, laws=asked, **seats).broken


class TakesNoPlace(MultiHead):
    def place(self, q, k, seen=0):
        return q, k


class SignsItsWeights(MultiHead):
    def weights(self, q, k, mask):
        return super().weights(q, k, mask) - 0.5 * super().weights(-q, k, mask)


@pytest.mark.parametrize(
    ("mechanism", "name", "declaration"),
    [
        (
            TakesNoPlace,
            "an_accepted_position_has_an_effect",
            "`position_kinds = frozenset({'content', 'embeddings', 'scores'})`",
        ),
        (SignsItsWeights, "map_rows_are_what_is_declared", '`map_rows = "signed"`'),
    ],
)
def test_a_declaration_is_named_with_its_value(mechanism, name, declaration):
    (line,) = check(mechanism, masks=CAUSAL, laws=[law(name)]).lines
    assert line.remedy.endswith(f"; here: {declaration}")


class NystromAsWritten(MultiHead):
    """Three maps through means of two segments, and the pseudo-inverse as a plain iteration, in the
    type of the queries.
    """

    def weights(self, q, k, mask):
        count, identity = 2, torch.eye(2, dtype=q.dtype)
        q_mean, k_mean = (
            torch.stack([part.mean(dim=2) for part in heads.tensor_split(count, dim=2)], dim=2)
            for heads in (q * self.scale, k)
        )
        middle = (q_mean @ k_mean.mT).softmax(dim=-1)
        z = middle.mT / (middle.sum(-1).amax(-1) * middle.sum(-2).amax(-1))[..., None, None]
        for _ in range(6):
            az = middle @ z
            z = 0.25 * z @ (13 * identity - az @ (15 * identity - az @ (7 * identity - az)))
        first = (q * self.scale @ k_mean.mT).softmax(dim=-1)
        return first @ z @ (q_mean @ k.mT).softmax(dim=-1)


class ShiftsItsScores(MultiHead):
    """Loses as much as an inverse does, and needs not."""

    def scores(self, q, k):
        return (super().scores(q, k).to(q.dtype) + 300.0) - 300.0


def test_an_ill_conditioned_formula_is_told_from_a_careless_one():
    demand = law("bfloat16_stays_near_float32").demand
    where = {"mask_case": MaskCase("none", "none"), "T": 8}
    note = demand(Case(NystromAsWritten, **where))
    assert re.fullmatch(
        r"the output is \d+% off in bfloat16, since the formula is ill-conditioned", note
    )
    assert demand(Case(MultiHead, **where)) is None
    with pytest.raises(Broken, match=r"the output is \d+% off in bfloat16, by its length$"):
        demand(Case(ShiftsItsScores, **where))


class HangsOnAHash(MultiHead):
    def project_query(self, x):
        gains = [1 + hash(f"head {head}") % 1000 / 1000 for head in range(self.num_heads)]
        q = super().project_query(x)
        return q * q.new_tensor(gains).view(-1, 1, 1)


@pytest.mark.slow
def test_a_class_that_is_not_registered_is_asked_in_another_process_too():
    processes = [law for law in LAWS if law.topic == "processes"]
    step, numbers = check(HangsOnAHash, masks=CAUSAL, positions=["none"], laws=processes).lines
    assert step.outcome == "holds"
    assert numbers.outcome == "broken"
    assert numbers.words.startswith("output of another process (PYTHONHASHSEED ")
    assert not set(ATTENTION.names()) & {"HangsOnAHash", "not_registered"}


def test_a_class_that_no_other_process_can_import_is_told_so():
    class Inside(MultiHead):
        pass

    (line,) = check(
        Inside, masks=CAUSAL, laws=[law("another_process_gives_the_same_numbers")]
    ).lines
    assert line.outcome == "does not apply"
    assert line.words == "Inside is defined in a function: write it at the top level of a file"


class ReadsAllAtOnce(MultiHead):
    """Queries know the mean of all that came before, which no cache keeps."""

    has_cache = False
    knows_order = True

    def project_query(self, x):
        counts = torch.arange(1, x.shape[1] + 1, device=x.device).view(1, -1, 1)
        return super().project_query(x + x.cumsum(dim=1) / counts)


def test_what_has_no_cache_is_not_asked_to_decode():
    card = check(ReadsAllAtOnce, masks=CAUSAL, positions=["none"], roles=["self"], laws=LENGTHS)
    assert not card.broken
    told = {line.law: line.words for line in card.lines}
    for name in ("decoding_in_chunks_equals_the_full_pass", "outputs_do_not_depend_on_the_length"):
        assert told[name] == "it reads all tokens at once (has_cache = False)"
    with pytest.raises(NotImplementedError, match="has no `decode`"):
        Attention.decode(ReadsAllAtOnce(8), *torch.zeros(3, 1, 4, 1, 2), Causal(), None)


class ComputesInFloat32(MultiHead):
    def normalize(self, scores, allowed):
        return super().normalize(scores.float(), allowed).to(scores.dtype)


class ForgetsAFactor(ComputesInFloat32):
    def scores(self, q, k):
        return Halved.apply(super().scores(q, k))


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores):
        return scores.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 0.5 * gradient


def test_what_computes_in_float32_is_told_and_compared_there():
    asked = [law("gradients_agree_with_finite_differences")]
    (line,) = check(ComputesInFloat32, masks=CAUSAL, laws=asked).lines
    assert (line.outcome, line.words) == ("holds", "something computes in float32")
    (line,) = check(ForgetsAFactor, masks=CAUSAL, laws=asked).lines
    assert line.outcome == "broken"
    assert line.words.startswith("gradient ")


class Taxicab(MultiHead):
    def scores(self, q, k):
        return -torch.cdist(q, self.share_heads(k), p=1)


class CountsWhatTorchDoesNot(Taxicab):
    def mixing_flops(self, num_tokens, pairs):
        return pairs * self.num_heads * (3 * self.head_dim + 2 * self.head_dim)


def test_flops_beyond_torchs_count_may_be_declared_or_left_out():
    asked = [law("declared_flops_are_right")]
    for mechanism, outcome in ((Taxicab, "does not apply"), (CountsWhatTorchDoesNot, "holds")):
        (line,) = check(mechanism, masks=[MaskCase("none", "none")], laws=asked).lines
        assert line.outcome == outcome, line


class NormsItsWidestHead(MultiHead):
    linear_in_values = False

    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask).tanh()


def test_a_mix_that_says_that_it_bends_its_values_is_not_held_to_a_sum():
    (line,) = check(NormsItsWidestHead, laws=[law("fast_path_equals_the_reference")]).lines
    assert line.outcome == "does not apply"


def test_options_and_a_number_of_heads_that_does_not_divide_the_usual_width():
    card = check(MultiHead, {"num_heads": 6}, masks=CAUSAL, laws=FEW)
    assert not card.broken


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 80 columns."""
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, no_color=True, highlight=False)
    monkeypatch.setattr("attnkit.checks.terminal.console", console)
    return lambda: re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


def test_a_card_of_80_columns_has_hanging_indents_and_each_remedy_once(screen):
    remedy = " ".join(["declare what it does"] * 9)
    asked = ("later_tokens_have_no_influence", "padded_keys_have_no_influence")
    broken = [Line(each, "influence", "broken", 1, "moved " * 20, "T=2", remedy) for each in asked]
    idle = Line("order_of_the_keys_does_not_matter", "influence", "does not apply", 0, "none " * 9)
    printer = CardPrinter(Subject("multi_head"))
    for line in (*broken, idle):
        printer.line(line)
    printer.end(Card("multi_head", 1, broken[:1], ["refused " * 20]), 1.0)
    shown = screen()
    assert max(map(len, shown.splitlines())) <= 80
    first, second = (f"{' ' * n}moved moved" for n in (10, 12))
    assert f"\n{first}" in shown
    assert f"moved\n{second}" in shown
    assert shown.count(f"\n{' ' * 10}declare what") == shown.count("remedy: as above") == 1
    assert f"n/a     order of the keys does not matter\n{' ' * 10}none none" in shown
    assert "\n  refused refused" in shown
    assert "refused\n    refused" in shown
    assert "1 law in 1 seat (mask x position x role): 0 hold, 0 do not apply, 1 broken." in shown


def test_seats_that_are_refused_for_one_reason_share_a_line():
    _, refused = cases_of(MultiHead, masks=CAUSAL)
    (line,) = refused
    assert line.startswith("position alibi, cope, ")
    assert line.endswith(
        " or shaw compares positions within one sequence, so it has no meaning in cross-attention"
    )


def test_the_matrix_is_headed_by_the_titles_of_the_cards(screen):
    subjects = [Subject("multi_head", positions=(name,)) for name in ("alibi", "shaw")]
    show_matrix([Card("multi_head", 1, [Line(LAWS[0].name, "calls", "holds", 3)])] * 2, subjects)
    shown = screen()
    (law_line,) = (line for line in shown.splitlines() if line.endswith(" 3 "))
    assert law_line.split("  ")[0].strip() == LAWS[0].words
    heading = shown[: shown.index(LAWS[0].words)].split()
    assert [heading.count(word) for word in ("alibi", "shaw", "multi_head", "law")] == [1, 1, 2, 1]


def test_flops_that_are_not_declared_are_said_to_be_counted():
    (line,) = check(MyLeak, masks=CAUSAL, laws=[law("declared_flops_are_right")]).lines
    assert (line.outcome, line.words) == (
        "does not apply",
        "it declares no FLOPs, so they are counted",
    )


@pytest.mark.slow
def test_the_command_prints_each_law_and_writes_json():
    ended = call("check", "linear", "--mask", "causal", "--role", "self", "--json", "card.json")
    assert ended.exit_code == 0, ended.output
    for each in LAWS:
        assert each.words in ended.stdout
    assert "BROKEN" not in ended.stdout
    for names in ("alibi or relative_bias", "cope or shaw"):
        assert f"  linear has no place for position {names}, which acts on " in ended.stdout
    (card,) = json.loads(Path("card.json").read_text())
    assert card["title"] == card["name"] == "linear"
    assert len(card["lines"]) == len(LAWS)
    assert {line["outcome"] for line in card["lines"]} == {"holds", "does not apply"}


CRASH = LEAK.replace("v - v.mean(dim=2, keepdim=True)", "v @ torch.ones(3)").replace(
    "from attnkit import", "import torch\n\nfrom attnkit import", 1
)


def test_the_command_shows_an_errors_place_and_nothing_of_torchs():
    Path("my_leak.py").write_text(CRASH)
    ended = call("check", "my_leak.py", "--mask", "causal", "--role", "self")
    assert ended.exit_code == 1, ended.output
    assert "CRASHED" in ended.stdout
    assert "my_leak.py:13 in project_context: return k, v @ torch.ones(3)" in ended.stdout
    assert "fix it to test the other" in ended.stdout
    assert "0 broken, 1 crashed. " in ended.stdout
    assert "site-packages" not in ended.stdout


def test_the_command_takes_options():
    Path("my_leak.py").write_text(CRASH)
    ended = call("check", "my_leak.py", "num_heads=6", "--mask", "causal", "--role", "self")
    assert "C=48 num_heads=6" in ended.stdout


POSITION = '''\
from torch import nn

from attnkit import POSITIONS
from attnkit.positions.base import AttentionPosition


@POSITIONS.register("my_position")
class MyPosition(AttentionPosition):
    """A learned number for each head and distance."""

    acts_on = "scores"

    def __init__(self, num_heads, head_dim):
        super().__init__(num_heads, head_dim)
        self.table = nn.Embedding(9, num_heads)

    def by_distance(self, distance):
        return self.table(distance.clamp(-4, 4) + 4).mT
'''
MASK = '''\
from dataclasses import dataclass

from attnkit import MASKS, Mask


@MASKS.register("my_mask")
@dataclass(frozen=True)
class MyMask(Mask):
    """Says that it shows no later key, and shows one."""

    ahead = 0

    def allowed(self, batch, query, key):
        return key <= query + 1
'''


def card_of(file, laws):
    """The card of what a file registers, as the command makes it."""
    (subject,) = subjects_of(file)
    cls = ATTENTION.get(subject.name)
    return str(subject), check(cls, masks=subject.masks, positions=subject.positions, laws=laws)


def test_a_position_of_ones_own_is_asked_in_a_mechanism():
    asked = [law("later_tokens_have_no_influence"), law("fast_path_equals_the_reference")]
    Path("my_position.py").write_text(POSITION)
    name, card = card_of("my_position.py", asked)
    assert name == "multi_head with position my_position"
    assert [line.outcome for line in card.lines] == ["holds", "holds"]
    Path("my_position.py").write_text(POSITION.replace("+ 4).mT", "+ 4).mT * len(distance)"))
    _, card = card_of("my_position.py", [law("decoding_token_by_token_equals_the_full_pass")])
    assert card.broken


def test_a_mask_of_ones_own_is_asked_in_a_mechanism():
    Path("my_mask.py").write_text(MASK)
    name, card = card_of("my_mask.py", [law("later_tokens_have_no_influence")])
    assert name == "multi_head with mask my_mask"
    assert card.broken


def test_the_command_says_what_is_broken_and_ends_with_1():
    Path("my_leak.py").write_text(LEAK)
    ended = call(
        "check", "my_leak.py", "--mask", "{name: sliding_window, window: 3}", "--role", "cross"
    )
    assert ended.exit_code == 1, ended.output
    assert re.search("BROKEN +later tokens have no influence", ended.stdout)
    assert re.search(r"output \d moved by .* when token \d of sequence \d changed", ended.stdout)
    assert "smallest case: my_leak: cross-attention, mask sliding_window-3" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["liner"], "nothing is called `liner`; did you mean `linear`?"),
        (["my_file.py"], "plugin file my_file.py does not exist"),
        (["json"], "json registers no mechanism"),
        ([], "name a mechanism, a plugin file or a module, or give --all"),
        (["linear", "--all"], "or give --all"),
        (["num_heads=6"], "or give --all"),
        (["linear", "num_heds=6"], "linear.num_heds: unknown key; did you mean `num_heads`"),
        (["linear", "num_heads=many"], "linear.num_heads: expected a whole number, got text"),
        (["linear", "--mask", "causl"], "--mask: .*did you mean `causal`"),
        (["linear", "--mask", "{a"], "--mask: "),
        (["linear", "--mask", "prefix"], "nothing to check: linear cannot obey the mask prefix"),
    ],
)
def test_bad_input_is_one_message(arguments, message):
    ended = call("check", *arguments)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    assert re.match(f"error: .*{message}", ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr
