"""attnkit ablate: what it shows, what it says, how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from attnkit.ablation import timing
from attnkit.ablation.launch import Launch, StudyStopped
from attnkit.ablation.launchers.base import Ended
from attnkit.ablation.launchers.local import Local
from attnkit.ablation.output import print_fitting
from attnkit.ablation.preview import show_plan
from attnkit.ablation.run_study import prepare_study, run_study
from attnkit.ablation.study_progress import Progress
from attnkit.ablation.timing import Timing, measure, time_recipe
from attnkit.ablation.tuning import candidates
from attnkit.cli.main import app
from attnkit.recipe import load_recipe
from attnkit.registry import ATTENTION


def call(*arguments):
    return CliRunner().invoke(app, ["ablate", *map(str, arguments)])


def test_flags_are_keys_of_the_section(study, launcher):
    ended = call(
        study(),
        "model.mlp=gelu,relu",
        "--seeds=0,2",
        "--budget=tokens=12800",
        "--match=flops",
        "ablation.base=mlp=relu",
        "--dry-run",
    )
    assert ended.exit_code == 0, ended.output
    rows = [line.split() for line in ended.stdout.splitlines() if line.startswith(" mlp=")]
    assert [row[0] for row in rows] == ["mlp=gelu", "mlp=relu"]
    assert rows[1][1] == "*"
    assert all(row[-2:] == ["100", "unknown"] for row in rows)
    assert "4 runs: 2 variants x 2 seeds" in ended.stdout
    assert "flops are those of the base" in ended.stdout
    assert not (Path(study()).parent / "runs").exists()


def test_the_preview_counts_and_estimates(load, capsys):
    recipe = load(
        variants={"one": {}, "wide": {"model.dim": 24}},
        match="parameters",
        tune={"optimizer.lr": [0.1, 0.2, 0.3]},
        seeds=5,
    )
    made, _ = prepare_study(recipe)
    timings = {name: Timing(start=5.0, step=1.0, final=1.0) for name in ("one", "wide")}
    show_plan(made, made.trials(), candidates(made), timings, workers=4)
    shown = capsys.readouterr().out
    one, wide = (line for line in shown.splitlines() if line.startswith((" one", " wide")))
    assert one.split()[-1] == wide.split()[-1] == "0:00:12"
    assert "\nwide: model.dim=24; to match: model.mlp_dim=" in shown
    assert "10 runs: 2 variants x 5 seeds" in shown
    assert "6 tuning runs choose" in shown
    assert "about 0:00:48 with 4 at a time" in shown  # 16 runs of 12 s
    show_plan(made, made.trials(), candidates(made), timings, workers=None)
    assert "from this machine's speed; it is measured again" in capsys.readouterr().out


def test_the_preview_says_what_was_not_timed_and_when_one_thread_is_faster(load, capsys):
    made, _ = prepare_study(load(variants={"one": {}, "wide": {"model.dim": 24}}))
    slow = Timing(start=5.0, step=1.0, final=1.0, one_thread=0.2, many_threads=0.9)
    show_plan(made, made.trials(), [], {"one": slow}, workers=2)
    shown = capsys.readouterr().out
    one, wide = (line for line in shown.splitlines() if line.startswith((" one", " wide")))
    assert (one.split()[-1], wide.split()[-1]) == ("0:00:12", "unknown")
    assert "with 2 at a time, and one variant that was not timed" in shown
    assert (
        "one thread is faster here: 0.2 s per step instead of 0.9; set OMP_NUM_THREADS=1" in shown
    )
    equal = replace(slow, one_thread=0.85)
    show_plan(made, made.trials(), [], {"one": equal, "wide": equal}, workers=2)
    shown = capsys.readouterr().out
    assert "one thread" not in shown
    assert "not timed" not in shown


def test_a_preview_takes_few_steps_of_a_slow_recipe(load):
    """A limit that is over allows one step and one validation batch; else warm-up and a second."""
    recipe = load().with_overrides("trainer.max_steps=100")
    timed = time_recipe(recipe, limit=0.0)
    assert timed.step > 0
    assert timed.one_thread is None  # this process has one already, or was not asked
    taken = []
    timing.mean_seconds((taken.append(i) for i in range(9)), torch.device("cpu"), ends=0.0)
    assert len(taken) == 1


@pytest.mark.parametrize("width", [80, 40])
def test_a_table_is_never_wider_than_the_terminal(width, monkeypatch, capsys):
    """It is split into parts, and a part into blocks, a row each."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [[f"heads={i},window=64,position=alibi", "1" * 12, "2" * 12, "3" * 12] for i in (1, 2)]

    def table(columns):
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i in columns:
            drawn.add_column(f"heading {i}", no_wrap=True)
        for row in rows:
            drawn.add_row(*(Text(row[i]) for i in columns))
        return drawn

    print_fitting(table(range(4)), [table([0, 1, 2]), table([0, 3])])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= width
    for row in rows:
        assert all(word in shown for word in row)


@pytest.mark.slow
def test_steps_are_timed_in_processes_like_those_of_trials(load, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.05)
    recipe = load().with_overrides("trainer.max_steps=100")
    here = time_recipe(recipe)
    assert 0 < here.step < 1
    assert here.final > 0
    assert here.seconds(100) == pytest.approx(here.start + 100 * here.step + here.final)
    broken = recipe.with_overrides("data={name: text, files: gone.txt}")
    with pytest.raises(timing.TimingError, match=r"gone\.txt"):
        measure({"broken": broken}, Local(1), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.attention.naem=a,b"], "model.attention.naem: unknown key"),
        (["model.mask=causal,document", "model.attention=linear"], "(in the variant `mask=docu"),
        (["--match=size"], "override ablation.match=size: ablation.match: expected `parameters`"),
        (["--budget=hours=1"], "unknown key"),
        (["--budget=1000"], "ablation.budget"),
        (["--budget=tokens=1"], "is not a whole number of steps"),
        (["model.dim=4,64", "--match=parameters"], "the nearest is 1"),
        (["--launcher=slrum"], "did you mean `slurm`?"),
        (["--workers=0"], "ablation.workers: must be at least 1"),
        (["data={name: text, files: gone.txt}"], "gone.txt"),
        (["name=a/b"], "is not allowed here"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(arguments, words, study, launcher):
    file = study()
    ended = call(file, *arguments)
    assert ended.exit_code == 2, ended.output
    assert ended.stderr.startswith("error: ")
    assert words in ended.stderr
    assert "Traceback" not in ended.output
    assert launcher.started == []
    assert not (file.parent / "runs").exists()


def test_a_failed_trial_makes_the_code_1(study, launcher):
    ended = call(study(), "optimizer.lr=0.01,1e38", "model.norm=none")
    assert ended.exit_code == 1
    assert "/seed0  diverged (code 3)" in ended.stderr
    assert "1 run failed; the same command retries them" in ended.stderr
    assert "lr=0.01" in ended.stdout  # the table of what there is
    assert "left out" in ended.stdout


LEAK = '''\
from attnkit import ATTENTION
from attnkit.attention.multi_head import MultiHead


@ATTENTION.register("sees_the_mean")
class SeesTheMean(MultiHead):
    """Values know the mean of the whole sequence."""

    def project_context(self, context):
        k, v = super().project_context(context)
        return k, v - v.mean(dim=2, keepdim=True)
'''


def test_a_refused_plugin_is_to_be_fixed_first(study, launcher, tmp_path, monkeypatch):
    known = {name: ATTENTION.get(name) for name in ATTENTION.names()}
    monkeypatch.setattr(ATTENTION, "_classes", known)  # other tests must not meet it
    (tmp_path / "leak.py").write_text(LEAK)
    ended = call(
        study(),
        f"plugins=[{tmp_path / 'leak.py'}]",
        "model.attention.name=multi_head,sees_the_mean",
        "model.mask=causal",
    )
    assert ended.exit_code == 1
    said = ended.stdout.replace("\n", "")
    assert (
        "sees_the_mean/seed0: was refused (code 2): model.attention: sees_the_mean breaks" in said
    )
    assert "fix the error first, then run the same command again" in ended.stderr
    assert "retries" not in ended.stderr


def test_a_signal_stops_the_trials_and_then_the_study(load, launcher, monkeypatch):
    """The loop asks the launcher to stop, waits for the ends, and says who asked."""
    made, _ = prepare_study(load(variants={"one": {}, "two": {}}))
    polled = []

    def ended(seconds):
        polled.append(seconds)
        if len(polled) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            return []
        assert stopped == [True]
        return [Ended(key, 143) for key in ("one/seed0", "two/seed0")]

    stopped: list[bool] = []
    monkeypatch.setattr(launcher, "ended", ended)
    monkeypatch.setattr(launcher, "stop", lambda: stopped.append(True))
    launch = Launch(launcher, Progress("loss"))
    with pytest.raises(StudyStopped, match="run the same command again") as raised:
        launch.run(made.trials())
    assert raised.value.number == signal.SIGTERM
    assert launch.failures == []
    assert len(polled) == 2


def test_who_does_not_end_in_time_is_killed(load, launcher, monkeypatch):
    made, _ = prepare_study(load(variants={"one": {}}))
    killed: list[bool] = []

    def ended(seconds):
        os.kill(os.getpid(), signal.SIGINT) if not killed else None
        return [Ended("one/seed0", -9)] if killed else []

    launcher.grace = 0.0
    monkeypatch.setattr(launcher, "ended", ended)
    monkeypatch.setattr(launcher, "kill", lambda: killed.append(True))
    with pytest.raises(StudyStopped):
        Launch(launcher, Progress("loss")).run(made.trials())
    assert killed == [True]


RECIPE = """
data: {name: text, files: TEXT}
tokenizer: char
model: {max_seq_len: 16, dim: 16, num_layers: 1, attention: {name: multi_head, num_heads: 2}}
trainer: {max_steps: 300, batch_size: 4, precision: 32, accelerator: cpu}
validation: {every_n_steps: 50, max_tokens: 64}
logging: {every_n_steps: 10, attention_maps: 0, samples: 0}
ablation:
  variants: {one: {}, two: {model.mlp: relu}}
  workers: 2
  launcher: {name: local, threads: 1}
"""


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_to_the_same_end(
    tmp_path, text_file, launcher, monkeypatch
):
    """With real processes: the launcher is interrupted while its trials train, and then killed.
    What remains runs in this process, as does a study that nobody disturbed.
    """
    monkeypatch.chdir(tmp_path)
    file, runs = tmp_path / "stopped.yaml", tmp_path / "runs"
    file.write_text(RECIPE.replace("TEXT", str(text_file)))

    def losses(folder):
        found = sorted((folder / "stopped").glob("*/seed0/result.json"))
        return {p.parts[-3]: json.loads(p.read_text())["metrics"]["loss"].hex() for p in found}

    def start():
        command = [sys.executable, "-m", "attnkit", "ablate", str(file)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)

    def checkpoints_of_one():
        manifest = runs / "stopped/one/seed0/checkpoints/manifest.json"
        return manifest.read_text() if manifest.exists() else None

    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before = checkpoints_of_one()
        with start() as launched:
            while checkpoints_of_one() == before and launched.poll() is None:
                time.sleep(0.02)
            launched.send_signal(number)
            _, said = launched.communicate()
        assert launched.returncode == code, said
        assert len(losses(runs)) < 2
    assert run_study(load_recipe(file))[1] == []

    undisturbed = tmp_path / "undisturbed"
    run_study(load_recipe(file, [f"runs_dir={undisturbed}"]))
    assert losses(runs) == losses(undisturbed)
    assert len(losses(runs)) == 2
