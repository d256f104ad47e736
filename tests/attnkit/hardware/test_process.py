"""What a process sets before torch is loaded, and what the user's environment and Docker's quota
have to say.
"""

import gc
import os
import subprocess
import sys

import pytest

from attnkit.hardware import process
from attnkit.hardware.process import available_cores, cpu_quota, of_user, threads_of_user

NAMES = (*process._WAITING, *process._NUM_THREADS)


@pytest.fixture
def environment(monkeypatch):
    """The variables of OpenMP, none of which is set; all is undone afterwards."""
    before = {name: os.environ[name] for name in NAMES if name in os.environ}
    threshold = gc.get_threshold()
    monkeypatch.setattr(process, "_set_by_prepare", {})
    for name in before:
        del os.environ[name]
    yield os.environ
    for name in NAMES:
        os.environ.pop(name, None)
    os.environ.update(before)
    gc.set_threshold(*threshold)


@pytest.fixture
def quota(monkeypatch):
    """`quota(1.5)`: what the control groups of this process allow."""

    def set_quota(cores: float | None) -> None:
        monkeypatch.setattr(process, "cpu_quota", lambda: cores)

    set_quota(None)
    return set_quota


def found(environment) -> dict[str, str]:
    return {name: environment[name] for name in NAMES if name in environment}


def test_threads_wait_for_a_short_while_only(environment, quota):
    process.prepare()
    assert found(environment) == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize("name", process._WAITING)
def test_waiting_that_the_user_chose_stays(environment, quota, name):
    environment[name] = "7"
    process.prepare()
    assert found(environment) == {name: "7"}


@pytest.mark.parametrize(("cores", "threads"), [(0.25, 1), (1.0, 1), (1.5, 2), (64.0, 8)])
def test_a_quota_limits_threads_and_workers(environment, quota, monkeypatch, cores, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    quota(cores)
    process.prepare()
    assert available_cores() == threads
    assert environment["OMP_NUM_THREADS"] == str(threads)
    assert threads_of_user() is None


@pytest.mark.parametrize("name", process._NUM_THREADS)
def test_threads_that_the_user_chose_stay(environment, quota, name):
    quota(1.0)
    environment[name] = "6"
    process.prepare()
    assert {n: found(environment).get(n) for n in process._NUM_THREADS} == {
        n: "6" if n == name else None for n in process._NUM_THREADS
    }
    assert of_user(name) == "6"


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None), ("0", None)]
)
def test_a_number_of_threads_is_read_as_openmp_does(environment, value, threads):
    environment["OMP_NUM_THREADS"] = value
    assert threads_of_user() == threads


def test_without_a_quota_cores_are_those_that_the_process_may_run_on(quota, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


V1 = "12:memory:/docker/x\n5:cpu,cpuacct:/docker/x\n4:cpuset:/docker/x\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "400000 100000\n"}, 0.5),
        ("0::/gone\n", {}, None),
        ("0::/\n", {"cpu.max": "\n"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (
            V1,
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "1\n"}, None),
    ],
)
def test_quotas_of_both_versions_of_control_groups_are_read(tmp_path, groups, files, expected):
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(content)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "fs") == expected


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "missing", tmp_path) is None


def test_the_command_line_is_in_time_for_the_openmp_that_torch_loads():
    """`OMP_DISPLAY_ENV` has the library say what it took when it was loaded."""
    code = (
        "import sys; from attnkit.cli import main; assert 'torch' not in sys.modules\n"
        "sys.argv = ['attnkit', '--version']\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "import torch"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in ended.stderr:
        pytest.skip("torch's OpenMP is not GNU's")
    assert "GOMP_SPINCOUNT = '1000'" in ended.stderr
