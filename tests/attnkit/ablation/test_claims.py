"""Claims: what decides them, what they train, what they leave, and the cards that are shipped."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from attnkit.ablation.claims import ClaimError, ClaimReport, Judgement, judge, run_claims
from attnkit.ablation.evidence import read_evidence, table_of
from attnkit.ablation.map_numbers import row_sums
from attnkit.cli.main import app
from attnkit.recipe import ClaimOptions, RecipeError, load_recipe
from attnkit.recipe.shipped import shipped_claims

EVIDENCE = Path(__file__).parents[3] / "docs" / "claims"

CLAIM = ClaimOptions(
    says="It is right more often.",
    subject="new",
    number="accuracy",
    direction="higher",
    switched_off="off",
    by=0.1,
)
BASE = {0: 0.5, 1: 0.52, 2: 0.48}


def shifted(by, noise=0.0):
    return {seed: value + by + noise * (seed - 1) for seed, value in BASE.items()}


# What decides


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (shifted(0.3), "holds"),
        (shifted(0.0), "does not hold"),
        (shifted(-0.3), "does not hold"),
        (shifted(0.3, noise=0.1), "not decided"),
        (shifted(0.05), "does not hold"),  # better, but by less than is claimed
        ({0: 0.9}, "not decided"),  # one seed
        ({7: 0.9, 8: 0.9}, "not decided"),  # no seed in common
    ],
)
def test_the_interval_decides(values, word):
    assert judge(CLAIM, values, BASE).word == word
    lower = replace(CLAIM, direction="lower")
    mirrored = {seed: -value for seed, value in values.items()}
    assert judge(lower, mirrored, {seed: -value for seed, value in BASE.items()}).word == word


def test_a_loss_of_some_size_may_be_allowed():
    no_worse = replace(CLAIM, by=-0.05)
    assert judge(no_worse, shifted(-0.02), BASE).word == "holds"
    assert judge(no_worse, shifted(-0.2), BASE).word == "does not hold"


def test_a_ratio_decides():
    quarter = replace(CLAIM, direction="lower", by=None, times=4.0)
    whole = {0: 1024.0, 1: 1024.0}
    assert judge(quarter, {0: 256.0, 1: 256.0}, whole).word == "holds"
    assert judge(quarter, {0: 257.0, 1: 257.0}, whole).word == "does not hold"
    with pytest.raises(ClaimError, match="accuracy is 0, so it has no ratio"):
        judge(quarter, {0: 0.0}, {0: 1.0})


@pytest.mark.parametrize(
    ("off", "word"),
    [("does not hold", "holds"), ("not decided", "not decided"), ("holds", "not decided")],
)
def test_a_claim_that_holds_without_its_idea_is_not_decided(off, word):
    report = ClaimReport(
        "name", CLAIM, "base", Judgement("holds", None), Judgement(off, None), {}, {}
    )
    assert report.word == word


def test_numbers_of_maps():
    weights = torch.tensor([[[[1.0, 0, 0, 0], [0.5, -0.5, 0, 0], [0, 3, 1, 0], [0, 0, 0, 0]]]])
    allowed = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    sums, rows = row_sums(weights, allowed)
    assert rows == 3  # the first row sees one key
    entropy = torch.tensor(2.0).log() - (
        0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log()
    )
    expected = torch.stack([torch.tensor(0.5), torch.tensor(0 + 1 / 3 + 1), entropy])
    torch.testing.assert_close(sums, expected)


# What is trained and written


VARIANTS = {"trained": {}, "idle": {"optimizer.lr": 1e-9}, "also": {"optimizer.lr": 2e-9}, "no": {}}


def learns(seeds=2, **more):
    claim = {
        "says": "Training lowers the loss.",
        "subject": "trained",
        "base": "idle",
        "number": "loss",
        "direction": "lower",
        "by": 0.001,
        "switched_off": "also",
    }
    return {"variants": VARIANTS, "seeds": seeds, "claims": {"learns": {**claim, **more}}}


@pytest.mark.slow
def test_a_claim_trains_what_it_needs_and_leaves_its_evidence(study, launcher, tmp_path):
    file = study(**learns(also=["parameters"]))
    ended = CliRunner().invoke(app, ["claim", str(file)])
    assert ended.exit_code == 0, ended.output
    variants = [key.partition("/")[0] for key in launcher.started]
    assert sorted(set(variants)) == ["also", "idle", "trained"]
    assert "learns  holds at this size" in ended.output
    assert "switched off, loss of idle - also" in ended.output
    folder = tmp_path / "runs/study/claims"
    evidence = json.loads((folder / "learns.json").read_text())
    assert evidence["result"] == "holds"
    assert evidence["switched_off"]["result"] == "does not hold"
    assert set(evidence["numbers"]) == {"trained", "idle", "also"}
    assert set(evidence["numbers"]["idle"]["loss"]) == {"0", "1"}
    assert evidence["study"]["variants"]["idle"] == {"optimizer.lr": 1e-9}
    assert "learns" in (folder / "README.md").read_text()

    launcher.started.clear()
    out = tmp_path / "evidence"
    again = CliRunner().invoke(app, ["claim", str(file), "--out", str(out)])
    assert again.exit_code == 0, again.output
    assert launcher.started == []
    stored = read_evidence(out)["learns"]
    assert stored["numbers"] == evidence["numbers"]


def test_a_planted_claim_does_not_hold(load, launcher):
    """The subject is a twin of the base: nothing that it does lowers the loss."""
    (report,), failures = run_claims(load(**learns(subject="also", switched_off="also")))
    assert failures == []
    assert report.word == "does not hold"


def test_a_claim_may_have_more_seeds_than_its_study(study, launcher, tmp_path):
    keys = learns(seeds=3, subject="also", switched_off="also")
    keys["claims"]["more"] = {**keys["claims"]["learns"], "seeds": 4}
    file = study(**keys)
    for _ in range(2):  # the second time, the study has them all
        ended = CliRunner().invoke(app, ["claim", str(file)])
        assert ended.exit_code == 0, ended.output
    assert len(launcher.started) == 8
    found = read_evidence(tmp_path / "runs/study/claims")
    seeds = {name: [*each["numbers"]["idle"]["loss"]] for name, each in found.items()}
    assert seeds == {"learns": ["0", "1", "2"], "more": ["0", "1", "2", "3"]}
    launcher.started.clear()
    ended = CliRunner().invoke(app, ["claim", str(file), "ablation.seeds=5"])
    assert ended.exit_code == 0, ended.output
    assert sorted(launcher.started) == ["also/seed4", "idle/seed4"]
    assert ended.output.count("(5 seeds)") == 4


def test_a_quick_test_takes_fewer_steps_and_fails_where_a_claim_does_not_hold(
    study, launcher, tmp_path
):
    keys = learns(quick=3)
    keys["claims"]["planted"] = {**keys["claims"]["learns"], "subject": "also", "quick": 3}
    keys["claims"]["long"] = {**keys["claims"]["learns"], "quick": None}
    ended = CliRunner().invoke(app, ["claim", str(study(**keys)), "--quick"])
    assert ended.exit_code == 1, ended.output
    assert "learns  holds at this size" in ended.output
    assert (
        "planted: does not hold after 3 steps; its key `quick` says that it holds" in ended.output
    )
    assert "long" not in ended.output
    folder = tmp_path / "runs/study_quick_3"
    assert len(launcher.started) == 6
    assert json.loads((folder / "idle/seed0/result.json").read_text())["steps"] == 3
    assert not (folder / "claims").exists()


def test_a_dry_run_starts_nothing(study, launcher):
    ended = CliRunner().invoke(app, ["claim", str(study(**learns())), "--dry-run"])
    assert ended.exit_code == 0, ended.output
    assert "6 runs of 6 steps" in ended.output
    assert launcher.started == []


# What is refused


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"subject": "trianed"}, "no variant `trianed`; did you mean `trained`"),
        ({"switched_off": "off"}, "no variant `off`"),
        ({"base": "trained"}, "both `trained`"),
        ({"by": None}, "set either by, the smallest difference"),
        ({"times": 2.0}, "set either by, the smallest difference"),
        ({"direction": "up"}, "expected `higher` or `lower`"),
        ({"claims": "x"}, "claims.learns.claims: unknown key"),
        ({"quick": 0}, "claims.learns.quick: must be at least 1, got 0"),
    ],
)
def test_a_faulty_card_is_refused_with_its_place(more, words, study, launcher):
    file = study(**learns(**more))
    ended = CliRunner().invoke(app, ["claim", str(file)])
    assert ended.exit_code == 2
    assert words in ended.output
    assert launcher.started == []


def test_an_unknown_number_is_refused(load, launcher):
    with pytest.raises(ClaimError, match=r"claim learns: no run has the number los; did you mean"):
        run_claims(load(**learns(seeds=1, number="los")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sparsmax"], "there is no claim `sparsmax`; did you mean `sparsemax`"),
        (["quickstart.yaml"], "quickstart.yaml"),
        (["nofile.yaml"], "there is no such file (`attnkit recipes`"),
        (["my_attention.py"], "my_attention.py does not exist; give a claim, or a recipe with"),
        (["--dry-run"], "name the claims to test, or give --all"),
        (["--out", "evidence"], "name the claims to test, or give --all"),
        (["no_position", "--quick"], "claim no_position has no quick test"),
        (["--quick", "--out", "evidence"], "--quick writes no evidence; omit --out"),
    ],
)
def test_what_is_no_claim_is_refused(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["claim", *arguments])
    assert ended.exit_code == 2
    assert words in ended.output


def test_a_study_without_quick_claims_is_refused(study, launcher):
    ended = CliRunner().invoke(app, ["claim", str(study(**learns())), "--quick"])
    assert ended.exit_code == 2
    assert "no claim has a quick test (a key `quick`)" in ended.output


def test_evidence_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ClaimError, match=r"x\.json is not evidence of a claim"):
        read_evidence(tmp_path)
    (tmp_path / "x.json").write_text('{"version": 0, "name": "x"}')
    with pytest.raises(ClaimError, match="has version 0"):
        read_evidence(tmp_path)


# The cards that are shipped


def cards():
    """Name -> claim and the base of its study, of every card."""
    found = {}
    for file in dict.fromkeys(shipped_claims().values()):
        ablation = load_recipe(file).ablation
        base = ablation.base or next(iter(ablation.variants))
        found |= {name: (claim, base) for name, claim in ablation.claims.items()}
    return found


def stored_claim(found):
    return ClaimOptions(**{**found["claim"], "also": tuple(found["claim"]["also"])})


def test_every_card_has_its_evidence_and_a_counterpart_that_fails():
    evidence = read_evidence(EVIDENCE)
    assert set(evidence) == set(shipped_claims())
    for name, found in evidence.items():
        claim, base = cards()[name]
        tested = replace(claim, quick=None)
        assert stored_claim(found) == tested, f"{name} has changed; test it again"
        assert found["base"] == (claim.base or base)
        if claim.quick is not None:
            assert found["result"] == "holds", f"{name}: a quick test is of a claim that holds"
        assert found["switched_off"]["result"] == "does not hold", name
        assert found["result"] == found["subject"]["result"]
        study = load_recipe(shipped_claims()[name]).ablation.seeds
        wanted = claim.seeds or study
        wanted = range(wanted) if isinstance(wanted, int) else wanted
        for values in found["numbers"].values():
            assert sorted(map(int, values[claim.number])) == list(wanted), name
        assert len(wanted) >= 3, name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["delta_product", "multi_query"])
def test_a_quick_test_gives_the_result_of_the_card(name, tmp_path):
    ended = CliRunner().invoke(app, ["claim", name, "--quick", f"runs_dir={tmp_path}"])
    assert ended.exit_code == 0, ended.output
    word = read_evidence(EVIDENCE)[name]["result"]
    assert f"{name}  {word} at this size" in ended.output
    assert re.search(r"switched off, .*; does not hold", ended.output)


def test_the_results_follow_from_the_numbers():
    """What is stored as the result is what the stored numbers say."""
    for name, found in read_evidence(EVIDENCE).items():
        claim = stored_claim(found)
        of = {
            variant: {int(seed): value for seed, value in numbers[claim.number].items()}
            for variant, numbers in found["numbers"].items()
        }
        for role, variant in (("subject", claim.subject), ("switched_off", claim.switched_off)):
            judged = judge(claim, of[variant], of[found["base"]])
            assert judged.word == found[role]["result"], name
            assert judged.estimate.mean == pytest.approx(found[role]["mean"])


def test_the_table_is_that_of_the_evidence():
    table = (EVIDENCE / "README.md").read_text(encoding="utf-8")
    assert table == table_of(read_evidence(EVIDENCE))


def test_the_list_has_every_claim(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ended = CliRunner().invoke(app, ["claim"])
    assert ended.exit_code == 0, ended.output
    for name, (claim, _) in cards().items():
        assert name in ended.output
        assert claim.says in ended.output


def test_names_of_claims_differ():
    names = [
        name
        for file in dict.fromkeys(shipped_claims().values())
        for name in load_recipe(file).ablation.claims
    ]
    assert len(names) == len(set(names))


def test_a_study_without_claims_is_refused(load):
    with pytest.raises(ClaimError, match=r"has no section ablation\.claims"):
        run_claims(load(variants={"one": {}}))


def test_problems_name_their_line(study):
    with pytest.raises(RecipeError, match=r"study\.yaml:\d+:\d+: ablation\.claims\.learns\.base"):
        run_claims(load_recipe(study(**learns(base="nobody"))))
