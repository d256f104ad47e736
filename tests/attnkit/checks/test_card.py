"""The card, and the command that prints it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnkit.attention.multi_head import MultiHead
from attnkit.checks import LAWS, check
from attnkit.checks.card import law
from attnkit.checks.seats import MaskCase
from attnkit.cli.main import app

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
    assert card.num_seats == 5  # four positions, and cross-attention with none
    assert "padded keys" in next(
        line.law for line in card.lines if line.outcome == "does not apply"
    ).replace("_", " ")


def test_a_broken_law_has_evidence_and_a_smallest_case():
    card = check(MyLeak, masks=CAUSAL, laws=FEW)
    line = next(line for line in card.lines if line.law == "later_tokens_have_no_influence")
    assert line in card.broken
    assert re.match(r"output 0 moved by \d\.\de[+-]\d\d when token 1 changed", line.words)
    assert line.smallest == ("MyLeak: self-attention, mask causal, position none, B=1 T=2 S=2 C=8")


def test_an_error_of_the_mechanism_breaks_a_law_in_its_own_words():
    (line,) = check(MyCrash, masks=CAUSAL, laws=[law("state_dict_round_trip")]).lines
    assert (line.outcome, line.words) == ("broken", "RuntimeError: size mismatch")


def test_options_and_a_number_of_heads_that_does_not_divide_the_usual_width():
    card = check(MultiHead, {"num_heads": 6}, masks=CAUSAL, laws=FEW)
    assert not card.broken


def test_the_command_prints_each_law_and_writes_json():
    ended = call("check", "linear", "--mask", "causal", "--role", "self", "--json", "card.json")
    assert ended.exit_code == 0, ended.output
    for each in LAWS:
        assert each.words in ended.stdout
    assert "BROKEN" not in ended.stdout
    assert "linear has no place for position alibi" in ended.stdout
    (card,) = json.loads(Path("card.json").read_text())
    assert card["name"] == "linear"
    assert len(card["lines"]) == len(LAWS)
    assert {line["outcome"] for line in card["lines"]} == {"holds", "does not apply"}


def test_the_command_says_what_is_broken_and_ends_with_1():
    Path("my_leak.py").write_text(LEAK)
    ended = call(
        "check", "my_leak.py", "--mask", "{name: sliding_window, window: 3}", "--role", "cross"
    )
    assert ended.exit_code == 1, ended.output
    assert "BROKEN later tokens have no influence" in ended.stdout
    assert re.search(r"output \d moved by .* when token \d changed", ended.stdout)
    assert "smallest case: my_leak: cross-attention, mask sliding_window-3" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["liner"], "nothing is called `liner`; did you mean `linear`?"),
        (["my_file.py"], "plugin file my_file.py does not exist"),
        (["json"], "json registers no mechanism"),
        ([], "name a mechanism, a plugin file or a module; or give --all"),
        (["linear", "--all"], "or give --all"),
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
