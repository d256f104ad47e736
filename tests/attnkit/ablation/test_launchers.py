"""Launchers start processes, tell of their ends, and end them with patience."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnkit.ablation.launchers.base import KILLED, Job
from attnkit.ablation.launchers.forked import Forked
from attnkit.ablation.launchers.local import Local, visible_gpus
from attnkit.registry import LAUNCHERS

POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
print("began", flush=True)
time.sleep(600)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("began", flush=True)
time.sleep(600)
"""


def job(folder, key, code):
    return Job(key, ("-c", code), folder / "logs" / f"{key}.log", folder)


@pytest.fixture
def local():
    """`local(2)`: a launcher that leaves nothing behind, however the test ends."""
    made = []

    def make(*arguments, **options):
        made.append(Local(*arguments, **options))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


def ends(launcher, count, patience=300.0):
    """The first so many ends, as key -> code."""
    found = {}
    deadline = time.monotonic() + patience
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found |= {end.key: end.code for end in launcher.ended(0.2)}
    return found


def await_words(job, words):
    deadline = time.monotonic() + 300
    while words not in (job.log.read_text() if job.log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=[Local, pytest.param(Forked, marks=pytest.mark.slow)])
def of_this_machine(request):
    """The same of each launcher of this machine; forking first imports all of attnkit."""
    made = []

    def make(workers):
        made.append(request.param(workers))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


def test_each_end_has_its_code_and_its_log(of_this_machine, tmp_path):
    launcher = of_this_machine(2)
    jobs = [job(tmp_path, f"j{code}", f"print('I am'); exit({code})") for code in (0, 1, 2, 3)]
    launcher.start(jobs)
    assert ends(launcher, 4) == {"j0": 0, "j1": 1, "j2": 2, "j3": 3}
    assert jobs[3].log.read_text() == "I am\n"
    assert launcher.ended(0) == []


def test_no_more_run_than_there_are_workers(local, tmp_path):
    code = "open(f'{__import__(\"os\").getpid()}.on', 'w'); __import__('time').sleep(0.3)"
    code += "; n = len(__import__('glob').glob('*.on'))"
    code += "; __import__('os').remove(f'{__import__(\"os\").getpid()}.on'); exit(n)"
    launcher = local(2)
    launcher.start([job(tmp_path, str(i), code) for i in range(5)])
    assert max(ends(launcher, 5).values()) == 2


def test_neighbours_are_counted(local, tmp_path):
    """Jobs at the same time, on average over the time of a job."""
    launcher = local(2)
    wait = "from time import sleep; from pathlib import Path as P"
    short = f"{wait}; sleep(0.3); P('short').touch()"
    long = f"{wait}\nwhile not P('short').exists(): sleep(0.01)\nsleep(1)"
    launcher.start([job(tmp_path, key, code) for key, code in (("s", short), ("l", long))])
    found = {}
    while len(found) < 2:
        found |= {end.key: end.neighbours for end in launcher.ended(0.2)}
    assert found["s"] > 0.9
    assert 0.01 < found["l"] < 0.9
    launcher.start([job(tmp_path, "alone", "pass")])
    assert launcher.ended(60)[0].neighbours == 0


THREADS = "import os; exit(int(os.environ['OMP_NUM_THREADS']))"


def test_threads_are_divided_among_the_workers(local, tmp_path, monkeypatch):
    monkeypatch.setattr("attnkit.ablation.launchers.local.available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher = local(2)
    launcher.start([job(tmp_path, "a", THREADS)])
    assert ends(launcher, 1) == {"a": 4}
    assert local().workers == 8


def test_threads_of_the_users_environment_stay(local, tmp_path, monkeypatch):
    monkeypatch.setattr("attnkit.ablation.launchers.local.available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("RAYON_NUM_THREADS", "5")
    rayon = THREADS.replace("OMP", "RAYON")
    launcher = local(2)
    assert launcher.threads == 3
    assert launcher.describe().endswith("3 CPU threads each")
    launcher.start([job(tmp_path, "omp", THREADS), job(tmp_path, "rayon", rayon)])
    assert ends(launcher, 2) == {"omp": 3, "rayon": 5}
    told = local(2, threads=1)  # the plan says more than the environment
    assert told.describe().endswith("1 CPU thread each")
    told.start([job(tmp_path, "omp", THREADS), job(tmp_path, "rayon", rayon)])
    assert ends(told, 2) == {"omp": 1, "rayon": 1}


def test_gpus_are_shared_out(local, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert visible_gpus() == ["4", "5", "6", "7"]
    launcher = local(gpus=2)
    assert launcher.workers == 2
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    jobs = [job(tmp_path, key, code) for key in "ab"]
    launcher.start(jobs)
    ends(launcher, 2)
    assert sorted(one.log.read_text().strip() for one in jobs) == ["4,5", "6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_a_job_that_is_stopped_may_save_and_the_rest_is_not_begun(of_this_machine, tmp_path):
    launcher = of_this_machine(1)
    polite = job(tmp_path, "polite", POLITE)
    launcher.start([polite, job(tmp_path, "later", "")])
    await_words(polite, "began")
    launcher.stop()
    assert ends(launcher, 2) == {"polite": 143, "later": KILLED}
    assert polite.log.read_text() == "began\nsaved\n"
    assert not (tmp_path / "logs" / "later.log").exists()


def test_a_job_that_does_not_listen_is_killed_with_its_children(of_this_machine, tmp_path):
    code = "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; "
    code += "time.sleep(600)']); print(c.pid, flush=True)\n" + DEAF
    launcher = of_this_machine(1)
    deaf = job(tmp_path, "deaf", code)
    launcher.start([deaf])
    await_words(deaf, "began")
    launcher.stop()
    assert launcher.ended(0.3) == []
    launcher.kill()
    assert ends(launcher, 1) == {"deaf": KILLED}
    child = int(deaf.log.read_text().split()[0])
    deadline = time.monotonic() + 300
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("launcher", ["Local", pytest.param("Forked", marks=pytest.mark.slow)])
def test_a_job_ends_when_its_launcher_is_killed(launcher, tmp_path):
    """It hears SIGTERM, so it can save; nothing trains on unseen and holds the lock. By a pipe that
    breaks, which every system has.
    """
    hears = "from attnkit.ablation.launchers.process import end_with_parent\nend_with_parent()\n"
    listens, began, rest = POLITE.partition('print("began"')
    polite = tmp_path / "polite.py"
    polite.write_text(listens + hears + began + rest)
    arguments = ("polite.py",) if launcher == "Local" else ("-c", POLITE)
    code = f"""
from pathlib import Path
from attnkit.ablation.launchers.base import Job
from attnkit.ablation.launchers.forked import Forked
from attnkit.ablation.launchers.{launcher.lower()} import {launcher}
launcher = {launcher}(1)
launcher.start([Job("a", {arguments!r}, Path("a.log"), Path({str(tmp_path)!r}))])
while True:
    launcher.ended(1)
"""
    mother = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    log = Job("a", (), tmp_path / "a.log")
    await_words(log, "began")
    os.kill(mother.pid, signal.SIGKILL)
    mother.wait()
    await_words(log, "saved")


@pytest.mark.parametrize("name", ["local", "forked", "ray", "slurm"])
def test_a_launcher_explains_itself(name):
    launcher = LAUNCHERS.build(name, 2)
    assert launcher.workers == 2
    assert launcher.describe()
    assert LAUNCHERS.summary(name)
    assert all(option.help for option in LAUNCHERS.options(name).values())
    with pytest.raises(ValueError, match="grace must be at least 0"):
        LAUNCHERS.build({"name": name, "grace": -1}, 2)


@pytest.mark.slow
def test_ray_runs_jobs_and_stops_them(tmp_path):
    """On a real cluster of this machine."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    launcher = LAUNCHERS.build({"name": "ray", "grace": 10}, 2)
    try:
        polite = job(tmp_path, "polite", POLITE)
        launcher.start([job(tmp_path, "threads", THREADS), job(tmp_path, "bad", "exit(3)"), polite])
        assert ends(launcher, 2) == {"threads": 1, "bad": 3}
        await_words(polite, "began")
        launcher.stop()
        assert set(ends(launcher, 1)) == {"polite"}
        await_words(polite, "saved")
    finally:
        launcher.close()


@pytest.mark.slow
def test_slurm_runs_jobs_and_stops_them(tmp_path):
    """By submitit's own executor for one machine; there is no SLURM here."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    launcher = LAUNCHERS.build({"name": "slurm", "cluster": "local", "hours": 0.1}, 2)
    polite = job(tmp_path, "polite", POLITE)
    launcher.start([job(tmp_path, "threads", THREADS), job(tmp_path, "bad", "exit(3)"), polite])
    assert ends(launcher, 2) == {"threads": 1, "bad": 3}
    await_words(polite, "began")
    launcher.stop()
    assert set(ends(launcher, 1)) == {"polite"}
    await_words(polite, "saved")


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_what_is_not_installed_is_said(name, tmp_path, monkeypatch):
    from attnkit.ablation.launchers.base import LauncherError

    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
    with pytest.raises(LauncherError, match=rf"pip install 'attnkit\[{name}\]'"):
        LAUNCHERS.build(name, 1).start([job(tmp_path, "a", "")])
