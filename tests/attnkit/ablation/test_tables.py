"""The table in every form: whole, escaped, and with the same numbers."""

import csv
import io
import json
import re

import pytest

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.tables import (
    as_json,
    comma_separated,
    grid,
    latex,
    markdown,
    short,
    visible,
)

HOSTILE = "a|b<script>_&%$#{}~^*`\\"


@pytest.fixture
def hostile(make_run, tmp_path):
    """Two variants, one of which has a name that every form must escape."""
    for seed in range(3):
        make_run("base", seed, 1.0 + seed / 50)
        run = make_run("other", seed, 0.5 + seed / 100, parameters=13_696)
    run.parent.rename(run.parent.with_name(HOSTILE))
    return compare_runs([tmp_path])


def test_the_words(finished_study):
    found = grid(compare_runs([finished_study]))
    assert found.title == "small: loss, lower is better"
    assert found.columns[:5] == ["variant", "loss", "seeds", "difference to base", "verdict"]
    assert found.rows[0][:5] == ["base", "1.0000 ± 0.0252", "4", "-", "base"]
    assert found.rows[1][3:6] == ["-0.2000 ± 0.0377", "better", "6.848k"]
    assert found.rows[1][-1] == "256"
    notes = " ".join(found.notes)
    assert "paired by seed (Student's t interval)" in notes
    assert "after Holm's correction for 2 comparisons; the intervals are not corrected" in notes
    assert "4 seeds are few" in notes
    assert "a difference of two standard deviations in about 48 % of cases" in notes


def test_one_seed_is_told_as_such(make_run, tmp_path):
    make_run("base", 0)
    make_run("other", 0, 0.9)
    found = grid(compare_runs([tmp_path]))
    assert found.rows[1][1:5] == ["0.9000", "1", "-0.1000", "one seed: no verdict"]
    assert found.notes == [
        "One seed: no interval and no verdict; train more with seed=1, seed=2, ..."
    ]


def test_json_holds_all_numbers(finished_study):
    found = compare_runs([finished_study])
    read = json.loads(as_json(found))
    base, better, _ = read["variants"]
    assert better["seeds"] == {str(seed): value for seed, value in found.rows[1].values.items()}
    assert better["difference"] == found.rows[1].difference.mean
    assert better["difference_low"] < better["difference"] < better["difference_high"] < 0
    assert (better["method"], better["verdict"]) == ("t", "better")
    assert better["p"] <= better["p_holm"] < 0.05
    assert base["difference"] is None
    assert read["correction"] == "Holm over 2 comparisons"


def test_csv_holds_the_same_numbers(hostile):
    lines = list(csv.DictReader(io.StringIO(comma_separated(hostile))))
    read = json.loads(as_json(hostile))["variants"]
    assert [line["variant"] for line in lines] == ["base", HOSTILE]
    for line, row in zip(lines, read, strict=True):
        assert float(line["mean"]) == row["mean"]
        assert line["seeds"] == " ".join(f"{k}:{v!r}" for k, v in row["seeds"].items())
    assert lines[1]["remarks"] == "parameters: 13,696, the base 6,848 (2.0 times)"
    assert (lines[0]["base"], lines[0]["verdict"], lines[1]["verdict"]) == ("base", "", "better")


def test_markdown_is_a_table_whatever_the_names_are(hostile):
    head, rule, *rows = markdown(hostile).split("\n\n")[0].splitlines()
    columns = len(re.findall(r"(?<!\\)\|", head))
    assert len(rows) == 2
    for line in (rule, *rows):
        assert len(re.findall(r"(?<!\\)\|", line)) == columns
    assert "<script>" not in markdown(hostile)
    assert "- \\* " in markdown(hostile)


def test_latex_has_no_letter_that_means_something(hostile):
    text = latex(hostile)
    (row,) = (line for line in text.splitlines() if "script" in line and " & " in line)
    name = row.split(" & ")[0]
    assert name == (
        r"a\textbar{}b\textless{}script\textgreater{}\_\&\%\$\#\{\}\textasciitilde{}"
        r"\textasciicircum{}*`\textbackslash{}*"
    )
    assert "$-$0.5" in row
    assert text.count("&") - text.count(r"\&") == 9 * 3
    assert "\\toprule" in text


def test_letters_that_play_tricks_are_written_out():
    assert visible("a\x1b[31m\u202eb\n") == "a\\u001b[31m\\u202eb\\u000a"


@pytest.mark.parametrize(
    ("number", "words"),
    [(6848, "6.848k"), (202_112, "202.1k"), (1.234567e6, "1.235M"), (12, "12"), (0.5, "0.5"),
     (175e9, "175.0G"), (None, "-"), (999.96, "1000")],
)  # fmt: skip
def test_numbers_in_a_few_digits(number, words):
    assert short(number) == words


def test_numbers_of_half_a_split_are_called_that(make_run, tmp_path):
    for variant in ("base", "other"):
        make_run(variant, 0, validation_part="second_half")
    said = grid(compare_runs([tmp_path / "runs"])).notes
    assert "Validation numbers are from the second half of the split." in said
