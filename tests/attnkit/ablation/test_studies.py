"""What the server sends to the Ablations page: the table of compare, the state of each run, curves;
and what else may lie in a log directory.
"""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.page import states as states_of_runs
from attnkit.ablation.page.folders import find_studies
from attnkit.ablation.page.loader import AblationsLoader
from attnkit.ablation.page.studies import Studies
from attnkit.ablation.page.view import rounded
from attnkit.ablation.tables import comma_separated, grid, latex
from attnkit.ablation.trial_files import failure_of, log_of
from attnkit.pages import serving
from attnkit.pages.log_folders import directories_of, log_folders
from attnkit.pages.serving import entry_of
from attnkit.storage import run_directory
from attnkit.storage.run_directory import write_json


def studies_of(root):
    return Studies({root: ""})


def view_of(root, study="small", base=None, metric=None):
    return studies_of(root).view(study, base, metric)


def curves_of(root, *, tag=None, metric=None, seeds=False):
    return json.loads(studies_of(root).curves("small", tag, metric, seeds))


def states(view):
    return {
        f"{variant['name']}/{run['seed']}": run["state"]
        for variant in view["variants"]
        for run in variant["runs"]
    }


def write_plan(folder, variants, seeds, **more):
    plan = {"version": 1, "name": folder.name, "base": variants[0], "metric": "loss"}
    write_json(
        folder / "ablation.json",
        {**plan, "variants": {name: {} for name in variants}, "seeds": seeds} | more,
    )


@pytest.mark.parametrize(("base", "metric"), [(None, None), ("same", "bits_per_byte")])
def test_the_table_is_that_of_compare(finished_study, base, metric):
    table = view_of(finished_study.parent, base=base, metric=metric)["table"]
    wanted = compare_runs([finished_study], base=base, metric=metric)
    assert table["columns"] == grid(wanted).columns
    assert table["notes"] == grid(wanted).notes
    assert list(table["rows"]) == [row.variant for row in wanted.rows]
    for row, words in zip(wanted.rows, grid(wanted).rows, strict=True):
        told = table["rows"][row.variant]
        assert told["words"] == words
        assert (told["mean"], told["low"], told["high"]) == (
            row.value.mean,
            row.value.low,
            row.value.high,
        )


def test_the_curve_of_a_variant_is_the_mean_of_its_finished_seeds(finished_study):
    run = finished_study / "better/seed3"
    (run / "result.json").unlink()
    curves = curves_of(finished_study.parent)
    base, better, same = curves["curves"]
    noise = np.array([0.01, -0.02, 0.015, -0.005])
    assert curves["tag"] == "loss/val"
    assert curves["tags"] == ["loss/train", "loss/val"]
    assert curves["steps"][base["steps"]] == [0, 5, 10]
    assert base["mean"] == pytest.approx([3, 2 + noise.mean(), 1 + noise.mean()], abs=1e-5)
    assert base["low"] == pytest.approx([3, 1.98, 0.98])
    assert (base["n"], better["n"], same["n"]) == (4, 3, 4)
    assert base["per"]["tokens"] == 128
    (so_far,) = curves["seeds"]
    assert (so_far["variant"], so_far["seed"], so_far["finished"]) == (1, 3, False)
    assert so_far["values"] == pytest.approx([3, 1.5, 0.8025])
    assert len(curves_of(finished_study.parent, seeds=True)["seeds"]) == 12
    assert curves_of(finished_study.parent, tag="loss/train")["curves"][0]["mean"][0] == 4


def test_the_curve_is_that_of_the_metric_where_all_variants_log_it(make_run, tmp_path):
    make_run("base", 0, metrics={"accuracy": 0.5}, curve={0: 0.1, 5: 0.5}, tag="quality/accuracy")
    assert curves_of(tmp_path / "runs", metric="accuracy")["tag"] == "quality/accuracy"
    make_run("other", 0, metrics={"accuracy": 0.5}, curve={0: 3.0, 5: 1.0})
    assert curves_of(tmp_path / "runs", metric="accuracy")["tag"] == "loss/val"


def test_each_run_of_a_plan_has_a_state(finished_study):
    write_plan(finished_study, ["base", "better", "same", "new"], [0, 1, 2, 3])
    for seed in (1, 2, 3):
        (finished_study / f"better/seed{seed}/result.json").unlink()
    log = log_of(finished_study, "better", 2)
    log.parent.mkdir()
    log.write_text("small/better  5/10  loss 1.5  0:00:09 left\n")
    log_of(finished_study, "better", 3).write_text("Traceback\n\nValueError: <b>x\x1b[0m</b>\n")
    failure_of(finished_study, "better", 3).write_text("failed (code 1)\n")
    with run_directory.in_use(finished_study / "better/seed2"):
        view = view_of(finished_study.parent)
        (listed,) = studies_of(finished_study.parent).list()
    told = states(view)
    assert told["base/0"] == told["better/0"] == "finished"
    assert [told[f"better/{seed}"] for seed in (1, 2, 3)] == ["stopped", "running", "failed"]
    assert {told[f"new/{seed}"] for seed in range(4)} == {"queued"}
    assert not view["complete"]
    _, _, running, failed = next(v for v in view["variants"] if v["name"] == "better")["runs"]
    assert running["text"] == "5/10  loss 1.5  0:00:09 left"
    assert failed["text"] == "failed (code 1)"
    assert failed["lines"] == ["Traceback", "ValueError: <b>x\\u001b[0m</b>"]
    assert not [note for note in view["table"]["notes"] if "unfinished" in note]
    assert listed["counts"] == {
        "finished": 9,
        "running": 1,
        "failed": 1,
        "halved": 0,
        "stopped": 1,
        "queued": 4,
    }


def test_a_plan_whose_first_run_has_just_begun(make_run, tmp_path):
    run = make_run("base", 0, curve={0: 3.0, 5: 2.0})
    (run / "result.json").unlink()
    write_plan(run.parents[1], ["base", "better"], [0, 1])
    view = view_of(tmp_path / "runs")
    assert (view["problem"], view["table"]) == (None, None)
    assert states(view)["better/1"] == "queued"
    curves = curves_of(tmp_path / "runs")
    assert (len(curves["curves"]), curves["seeds"][0]["values"]) == (0, [3, 2])


def test_a_study_that_tunes_says_how_far(make_run, finished_study, monkeypatch):
    tune = {"optimizer.lr": [0.1, 0.2], "optimizer.momentum": "0..1"}
    written = {"tune": tune, "drawn": {"draws": 3}, "tuned": {"base": {"optimizer.lr": 0.1}}}
    write_plan(finished_study, ["base", "new"], [0], **written)
    for name in ("base,lr=0.1", "base,lr=0.2", "new,lr=0.1"):
        make_run(name, 1, study="small.tuning")
    tuning = finished_study.with_name("small.tuning")
    failure = failure_of(tuning, "new,lr=0.2", 1)
    failure.parent.mkdir()
    failure.write_text("diverged (code 3)\n")
    assert view_of(finished_study.parent)["tuning"] is None  # no process trains it
    monkeypatch.setattr(states_of_runs, "is_in_use", lambda path: path == finished_study)
    assert view_of(finished_study.parent)["tuning"] == {"ended": 4, "total": 2 * 3 * 2}
    write_plan(finished_study, ["base"], [0], **written)
    assert view_of(finished_study.parent)["tuning"] is None


def test_a_study_grows_while_it_is_looked_at(make_run, tmp_path):
    studies = studies_of(tmp_path / "runs")
    run = make_run("base", 0, 1.0, curve={0: 3.0})
    assert studies.view("small", None, None)["table"]["rows"]["base"]["mean"] == 1.0
    assert json.loads(studies.curves("small", None, None, False))["steps"] == [[0]]
    result = json.loads((run / "result.json").read_text())
    result["metrics"]["loss"] = 0.25
    write_json(run / "result.json", result)
    (run / "metrics.jsonl").write_text('{"step": 7, "loss/val": 2.5}\n')
    assert studies.view("small", None, None)["table"]["rows"]["base"]["mean"] == 0.25
    curves = json.loads(studies.curves("small", None, None, False))
    assert (curves["steps"], curves["curves"][0]["mean"]) == ([[0, 7]], [3, 2.5])


# Bad input


def test_what_cannot_be_read_is_told_beside_the_rest(finished_study):
    (finished_study / "same/seed0/result.json").write_text('{"metrics": {"lo')
    (finished_study / "base/seed1/events.out.tfevents.9.other").write_bytes(b"\x07" * 999)
    (finished_study / "other program").mkdir()
    (finished_study / "other program/events.out.tfevents.1.x").write_bytes(b"\xff" * 99)
    view = view_of(finished_study.parent)
    assert view["table"]["rows"]["same"]["words"][2] == "3"
    (note,) = [note for note in view["table"]["notes"] if "same/seed0" in note]
    assert "result.json cannot be read" in note
    assert len(curves_of(finished_study.parent)["curves"]) == 3


@pytest.mark.parametrize("content", ["{", '{"version": 99}', '{"version": 1, "base": "x"}'])
def test_a_plan_that_cannot_be_read(finished_study, content):
    (finished_study / "ablation.json").write_text(content)
    view = view_of(finished_study.parent)
    assert "ablation.json" in view["problem"]
    assert view["table"] is None
    assert states(view)["base/0"] == "finished"
    (listed,) = studies_of(finished_study.parent).list()
    assert listed["counts"]["finished"] == 12


def test_choices_that_do_not_exist(finished_study):
    assert "no such variant" in view_of(finished_study.parent, base="none")["problem"]
    view = view_of(finished_study.parent, metric="none")
    assert "no run has it" in view["problem"]
    assert view["metrics"]["loss"] == 12


def test_a_metric_that_only_some_runs_have(make_run, tmp_path):
    make_run("base", 0, metrics={"accuracy": 0.5})
    make_run("base", 1)
    make_run("other", 0, metrics={"accuracy": 0.25})
    view = view_of(tmp_path / "runs", metric="accuracy")
    assert view["metrics"]["accuracy"] == 2
    assert view["table"]["rows"]["base"]["words"][2] == "1"
    assert any("it has no accuracy" in note for note in view["table"]["notes"])


def test_a_study_that_is_moved_or_partly_deleted(finished_study):
    studies = studies_of(finished_study.parent)
    assert studies.has("small")
    shutil.rmtree(finished_study / "same/seed2")
    table = studies.view("small", None, None)["table"]
    assert table["rows"]["same"]["words"][2] == "3"
    assert any("same: paired over the seeds that both have: 0, 1, 3" in n for n in table["notes"])
    finished_study.rename(finished_study.with_name("moved"))
    assert studies.view("small", None, None)["table"] is None
    assert studies_of(finished_study.parent).has("moved")


def test_two_studies_of_one_name_are_two(make_run, tmp_path):
    make_run("base", 0, 1.0)
    (tmp_path / "runs/later").mkdir()
    (tmp_path / "runs/small").rename(tmp_path / "runs/later/small")
    make_run("base", 0, 2.0)
    studies = studies_of(tmp_path / "runs")
    assert [one["id"] for one in studies.list()] == ["later/small", "small"]
    for study, loss in (("later/small", 1.0), ("small", 2.0)):
        assert studies.view(study, None, None)["table"]["rows"]["base"]["mean"] == loss


def test_numbers_are_rounded_to_six_digits():
    values = np.array([1.23456789, -1e-9, 0, np.nan, np.inf, 123456789, 3e38])
    told = rounded(values.astype(np.float32))
    assert told[3:5] == [None, None]
    kept = [told[i] for i in (0, 1, 2, 5, 6)]
    assert kept == pytest.approx([1.23457, -1e-9, 0, 123457000, 3e38], rel=1e-5)


# Finding studies


def test_the_log_directory_may_be_anything_of_a_study(finished_study):
    for root, study in (
        (finished_study.parent, "small"),
        (finished_study, "."),
        (finished_study / "base", "."),
        (finished_study / "base/seed0", "."),
    ):
        (found,) = find_studies({root: ""}).values()
        assert found.id == study
        assert studies_of(root).view(study, None, None)["table"]["rows"]


def test_groups_have_the_names_that_tensorboard_gives_them(finished_study):
    folders = log_folders(None, f"mine:{finished_study.parent},{finished_study}")
    assert folders == {finished_study.parent: "mine", finished_study: ""}
    (study,) = find_studies({finished_study.parent: "mine"}).values()
    assert study.id == "mine/small"
    assert "mine/small/base/seed0" in study.runs.values()
    for run in ("mine/small/base/seed0", "base/seed0"):
        held = [each for each in directories_of(run, folders) if each.is_dir()]
        assert held == [finished_study / "base/seed0"]
    assert log_folders("gs://bucket/logs", None) == {}
    assert log_folders(None, "far:s3://bucket") == {}


def test_folders_of_tuning_and_hidden_ones_are_no_studies(make_run, tmp_path):
    make_run("base", 0)
    for name in (".hidden", "small.tuning"):
        shutil.copytree(tmp_path / "runs/small", tmp_path / "runs" / name)
    (tmp_path / "runs/small/loop").symlink_to(tmp_path / "runs")
    assert list(find_studies({tmp_path / "runs": ""})) == ["small"]


# The routes


@pytest.fixture
def client(finished_study):
    flags = Namespace(logdir=str(finished_study.parent), logdir_spec="")
    plugin = AblationsLoader().load(TBContext(flags=flags))
    assert plugin.is_active()
    routes = plugin.get_plugin_apps()

    def application(environment, start):
        path = environment["PATH_INFO"]
        return routes["/static/*" if "/static/" in path else path](environment, start)

    return Client(application)


def test_files_are_those_of_compare(client, finished_study):
    found = compare_runs([finished_study], base="same")
    for form, wanted in (("csv", comma_separated), ("tex", latex)):
        answer = client.get(f"/export?study=small&base=same&form={form}")
        assert answer.get_data(as_text=True) == wanted(found)


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/study", 400, "lacks `study`"),
        ("/study?study=../..", 404, "there is no study"),
        ("/export?study=small&form=exe", 400, "`form` must be one of csv"),
        ("/export?study=small&form=csv&metric=none", 422, "no run has it"),
    ],
)
def test_errors_have_a_code_and_words(client, path, code, words):
    answer = client.get(path)
    assert answer.status_code == code
    assert words in answer.json["error"]


def test_an_answer_that_the_page_has_is_not_sent_again(client, finished_study):
    for path in ("/studies", "/study?study=small", "/curves?study=small"):
        first = client.get(path)
        known = {"If-None-Match": first.headers["ETag"]}
        again = client.get(path, headers=known)
        assert (first.status_code, again.status_code, again.data) == (200, 304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
    run = finished_study / "base/seed1"
    (run / "metrics.jsonl").write_text('{"step": 7, "loss/val": 2.5}\n')
    assert client.get("/curves?study=small", headers=known).status_code == 200
    assert client.get("/curves?study=small&tag=loss/train", headers=known).status_code == 200


def test_the_first_module_asks_for_all_others_at_once(client):
    """Else a browser asks for them level by level."""
    sent = client.get("/static/main.js").get_data(as_text=True)
    imported = re.findall(r'import "\./([\w.]+)";', sent)
    needed = {"main.js"}
    for name in needed | set(imported):
        text = client.get(f"/static/{name}").get_data(as_text=True)
        needed |= set(re.findall(r'from "\./([\w.]+)"', text))
    assert {"main.js", *imported} == needed


def test_a_browser_keeps_static_files_until_one_changes(client, tmp_path, monkeypatch):
    entry = entry_of("attnkit.ablation.page")
    folder = entry.removesuffix("main.js")
    for name in ("main.js", "page.js", "theme.css"):
        kept, asked = client.get(f"{folder}{name}"), client.get(f"/static/{name}")
        assert kept.data == asked.data
        assert "max-age" in kept.headers["Cache-Control"]
        assert "no-cache" in asked.headers["Cache-Control"]
    monkeypatch.setattr(serving, "read_static", lambda *place: "changed")
    assert entry_of("attnkit.ablation.page") != entry


def test_tensorboard_finds_the_plugin_and_loads_nothing_heavy():
    """Each start of TensorBoard imports it, also where nobody has a study."""
    (entry,) = importlib.metadata.entry_points(group="tensorboard_plugins", name="ablations")
    assert entry.load() is AblationsLoader
    code = """
import sys
from argparse import Namespace
import tensorboard.program, tensorboard.plugins.base_plugin, tensorboard.backend.http_util
from tensorboard.plugins.base_plugin import TBContext
before = set(sys.modules)
from attnkit.ablation.page.loader import AblationsLoader
AblationsLoader().load(TBContext(flags=Namespace(logdir="."))).get_plugin_apps()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"torch", "lightning", "torchmetrics", "omegaconf", "yaml", "rich", "typer"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_a_study_the_page_is_inactive(tmp_path):
    plugin = AblationsLoader().load(TBContext(flags=Namespace(logdir=str(tmp_path))))
    assert not plugin.is_active()
    assert AblationsLoader().load(TBContext(flags=Namespace(logdir="gs://x"))) is None
