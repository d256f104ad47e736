"""`attnkit rank`: what is trained and what is not, what stands in one table, what is refused."""

import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from attnkit.ablation.estimates import holm
from attnkit.ablation.plan_file import read_plan_file
from attnkit.ablation.ranking.cells import Plans, write_plan
from attnkit.ablation.ranking.code import without_words
from attnkit.ablation.ranking.output import FORMS, command, export, rows_beside, show_ranking
from attnkit.ablation.ranking.protocol import BASE, PARTS, VERSION, Part, Protocol, RankError
from attnkit.ablation.ranking.rank import prepare, rank, show_work
from attnkit.ablation.ranking.row import make_row, read_file, read_kept, read_row
from attnkit.ablation.ranking.speed import Moment, is_quiet
from attnkit.ablation.ranking.subject import Subject, subjects_named
from attnkit.ablation.ranking.table import read_ranking
from attnkit.ablation.timing import Timing
from attnkit.cli.main import app
from attnkit.recipe.shipped import located

TINY = (
    *("trainer.max_steps=2", "trainer.batch_size=4", "data.num_eval=8"),
    *("ablation.seeds=1", "ablation.tune={optimizer.lr: [1.0e-3, 1.0e-2]}"),
)
PROTOCOL = Protocol("tiny", {"parity": Part("rank_parity", {"tiny": TINY})})
HERE = {"device": "cpu", "processor": "One", "cores": 2, "torch": "2"}
QUIET = {
    **{"tokens_per_second": 9e4, "ms_per_token": 1.5, "training_bytes": 2**20, "is_quiet": True},
    "machine": HERE,
}
BUSY = {**QUIET, "is_quiet": False}

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)

PLUGIN = """
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

@ATTENTION.register("plain_copy")
class PlainCopy(MultiHead):
    "The base, by another name."
"""
PARTS_ALONE = """
from attnkit.masks import SlidingWindow
from attnkit.positions.rotary import Rotary
from attnkit.registry import MASKS, POSITIONS

@MASKS.register("my_window")
class MyWindow(SlidingWindow):
    "A window, by another name."

@POSITIONS.register("my_rotation")
class MyRotation(Rotary):
    "Rotations, by another name."
"""
LEAKY = """
import torch
from attnkit.attention.multi_head import MultiHead
from attnkit.registry import ATTENTION

@ATTENTION.register("leaky")
class Leaky(MultiHead):
    "Looks at the mean of all values, also of later ones."

    def mix(self, q, k, v, mask):
        return super().mix(q, k, v, mask) + v.mean(dim=2, keepdim=True)
"""


@pytest.fixture
def here(plugin_folder, monkeypatch):
    """A folder of one's own; no published table comes with the kit."""
    monkeypatch.setattr("attnkit.ablation.ranking.row.shipped_tables", list)
    (plugin_folder / "mine.py").write_text(PLUGIN)
    return plugin_folder


@pytest.fixture
def speeds(monkeypatch):
    """What the next measurements of speed find; each is used once."""
    found = []
    monkeypatch.setattr("attnkit.ablation.ranking.rank.speed_of", lambda *_: found.pop(0))
    monkeypatch.setattr("attnkit.ablation.ranking.rank.this_machine", lambda: HERE)
    return found


def numbers(ranking):
    return {
        row["name"]: [number.mean.mean for number in ranking.numbers[row["variant"]]]
        for row in ranking.rows
    }


@pytest.mark.slow
def test_only_what_is_missing_is_trained(here, launcher, speeds, tiny_samples):
    def ranked(*speed):
        launcher.started.clear()
        speeds.extend(speed)
        ranking, failures = rank(PROTOCOL, subjects_named(["mine.py"]))
        assert failures == []
        assert speeds == []
        return ranking, [key.split("/")[1].partition("-")[0] for key in launcher.started]

    first, started = ranked(QUIET, BUSY)
    # Two learning rates and a seed of each.
    assert started == [BASE] * 3 + ["plain_copy"] * 3
    # The same model under another name: what differs between rows is the mechanism alone.
    assert numbers(first)["plain_copy"] == numbers(first)[BASE]
    assert first.rows[1]["plugins"][0]["name"] == "mine.py"
    runs = here / "runs/rank/tiny-v2-parity"
    assert len(list(runs.glob("*/seed0/result.json"))) == 2, "ordinary runs"
    assert set(json.loads((runs / "ablation.json").read_bytes())["variants"]) == set(first.numbers)

    again, started = ranked(QUIET)
    assert started == []
    assert again.rows[1]["costs"]["speed"] == QUIET, "measured again, since others disturbed it"

    # As after a kill: no row, and one of its runs has no result.
    for path in (here / "runs/rank/rows/tiny-v2").glob("plain_copy-*.json"):
        path.unlink()
    (lost,) = runs.glob("plain_copy-*/seed0/result.json")
    lost.unlink()
    resumed, started = ranked(QUIET)
    assert started == ["plain_copy"]
    assert numbers(resumed) == numbers(first)

    (here / "mine.py").write_text(PLUGIN + "\nCHANGED = True\n")
    changed, started = ranked(QUIET)
    assert started == ["plain_copy"] * 3, "other code is another row, and repeats none"
    assert changed.rows[1]["variant"] != first.rows[1]["variant"]
    assert len(changed.rows) == 2
    (here / "mine.py").write_text(PLUGIN)
    restored, started = ranked()
    assert started == []
    assert restored.rows == resumed.rows


def test_a_dry_run_tells_the_cells_and_their_time(here, launcher, monkeypatch, capsys):
    def measured(recipes, *_):
        return dict.fromkeys(recipes, Timing(start=9.0, step=10.0, final=1.0))

    monkeypatch.setattr("attnkit.ablation.ranking.rank.measure", measured)
    show_work(prepare(PROTOCOL, subjects_named(["linear"])), PROTOCOL)
    said = capsys.readouterr().out
    assert "linear       0:01:03   3 runs" in said
    assert "protocol 2, tier tiny: 2 rows, about 0:02:06" in said
    assert launcher.started == []
    assert not (here / "runs").exists()


KILLED = """
import json
from pathlib import Path
from rank_tests import PROTOCOL, numbers
from attnkit.ablation.ranking.subject import subjects_named
from attnkit.ablation.ranking.rank import rank

if __name__ == "__main__":  # each run is a fork that imports this file
    ranking, failures = rank(PROTOCOL, subjects_named(["linear"]))
    assert failures == []
    assert all(row["costs"]["speed"]["ms_per_token"] > 0 for row in ranking.rows)
    Path("table.json").write_text(json.dumps(numbers(ranking)))
"""


@pytest.mark.slow
def test_an_interrupted_or_killed_rank_ends_with_the_same_table(tmp_path):
    tables = []
    for name, kill in (("whole", 0), ("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rank_tests.py").write_text(Path(__file__).read_text())
        (folder / "go.py").write_text(KILLED)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        start = [sys.executable, "go.py"]
        if kill:
            process = subprocess.Popen(start, cwd=folder, env=environment)
            while len(list(folder.glob("runs/rank/*/*/seed*/result.json"))) < 5:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.05)
            os.kill(process.pid, kill)
            assert process.wait() != 0
            assert not list(folder.glob("runs/rank/rows/*/linear-*.json"))
        subprocess.run(start, cwd=folder, env=environment, check=True)
        tables.append(json.loads((folder / "table.json").read_text()))
    assert tables[0] == tables[1] == tables[2]


# The table, of rows that nobody has trained

JUDGED = Protocol(
    "tiny",
    {
        "parity": Part("rank_parity", {"tiny": (*TINY, "data.test_lengths=[]")}),
        "copy": Part("rank_copy", {"tiny": ("ablation.metric=loss",)}),
    },
)


def table(plans):
    return read_ranking(plans, read_kept(plans.protocol))


def write_row(plans, mechanism, accuracy, loss, **more):
    """Leaves the file of a row with these numbers, one per seed."""
    protocol = plans.protocol

    def task(metric, values):
        by_seed = {str(seed): value for seed, value in enumerate(values)}
        return {"numbers": {metric: by_seed}, "tuned": {"optimizer.lr": 0.01}, "edge": None}

    variant = plans.variant(Subject(mechanism))
    row = {
        **{"format": 2, "protocol": protocol.version, "tier": protocol.tier, "complete": True},
        **{"name": mechanism, "mechanism": mechanism, "keys": [], "variant": variant},
        **{"formula": "f", "paper": "p", "plugins": [], "position": "rotary", "changes": {}},
        "tasks": {"parity": task("accuracy", accuracy), "copy": task("loss", loss)},
        "costs": {"parameters": 10, "cache_bytes": {"1024": 2048, "16384": 1}, "speed": QUIET},
        **{"machine": {"packages": {}}, "commit": "abc", "date": "2026-01-01"},
        **more,
    }
    folder = Path("runs/rank/rows") / protocol.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row['variant']}.json"
    path.write_text(json.dumps(row))
    return path


SEEDS = [0.0, 0.01, -0.01, 0.02, -0.02]


def around(value, by=1.0):
    return [value + by * noise for noise in SEEDS]


@pytest.fixture
def plans(here):
    made = Plans(JUDGED)
    write_row(made, BASE, around(0.5), around(2.0))
    return made


def test_verdicts_need_holm_and_the_noise_floor(plans, capsys):
    write_row(plans, "linear", around(0.9, by=-1), around(2.5))
    write_row(plans, "gated", around(0.51), around(2.0, by=0.9))
    ranking = table(plans)
    words = {
        row["mechanism"]: [number.verdict for number in ranking.numbers[row["variant"]]]
        for row in ranking.rows
    }
    assert words[BASE] == [None, None]
    assert words["linear"] == ["better", "worse"]
    # 0.01 at every seed: certain, but two sets of seeds of the base differ by more.
    assert words["gated"] == ["within noise", "within noise"]
    assert ranking.floors[0] == pytest.approx(2.776 * 0.01581 / 5**0.5 * 2**0.5, rel=1e-3)
    # Each row is corrected alone: with many others, nothing changes.
    judged = ranking.numbers[plans.variant(Subject("linear"))]
    alone = holm([number.difference.p for number in judged])
    assert [number.p_holm for number in judged] == pytest.approx(alone)
    assert "at most about 0.1 of 2 rows have such a word" in ranking.notes()[0]
    assert list(words) == [BASE, "linear", "gated"], "the best first"

    outs = [Path(f"table{suffix}") for suffix in FORMS]
    export(ranking, outs)
    texts = {out.suffix: out.read_text() for out in outs}
    assert "| linear | 0.900 ± 0.020 better | 2.500 ± 0.020 worse | 10 |" in texts[".md"]
    assert "attnkit rank multi_head linear gated --tier tiny" in texts[".md"]
    assert "Without a row so far: additive, average, " in texts[".md"]
    assert len(texts[".csv"].splitlines()) == 1 + 3 * 2
    assert len(json.loads(texts[".json"])["rows"]) == 3
    assert '"ranking.js"' in texts[".html"]
    show_ranking(ranking)
    printed = capsys.readouterr().out
    assert "0.900 better" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_what_is_not_comparable_is_told(plans):
    path = write_row(plans, "linear", around(0.9), around(2.0), protocol=0)
    write_row(plans, "relu", around(0.9), around(2.0), complete=False)
    other = path.parent.parent / "tiny-v0"
    other.mkdir()
    (other / "x.json").write_text("{}")
    ranking = table(plans)
    assert [row["mechanism"] for row in ranking.rows] == [BASE]
    said = "\n".join(ranking.notes())
    for words in (
        "linear of protocol 0, tier tiny: rows of two protocols are never mixed",
        "relu, which is not complete",
        "1 row of version 0 of the protocol",
    ):
        assert words in said


def test_a_row_of_other_code_and_a_speed_of_another_machine_are_marked(plans):
    write_row(plans, "sink", around(0.9), around(2.0), variant="sink-00000000")
    other = {**QUIET, "machine": {**HERE, "processor": "Two"}}
    costs = {"parameters": 10, "cache_bytes": {"1024": 2048, "16384": 1}, "speed": other}
    write_row(plans, "gated", around(0.8), around(2.0), costs=costs)
    ranking = table(plans)
    assert ranking.changed == ["sink"]
    assert ranking.elsewhere == ["gated"]
    text = FORMS[".md"](ranking)
    assert "| sink § | 0.900 ± 0.020 better |" in text
    assert "90.0k‡ | 1.05MB‡ | 1.5‡ |" in text
    assert text.count("90.0k |") == 2, "the base and sink"
    assert "§ the mechanism has other code now" in text
    # A row of the present code counts more than a newer one of other code.
    write_row(plans, "sink", around(0.7), around(2.0), date="2025-01-01")
    assert numbers(table(plans))["sink"][0] == pytest.approx(0.7)


def test_a_cache_that_a_mechanism_of_limited_length_cannot_fill_has_no_size(plans):
    """Its costs are counted before it is trained."""
    costs = prepare(JUDGED, subjects_named(["synthesizer"])).costs["synthesizer"]
    sizes = costs["cache_bytes"]
    assert sizes["1024"] > 0
    assert sizes["16384"] is None
    write_row(plans, "synthesizer", around(0.9), around(2.5), costs=costs)
    (line,) = (
        line for line in FORMS[".md"](table(plans)).splitlines() if "| synthesizer |" in line
    )
    assert line.endswith(" | - | - | - | - |"), line


def test_a_speed_of_another_machine_is_measured_again_if_its_row_is_named(plans, monkeypatch):
    write_row(plans, "linear", around(0.9), around(2.5))
    here = dict(HERE)
    monkeypatch.setattr("attnkit.ablation.ranking.rank.this_machine", lambda: here)
    assert not prepare(JUDGED, subjects_named(["linear"])).busy
    here["processor"] = "Two"
    assert list(prepare(JUDGED, subjects_named(["linear"])).busy) == ["linear"]


@pytest.mark.parametrize(
    ("own", "others", "quiet"),
    [(10.0, 0.5, True), (10.0, None, True), (9.0, 0.0, False), (9.9, 10.0, False)],
)
def test_a_measurement_is_quiet_if_nothing_else_uses_the_machine(own, others, quiet):
    began = Moment(wall=5.0, own=1.0, all=None if others is None else 70.0)
    ended = Moment(15.0, 1.0 + own, None if others is None else 70.0 + own + others)
    assert is_quiet(began, ended, cores=2) is quiet


def test_the_time_of_all_processes_includes_this_one():
    began = Moment.now()
    while time.process_time() < began.own + 0.2:
        pass
    ended = Moment.now()
    if ended.all is None:
        pytest.skip("the system does not tell the time of all processes")
    assert ended.all - began.all >= 0.15  # counted in hundredths of a second


def test_rows_of_several_sessions_share_a_table_that_grows(plans, here, monkeypatch):
    """A published table counts like rows that were made here, wherever it is."""
    write_row(plans, "linear", around(0.9), around(2.5))
    assert export(table(plans), [Path("zoo.md")]) == [Path("zoo.md"), Path("zoo.json")]
    shutil.rmtree("runs")
    tables = rows_beside([Path("zoo.md")], JUDGED)
    work = prepare(JUDGED, subjects_named(["mine.py", "linear"]), tables)
    assert list(work.finished) == [BASE, "linear"]
    assert list(work.cells) == ["plain_copy"], "neither the base nor a shipped row is trained again"
    write_row(plans, "gated", around(0.8), around(2.0))
    grown, failures = rank(JUDGED, [], tables)
    assert (failures, list(numbers(grown))) == ([], [BASE, "linear", "gated"])
    export(grown, [Path("zoo.md")])
    assert len(read_file(Path("zoo.json"), ("rows",))["rows"]) == 3

    # The kit's own table needs no --out.
    shutil.rmtree("runs")
    monkeypatch.setattr("attnkit.ablation.ranking.row.shipped_tables", lambda: [here / "zoo.json"])
    assert list(numbers(table(plans))) == [BASE, "linear", "gated"]


def test_the_base_of_the_plan_is_the_base_also_without_its_runs(plans):
    write_row(plans, "linear", around(0.9), around(2.5))
    cell = plans.cell("copy", Subject("linear"))
    (cell.study.directory / cell.variant).mkdir(parents=True)
    write_plan(cell, table(plans).rows)
    plan = read_plan_file(cell.study.directory)
    assert plan is not None
    assert plan.base == plans.variant(Subject(BASE))
    assert list(plan.variants) == [plan.base, cell.variant]


def test_tables_of_two_protocols_are_never_mixed(plans):
    write_row(plans, "linear", around(0.9), around(2.5))
    export(table(plans), [Path("zoo.md")])
    content = json.loads(Path("zoo.json").read_text())

    def beside(**changes):
        Path("zoo.json").write_text(json.dumps({**content, **changes}))
        return rows_beside([Path("zoo.html")], JUDGED)

    assert beside() == [Path("zoo.json")]
    assert beside(protocol=1) == [], "it does not count, and is overwritten on request alone"
    kept = read_kept(JUDGED, [Path("zoo.json")])
    assert kept.left_out == [
        "2 rows of version 1 of the protocol: rows of two are never mixed (zoo.json)"
    ]
    with pytest.raises(RankError, match=r"zoo\.json has rows of protocol 3, tier tiny; these are"):
        beside(protocol=3)
    with pytest.raises(RankError, match=r"has rows of protocol 2, tier gpu"):
        beside(tier="gpu")
    with pytest.raises(RankError, match=r"zoo\.json has format 1, this attnkit writes format 2"):
        beside(format=1)
    for text, words in (
        ("{", "is not a JSON file, or a damaged one"),
        ("[1]", "is not a row or table of attnkit rank"),
        ('{"format": 2}', "is not a row or table of attnkit rank: it has no `protocol`"),
        (
            '{"format": 2, "protocol": "two"}',
            "is not a row or table of attnkit rank: its `protocol` is not a whole number",
        ),
        (
            '{"format": 2, "protocol": 2, "tier": "minutes", "rows": 1}',
            "is not a row or table of attnkit rank: its `rows` is not a list",
        ),
    ):
        Path("zoo.json").write_text(text)
        ended = CliRunner().invoke(app, ["rank", "--out", "zoo.html", "--dry-run"])
        assert ended.exit_code == 2
        assert ended.output.startswith(f"error: zoo.json {words}")
        assert ended.output.endswith("; remove it, or choose another --out\n")
    Path("zoo.json").write_text(json.dumps({**content, "protocol": 1, "tier": "minutes"}))
    ended = CliRunner().invoke(app, ["rank", "--out", "zoo.html"])  # which does not exist yet
    assert ended.exit_code == 2
    assert "--out zoo.json exists" in ended.output


def test_an_untuned_rate_a_lost_run_and_a_busy_machine_are_told(plans):
    path = write_row(plans, "linear", around(0.9), around(2.0))
    row = json.loads(path.read_text())
    row["tasks"]["parity"] |= {"edge": "largest", "tuned": {"optimizer.lr": 0.03}}
    row["tasks"]["copy"] = {"numbers": {}, "tuned": {}, "edge": None, "failed": "diverged"}
    row["costs"]["speed"] = BUSY
    path.write_text(json.dumps(row))
    ranking = table(plans)
    text = FORMS[".md"](ranking)
    assert "| linear | 0.900 ± 0.020 better† | diverged |" in text
    assert "beyond it. parity (largest, 0.03): linear." in text
    assert "measured while other processes used the cores" in text


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM")
def test_the_page_sorts_in_a_browser(plans, here):
    playwright = pytest.importorskip("playwright.sync_api")
    write_row(plans, "linear", around(0.9), around(2.5))
    path = write_row(plans, "gated", around(0.7), around(1.0))
    row = json.loads(path.read_text())
    row["tasks"]["copy"] = {"numbers": {}, "tuned": {}, "edge": None, "failed": "diverged"}
    row["formula"] = "<script>alert(1)</script>"
    row["tasks"]["parity"]["curve"] = {"steps": [10, 20, 30], "loss": [3.0, 2.0, 1.0]}
    path.write_text(json.dumps(row))
    export(table(plans), [Path("table.html")])
    said = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(color_scheme="dark")
        shown.set_default_timeout(300_000)  # milliseconds; against hanging alone
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: said.append(dialog.message))
        shown.goto((here / "table.html").as_uri())
        names = shown.locator("tbody th")
        assert names.all_text_contents() == [BASE, "linear", "gated"]
        head = shown.locator("thead th").filter(has_text="copy")
        for order in ("ascending", "descending"):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == order
            expected = [BASE, "linear"] if order == "ascending" else ["linear", BASE]
            assert names.all_text_contents() == [*expected, "gated"], "no number comes last"
        shown.locator("tbody button", has_text="gated").click()
        details = shown.locator(".details")
        assert details.locator("figcaption").all_text_contents() == ["parity"]
        assert "no runs here; to train them: attnkit rank gated" in details.text_content()
        shown.locator("tbody button", has_text="gated").click()
        assert details.text_content() == ""
        browser.close()
    assert said == []


# Rows with keys, and learning rates


def test_a_row_may_have_its_own_mask_and_options(plans):
    window = "multi_head mask={name: sliding_window, window: 8}"
    (named,) = subjects_named([window.replace("mask", "model.mask")])
    assert named.name == window
    assert named.changes(4) == {
        "model.attention": {"name": "multi_head", "num_heads": 4},
        "model.mask": {"name": "sliding_window", "window": 8},
    }
    work = prepare(JUDGED, [named, *subjects_named(["grouped_query attention.num_kv_heads=1"])])
    recipes = {name: cells["copy"].recipe.model for name, cells in work.cells.items()}
    assert recipes[window]["mask"].options["window"] == 8
    assert (
        recipes["grouped_query attention.num_kv_heads=1"]["attention"].options["num_kv_heads"] == 1
    )
    assert list(work.finished) == [BASE], "a row with keys is another row"


def test_a_plugin_of_a_mask_or_position_belongs_to_the_rows_that_use_it(plans, here):
    (here / "parts.py").write_text(PARTS_ALONE)
    masked = "multi_head mask={name: my_window, window: 8}"
    words = [masked, "mine.py position=my_rotation", "linear", "parts.py"]
    subjects = subjects_named(words)
    mine, parts = (str(here / name) for name in ("mine.py", "parts.py"))
    assert {subject.name: subject.plugins for subject in subjects} == {
        masked: (parts,),
        "plain_copy position=my_rotation": (mine, parts),
        "linear": (),
    }
    assert subjects_named(reversed(words)) == subjects[::-1]
    before = [plans.variant(subject) for subject in subjects]
    cell = prepare(JUDGED, subjects[:1]).cells[masked]["copy"]
    assert (cell.recipe.plugins, cell.recipe.model["mask"].name) == ((parts,), "my_window")
    row = make_row(JUDGED, {"copy": cell}, {"copy": {}}, {})
    assert [plugin["name"] for plugin in row["plugins"]] == ["parts.py"]

    (here / "parts.py").write_text(f"{PARTS_ALONE}CHANGED = True\n")
    after = [plans.variant(subject) for subject in subjects_named(words)]
    assert [x == y for x, y in zip(before, after, strict=True)] == [False, False, True]
    (here / "parts.py").write_text(PARTS_ALONE)
    assert [plans.variant(subject) for subject in subjects_named(words)] == before

    for subject in subjects:
        plugins = [{"name": Path(name).name, "sha256": "0"} for name in subject.plugins]
        named = {
            "name": subject.name,
            "keys": list(subject.keys),
            "variant": plans.variant(subject),
        }
        write_row(plans, subject.mechanism, around(0.5), around(2.0), plugins=plugins, **named)
    assert sorted(shlex.split(command(table(plans)))[2:-2]) == sorted([BASE, *words])


def test_rates_are_tried_until_the_best_is_not_at_an_end(here, monkeypatch):
    grid = "ablation.tune={optimizer.lr: [1.0e-4, 3.0e-4, 1.0e-3, 3.0e-3, 1.0e-2, 3.0e-2]}"
    plans = Plans(Protocol("tiny", {"parity": Part("rank_parity", {"tiny": (*TINY[:-1], grid)})}))
    cell = plans.cell("parity", Subject(BASE))

    def tried(losses, begun=()):
        def loss(trial):
            return losses.get(trial.recipe.optimizer.options["lr"], math.inf)

        def is_finished(trial):
            return trial.recipe.optimizer.options["lr"] in losses

        monkeypatch.setattr("attnkit.ablation.ranking.cells.loss_of", loss)
        monkeypatch.setattr(
            "attnkit.ablation.ranking.cells.RowTrial.is_finished", property(is_finished)
        )
        return [each.trial.recipe.optimizer.options["lr"] for each in cell.tried(begun)]

    assert tried({}) == [1e-3, 3e-3, 1e-2]
    assert tried({1e-3: 3.0, 3e-3: 1.0, 1e-2: 2.0}) == [1e-3, 3e-3, 1e-2]
    lowest = {1e-3: 1.0, 3e-3: 2.0, 1e-2: 3.0}
    assert tried(lowest) == [3e-4, 1e-3, 3e-3, 1e-2]
    assert tried({**lowest, 3e-4: 2.0}) == [3e-4, 1e-3, 3e-3, 1e-2]
    assert tried({**lowest, 3e-4: 0.5}) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert tried({1e-3: 3.0, 3e-3: 2.0, 1e-2: 1.0, 3e-2: 0.5}) == [1e-3, 3e-3, 1e-2, 3e-2]
    # One that has begun and has no result has diverged: it is no reason to stop.
    (lost,) = [each.trial.key for each in cell.tried() if "0.01" in each.trial.key]
    assert tried({1e-3: 1.0, 3e-3: 2.0}, [lost]) == [3e-4, 1e-3, 3e-3, 1e-2]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["linear", "--tier", "gpu"], "--tier gpu needs a CUDA GPU, and torch finds none here"),
        (["linaer"], "nothing is called `linaer`; did you mean `linear`"),
        (["linear", "--out", "table.txt"], "--out table.txt: the name must end in .md"),
        ([], "has no row of the base multi_head"),
        (["pre_norm"], "pre_norm is not a mechanism, so the table has no row"),
        pytest.param(["leaky.py"], "leaky breaks a law: ", marks=pytest.mark.slow),
        (["linformer"], "linformer has no row: the task "),
        (
            ["linear model.dim=3"],
            "linear dim=3: a row has no key `dim` (known: mask, position, layers, attention.",
        ),
        (["linear maskk=causal"], "a row has no key `maskk`; did you mean `mask`?"),
        (["linear head_dim=8"], "no key `head_dim`; did you mean `attention.head_dim`?"),
        (
            ["multi_head window=8"],
            "no key `window`; did you mean `mask={name: NAME, window: ...}`?",
        ),
        (["linear attention.foo=3"], "a row has no key `attention.foo` (known: mask, "),
        (["linear attention.num_heads=2"], "every row has the heads of the base; remove"),
        (
            ["multi_head mask={name: causal, foo: 3}"],
            "cannot take it: model.mask.foo: unknown key (known: none)\n",
        ),
        (
            ["fails.py", "--dry-run"],
            "fails.py:11: NameError: name 'lost' is not defined\n(`attnkit check fails.py`",
        ),
        (["linear", "mask=causal"], "in one word: 'multi_head mask=causal'"),
        (["multi_head attention.name=linear"], "begins with its mechanism; write 'linear' instead"),
        (["linear", "--out", "."], "--out .: the name must end in .md"),
        (
            ["linear", "parts.py"],
            "attnkit rank parts.py 'multi_head mask=my_window position=my_rotation'",
        ),
        (
            ["parts.py mask=my_window"],
            "no mechanism that could have keys; name both: attnkit rank parts.py 'multi_head mask=",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(arguments, words, here):
    (here / "leaky.py").write_text(LEAKY)
    (here / "parts.py").write_text(PARTS_ALONE)
    (here / "fails.py").write_text(LEAKY.replace("leaky", "fails").replace("v.mean", "lost"))
    ended = CliRunner().invoke(app, ["rank", *arguments])
    assert ended.exit_code == 2, ended.output
    assert words in ended.output
    assert not (here / "runs").exists()


def test_a_damaged_row_is_refused(here):
    broken = here / "row.json"
    broken.write_text("{}")
    with pytest.raises(RankError, match=r"row\.json is not a row or table of attnkit rank"):
        read_row(broken)


# The protocol


def test_every_tier_has_a_valid_study_of_every_task(here):
    for tier in ("minutes", "hours", "gpu"):
        plans = Plans(Protocol(tier, PARTS))
        for task in PARTS:
            changes = plans.changes(task, Subject("linear"))
            assert changes["model.attention"]["name"] == "linear"
            assert "model.position" not in changes
            assert plans.changes(task, Subject("mamba2"))["model.position"] == "none"


def test_what_changes_numbers_raises_the_version():
    """Rows of one version are compared wherever and whenever they were made."""

    def keys(path):
        found = yaml.safe_load(path.read_text())
        parent = found.pop("extends", None)
        return [*(keys(path.parent / parent) if parent else ()), found]

    content = [
        [task, keys(located(Path(part.recipe))), dict(part.changes)] for task, part in PARTS.items()
    ]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    assert (VERSION, digest) == (2, "427bee26"), (
        "the recipes of the protocol have changed: raise VERSION, and write both here"
    )


def test_comments_and_docstrings_are_no_code():
    one = without_words('"""A."""\ndef f():\n    "B"\n    return 1  # C\n')
    assert one == without_words('"""D."""\ndef f():\n    "E"\n\n    return 1\n')
    assert one != without_words('"""A."""\ndef f():\n    "B"\n    return 2\n')
