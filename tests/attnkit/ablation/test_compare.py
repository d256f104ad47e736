"""Finished runs become rows: grouping, pairing, verdicts, remarks, and what is left out."""

import json
from pathlib import Path

import pytest

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.tables import grid, latex, markdown
from attnkit.ablation.trial_files import failure_of, log_of
from attnkit.storage.run_directory import RunDirectoryError, write_json


def rows_of(comparison):
    return {row.variant: row for row in comparison.rows}


def reasons(comparison):
    return {run.directory.name: run.reason for run in comparison.left_out}


def plan(folder, **changed):
    write_json(
        folder / "ablation.json",
        {
            "version": 1,
            "name": folder.name,
            "base": "base",
            "variants": {"base": {}, "better": {"model.dim": 32}, "same": {}},
            "seeds": [0, 1, 2, 3],
            **changed,
        },
    )


# What is in the table


def test_a_study_has_a_row_a_variant_and_the_right_verdicts(finished_study):
    found = compare_runs([finished_study])
    rows = rows_of(found)
    assert list(rows) == ["base", "better", "same"]
    assert [row.verdict for row in found.rows] == [None, "better", "within noise"]
    assert [row.value.n for row in found.rows] == [4, 4, 4]
    assert rows["better"].difference.mean == pytest.approx(-0.2)
    assert rows["base"].difference is None
    assert found.num_verdicts == 2
    assert rows["better"].mean_of("parameters") == 6848
    assert rows["better"].cache_bytes_per_token == 4096 / 16
    assert not found.left_out


def test_the_verdict_turns_with_base_and_direction(finished_study):
    found = rows_of(compare_runs([finished_study], base="better"))
    assert (found["base"].verdict, found["better"].verdict) == ("worse", None)
    assert found["base"].difference.mean == pytest.approx(0.2)
    found = rows_of(compare_runs([finished_study], higher_is_better=True))
    assert found["better"].verdict == "worse"


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("perplexity", True),
        ("accuracy", False),
        ("bleu_test2016", False),
        ("alignment_error_rate_test", True),
    ],
)
def test_which_way_a_metric_is_better_is_known_by_its_name(make_run, tmp_path, metric, lower):
    make_run("base", 0, metrics={metric: 0.5})
    assert compare_runs([tmp_path], metric=metric).lower_is_better is lower


def test_differences_are_paired_by_seed(make_run, tmp_path):
    """Seeds scatter a hundred times as much as variants differ; pairs tell them apart anyway."""
    for seed, level in enumerate([1.0, 3.0, 2.0, 5.0]):
        make_run("base", seed, level)
        make_run("other", seed, level - 0.02 - 0.001 * seed)
    row = rows_of(compare_runs([tmp_path]))["other"]
    assert row.verdict == "better"
    assert row.difference.half_width < 0.01 < row.value.half_width


def test_holm_takes_back_what_many_comparisons_find_by_chance(make_run, tmp_path):
    """p = 0.03 alone is a difference; as one of four it is none."""
    noise = [0.0, 0.1, -0.1, 0.02]
    for seed in range(4):
        make_run("base", seed, 1.0)
        make_run("a", seed, 1.1 + noise[seed] / 2.1)
    alone = rows_of(compare_runs([tmp_path]))["a"]
    assert alone.verdict == "worse"
    for name in "bcd":
        for seed in range(4):
            make_run(name, seed, 1.0 + noise[seed])
    among = rows_of(compare_runs([tmp_path]))["a"]
    assert among.difference.p == alone.difference.p
    assert among.p_holm == pytest.approx(4 * alone.difference.p)
    assert among.verdict == "within noise"


def test_the_same_mechanism_under_another_name_is_within_noise(make_run, tmp_path):
    for seed in range(8):
        make_run("base", seed, 1.0 + seed / 9)
        make_run("twin", seed, 1.0 + seed / 9)
    row = rows_of(compare_runs([tmp_path]))["twin"]
    assert (row.difference.mean, row.difference.half_width) == (0.0, 0.0)
    assert (row.p_holm, row.verdict) == (1.0, "within noise")


def test_one_seed_is_no_verdict(make_run, tmp_path):
    make_run("base", 0)
    make_run("one", 0, 0.5)
    make_run("elsewhere", 7, 0.5)
    rows = rows_of(compare_runs([tmp_path]))
    assert rows["one"].no_verdict == "one seed: no verdict"
    assert rows["one"].difference.mean == -0.5
    assert rows["one"].value.half_width is None
    assert rows["elsewhere"].no_verdict == "no seed in common"
    assert not any(row.verdict for row in rows.values())


def test_the_same_run_twice_is_one(finished_study):
    found = compare_runs([finished_study, finished_study / "better", finished_study / "base/seed1"])
    assert [row.value.n for row in found.rows] == [4, 4, 4]


def test_paths_may_be_runs_variants_or_folders_of_studies(finished_study):
    found = compare_runs(
        [finished_study / "base", finished_study / "better/seed0", finished_study / "better/seed2"]
    )
    rows = rows_of(found)
    assert list(rows) == ["base", "better"]
    assert list(rows["better"].values) == [0, 2]
    assert "paired over the seeds that both have: 0, 2" in rows["better"].remarks
    assert len(compare_runs([finished_study.parent.parent]).rows) == 3


def test_a_plan_is_found_from_within_its_folders(finished_study, monkeypatch):
    plan(finished_study, base="better")
    monkeypatch.chdir(finished_study / "better/seed0")
    assert compare_runs([Path(".")]).rows[0].variant == "better"
    monkeypatch.chdir(finished_study / "base")
    assert compare_runs([Path("seed1"), Path("../better")]).base == "better"


def test_several_studies_keep_their_names_apart(make_run, tmp_path):
    for seed in range(3):
        make_run("base", seed, 1.0 + seed / 100, study="first")
        make_run("base", seed, 2.0 - seed / 100, study="second")
    found = compare_runs([tmp_path])
    assert [row.variant for row in found.rows] == ["first/base", "second/base"]
    assert found.base == "first/base"
    assert found.rows[1].verdict == "worse"


def test_variants_are_in_the_order_of_numbers(make_run, tmp_path):
    for name in ("heads-16", "heads-2", "base", "heads-8"):
        make_run(name, 0)
    rows = compare_runs([tmp_path]).rows
    assert [row.variant for row in rows] == ["base", "heads-2", "heads-8", "heads-16"]


# A plan


def test_a_plan_says_base_metric_order_and_what_is_missing(finished_study, make_run):
    for run in finished_study.glob("*/*/result.json"):
        record = json.loads(run.read_text())
        record["metrics"]["score"] = 1 - record["metrics"]["loss"]
        write_json(run, record)
    make_run("tried_once", 0)
    plan(
        finished_study,
        base="same",
        metric="score",
        lower_is_better=False,
        variants={"better": {}, "same": {}, "base": {}, "planned": {}},
        seeds=[0, 1, 2],
        tuned={"better": {"optimizer.lr": 0.02}, "base": {"optimizer.lr": 0.1}},
        edges={"base": "largest"},
        changed_to_match={"better": {"model.mlp_dim": 70}},
        match="parameters",
    )
    refused = failure_of(finished_study, "planned", 2)
    refused.parent.mkdir()
    refused.write_text("was refused (code 2)\n")
    log_of(finished_study, "planned", 2).write_text("loading\nerror: planned breaks a law\n(why)\n")
    found = compare_runs([finished_study])
    rows = rows_of(found)
    assert (found.base, found.metric, found.lower_is_better) == ("same", "score", False)
    assert list(rows) == ["same", "better", "base"]
    assert [row.value.n for row in found.rows] == [3, 3, 3]
    assert rows["better"].verdict == "better"
    assert rows["better"].remarks == (
        "tuned: optimizer.lr=0.02",
        "changed to match parameters: model.mlp_dim=70",
    )
    assert rows["base"].remarks[0] == (
        "not tuned: the best candidate is at an end of the grid (largest, optimizer.lr=0.1), "
        "a better one may be beyond it"
    )
    said = [
        f"{run.directory.parent.name}/{run.directory.name}: {run.reason}" for run in found.left_out
    ]
    assert "tried_once/seed0: the study small has no variant tried_once" in said
    assert "base/seed3: the study small has no seed 3" in said
    assert "planned/seed1: planned, not started yet" in said
    assert "planned/seed2: was refused (code 2): planned breaks a law" in said
    assert len(said) == 3 + 1 + 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 2}, "ablation.json has version 2, but this attnkit reads version 1"),
        ({"base": "gone"}, "its base `gone` is not one of its variants"),
        ({"variants": 3}, "cannot be read"),
        ({"halving": 3}, "cannot be read"),
        ({"stopped": {"better": {"rung": "x", "step": 1}}}, "`stopped` needs whole numbers"),
    ],
)
def test_a_plan_that_cannot_be_used(finished_study, changed, message):
    plan(finished_study, **changed)
    with pytest.raises(RunDirectoryError, match=message):
        compare_runs([finished_study])


# Fairness


def test_another_python_makes_other_text_and_is_named(make_run, tmp_path):
    """The docstrings of the standard library are not the same in two versions."""
    for variant, python in (("base", "3.11.2"), ("newer", "3.12.1")):
        source = {"source": "docstrings", "python": python, "sha256": python * 13}
        make_run(variant, 0, data={"source": source, "train": {"tokens": len(python)}})
    assert rows_of(compare_runs([tmp_path]))["newer"].remarks == (
        "other data than the base (source (python 3.12.1, the base 3.11.2))",
    )


def test_speeds_are_compared_among_runs_that_had_the_machine_alike(make_run, tmp_path):
    """Else the column is marked, and a footnote says why; the verdict on the loss stays."""
    alike = {"threads": 2, "neighbours": 1.0, "resumed": [{"step": 3}]}
    machines = {
        "base": alike,
        "alike": alike | {"neighbours": 1.2},
        "resumed": alike | {"resumed": [{"step": 1}, {"step": 5}]},
        "threads": alike | {"resumed": [{"step": 3, "threads": 1}]},
        "alone": alike | {"neighbours": 0.0, "resumed": []},
        "unknown": {key: alike[key] for key in ("threads", "resumed")},
    }
    for variant, machine in machines.items():
        for seed in (0, 1):
            directory = make_run(variant, seed, curve={0: 2.0, 6: 1.0})
            environment = json.loads((directory / "environment.json").read_text())
            (directory / "environment.json").write_text(json.dumps(environment | machine))
    found = compare_runs(tmp_path)
    remarks = {name: row.speed_remarks for name, row in rows_of(found).items()}
    assert remarks["base"] == remarks["alike"] == ()
    assert remarks["resumed"] == (
        "resumed: seed 0 after step 5 (the base after step 3), "
        "seed 1 after step 5 (the base after step 3)",
    )
    assert remarks["threads"] == ("threads 1, the base 2",)
    assert remarks["alone"] == (
        "0.0 runs beside it on average, the base 1.0",
        "resumed: seed 0 never (the base after step 3), seed 1 never (the base after step 3)",
    )
    assert remarks["unknown"] == ("an unknown number of runs beside it, the base 1.0",)
    table = grid(found)
    column = table.columns.index("tokens/s")
    marked = {words[0] for words in table.rows if words[column].endswith("†")}
    assert marked == {"resumed", "threads", "alone", "unknown"}
    assert "† threads: speed not comparable: threads 1, the base 2" in table.notes
    assert "†" in markdown(found)
    assert r"$\dagger$" in latex(found)
    row = next(each for each in found.to_dict()["variants"] if each["variant"] == "threads")
    assert row["speed_remarks"] == ["threads 1, the base 2"]
    timed = grid(compare_runs(tmp_path, metric=["seconds_to:loss:1.5", "loss"]))
    first = {words[0]: words[1] for words in timed.rows}
    assert first["threads"].endswith("†")
    assert not first["alike"].endswith("†")


def test_two_processors_are_two_machines(make_run, tmp_path):
    for seed in (0, 1):
        make_run("base", seed, computed_by="AMD EPYC, AVX512")
        make_run("same", seed, computed_by="AMD EPYC, AVX512")
        make_run("other", seed, computed_by="AMD EPYC, AVX2")
        make_run("earlier", seed)  # runs of earlier versions know `cpu` alone
    rows = rows_of(compare_runs([tmp_path]))
    assert rows["same"].remarks == rows["earlier"].remarks == ()
    assert rows["other"].remarks == (
        "device AMD EPYC, AVX2 (base AMD EPYC, AVX512): do not compare speed or memory",
    )


def test_an_unfair_comparison_is_remarked(make_run, tmp_path):
    for seed in (0, 1):
        make_run("base", seed)
        make_run("fair", seed, parameters=6848 * 1.009)
        make_run("large", seed, parameters=6848 * 2)
        make_run("longer", seed, steps=12, tokens=768 * 2)
        make_run("elsewhere", seed, data={"train": {"tokens": 7}}, device="NVIDIA H100")
        make_run("part", seed, validation_share=0.25)
        make_run("unknown", seed, unknown_share=0.605)
        make_run("stopped", seed, status="stopped")
        make_run("half", seed, validation_part="second_half")
    rows = rows_of(compare_runs([tmp_path]))
    assert rows["base"].remarks == rows["fair"].remarks == ()
    assert rows["large"].remarks == ("parameters: 13,696, the base 6,848 (2.0 times)",)
    assert rows["longer"].remarks == (
        "steps: 12, the base 6 (2.0 times)",
        "training tokens: 1,536, the base 768 (2.0 times)",
    )
    assert rows["elsewhere"].remarks == (
        "other data than the base (train)",
        "device NVIDIA H100 (base cpu): do not compare speed or memory",
    )
    assert rows["part"].remarks == (
        "validated on another part of the split: 25.0% of all, the base on all",
    )
    assert rows["unknown"].remarks == (
        "60.50% of its validation tokens are unknown to its vocabulary",
    )
    assert rows["half"].remarks == (
        "validated on another part of the split: second_half, the base on all",
    )
    assert rows["stopped"].remarks[0] == "seed 0 stopped early, at step 6"


def test_where_files_lay_is_no_other_data(make_run, tmp_path):
    for name in ("base", "moved"):
        make_run(name, 0, data={"source": {"files": [{"path": name, "sha256": "1"}]}})
    assert rows_of(compare_runs([tmp_path]))["moved"].remarks == ()


def test_losses_of_two_tasks_are_never_ranked(make_run, tmp_path):
    for seed in range(4):
        make_run("base", seed, 1.0 + seed / 100, data={"source": "text"})
        make_run("sums", seed, 0.01, task="synthetic", data={"source": "sums"})
    row = rows_of(compare_runs([tmp_path]))["sums"]
    assert (row.verdict, row.no_verdict) == (None, "other task")
    told = "trains another task: synthetic, the base language_modeling"
    assert [remark for remark in row.remarks if "task" in remark or "data" in remark] == [told]


def test_a_loss_that_is_none_is_never_called_better(make_run, tmp_path):
    for seed in range(4):
        make_run("base", seed, 1.0 + seed / 100)
        make_run("unmasked", seed, 0.01, loss_is_language_modeling=False)
    row = rows_of(compare_runs([tmp_path]))["unmasked"]
    assert (row.verdict, row.no_verdict) == (None, "not comparable")
    assert "its predictions see the tokens that they predict" in row.remarks[0]


# What is left out


def test_what_cannot_be_compared_is_listed_with_its_reason(make_run, tmp_path, finished_study):
    def spoil(seed, file, text):
        directory = make_run("spoilt", seed)
        if text is None:
            (directory / file).unlink()
        else:
            (directory / file).write_text(text)

    spoil(0, "result.json", None)
    spoil(1, "result.json", "{")
    spoil(2, "result.json", "{}")
    spoil(3, "environment.json", '{"packages": {"attnkit": "0.2.0"}}')
    spoil(4, "environment.json", None)
    spoil(5, "recipe.yaml", "model: [")
    make_run("spoilt", 6, metrics={"loss": float("nan")})
    make_run("spoilt", 7)
    spoil(8, "environment.json", "[" * 100_000)
    spoil(9, "recipe.yaml", "seed: " + "9" * 5000)
    found = compare_runs([tmp_path])
    said = reasons(found)
    assert said["seed0"].startswith("unfinished: no result.json (attnkit resume ")
    assert said["seed1"].startswith("result.json cannot be read: ")
    assert said["seed2"] == (
        "result.json lacks metrics, steps, tokens, parameters, training_flops_per_token"
    )
    assert said["seed3"] == "made by attnkit 0.2.0, this is 0.1.0"
    assert said["seed4"] == "there is no environment.json"
    assert said["seed5"].startswith("recipe.yaml cannot be read: ")
    assert said["seed6"] == "its loss is nan"
    assert rows_of(found)["spoilt"].value.n == 1
    assert said["seed8"] == "environment.json cannot be read: nested too deeply"
    assert said["seed9"].startswith("recipe.yaml cannot be read: ")
    assert len(found.left_out) == 9


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("steps", None, "result.json lacks steps"),
        ("metrics", [], "result.json: metrics is '[]'"),
        ("validation_part", None, "result.json: validation_part is 'None'"),
        ("validation_share", "most", "result.json: validation_share is 'most'"),
        ("unknown_share", {}, "result.json: unknown_share is '{}'"),
        ("max_seq_len", "x", "result.json: max_seq_len is 'x'"),
        ("tokens_per_second", float("inf"), "result.json: tokens_per_second is not finite"),
    ],
)
def test_a_result_of_other_types_is_left_out(make_run, tmp_path, key, value, reason):
    make_run("base", 0)
    file = make_run("spoilt", 1) / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert reasons(compare_runs([tmp_path])) == {"seed1": reason}


def test_hidden_and_tuning_folders_are_not_looked_into(make_run, tmp_path):
    make_run("base", 0)
    make_run("base", 0, study="small.tuning")
    run = make_run("other", 0)
    run.parent.rename(run.parent.with_name(".hidden"))
    assert list(rows_of(compare_runs([tmp_path]))) == ["base"]


# Bad input


def refusal(*paths, **options):
    with pytest.raises(RunDirectoryError) as refused:
        compare_runs(paths, **options)
    return str(refused.value)


def test_two_runs_of_one_name_are_refused(make_run, tmp_path):
    first = make_run("base", 0)
    (tmp_path / "copies").mkdir()
    second = first.parent.parent.rename(tmp_path / "copies/small") / "base/seed0"
    first = make_run("base", 0)
    assert refusal(tmp_path) == (
        f"{second} and {first} are both seed 0 of the variant base; name one of them only, or "
        "rename the folder of its variant"
    )
    second.parent.rename(second.parent.with_name("before"))
    assert list(rows_of(compare_runs([tmp_path]))) == ["base", "before"]


def test_a_seed_that_was_copied_does_not_count_twice(make_run, tmp_path):
    run = make_run("base", 0)
    copy = run.with_name("seed1")
    copy.mkdir()
    for name in ("recipe.yaml", "environment.json", "result.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    assert "are both seed 0 of the variant base" in refusal(tmp_path)


def test_paths_without_runs(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "does not exist; give the directory of a run" in refusal(tmp_path / "none")
    assert "is a file; give the directory of a run" in refusal(tmp_path / "file")
    assert "there is no run under" in refusal(tmp_path / "empty")
    run = make_run("base", 0)
    (run / "result.json").unlink()
    said = refusal(tmp_path)
    assert "no run under" in said
    assert f"{run}: unfinished" in said


def test_a_plan_that_names_none_of_the_runs(finished_study):
    plan(finished_study, base="other", variants={"other": {}})
    assert "the study small has no variant base" in refusal(finished_study)


def test_unknown_names(finished_study):
    assert refusal(finished_study, metric="los") == (
        "--metric los: no run has it; did you mean `loss`? (known: loss, bits_per_byte, perplexity)"
    )
    assert refusal(finished_study, base="bas") == (
        "--base bas: no such variant; did you mean `base`? (known: base, better, same)"
    )


def test_a_base_that_is_not_finished(finished_study):
    plan(finished_study)
    for result in (finished_study / "base").glob("*/result.json"):
        result.unlink()
    assert "the base `base` has no finished run" in refusal(finished_study)
    assert compare_runs([finished_study], base="same").base == "same"
