"""Windows, as far as it can be seen from here: what only POSIX systems have is hidden from attnkit.

The packages below it keep their own system; what attnkit itself imports and asks for is checked.
"""

import subprocess
import sys

import pytest

WINDOWS = r"""
import builtins, errno, os, signal, subprocess, sys, types

MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
HIDDEN = {
    "os": ["O_DIRECTORY", "WNOHANG", "chown", "fork", "getegid", "geteuid", "getgid", "getloadavg",
           "getpgid", "getpriority", "getsid", "getuid", "killpg", "mkfifo", "nice", "pread",
           "posix_fadvise", "posix_fallocate", "register_at_fork", "sched_getaffinity",
           "sched_setaffinity", "setpgid", "setsid", "statvfs", "sync", "sysconf", "uname", "wait"],
    "signal": ["SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1",
               "SIGUSR2", "alarm", "pause", "pthread_kill", "setitimer", "sigwait"],
    "subprocess": [], "sys": [],
}


class Seen(types.ModuleType):
    def __init__(self, module, hidden, **other):
        super().__init__(module.__name__)
        self.__dict__.update(_module=module, _hidden=frozenset(hidden), **other)

    def __getattr__(self, name):
        if name in self._hidden:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)


def open_no_folder(path, *rest, **options):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os.open(path, *rest, **options)


class Popen(subprocess.Popen):
    def __init__(self, *arguments, preexec_fn=None, creationflags=0, **options):
        assert preexec_fn is None, "preexec_fn is not supported on Windows"
        super().__init__(*arguments, **options)


OTHER = {
    "os": {"open": open_no_folder},
    "sys": {"platform": "win32"},
    "subprocess": {"Popen": Popen, "CREATE_NEW_PROCESS_GROUP": 0x200},
}
seen = {
    name: Seen(sys.modules[name], hidden, **OTHER.get(name, {})) for name, hidden in HIDDEN.items()
}
real_import = builtins.__import__


def imported(name, globals=None, locals=None, fromlist=(), level=0):
    if str((globals or {}).get("__name__", "")).partition(".")[0] == "attnkit" and not level:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in seen:
            return seen[name]
    return real_import(name, globals, locals, fromlist, level)


builtins.__import__ = imported
"""

COMMANDS = r"""
from attnkit.cli.main import app

small = ["data={name: text, files: text.txt}", "model.max_seq_len=16", "model.dim=16",
         "model.num_layers=1", "trainer.batch_size=4", "validation.max_tokens=64",
         "logging.samples=0", "logging.attention_maps=2", "trainer.accelerator=cpu",
         "tokenizer=char", "variant=base"]
run = "runs/characters/base/seed0"
for command in (
    ["--help"],
    ["list"],
    ["run", "characters", *small, "--dry-run"],
    ["run", "characters", *small, "trainer.max_steps=2"],
    ["resume", run, "trainer.max_steps=3"],
    ["generate", run, "--max-new-tokens", "5"],
    ["compare", "runs"],
):
    try:
        code = app(command, standalone_mode=False)
    except SystemExit as end:
        code = end.code
    assert not code, (command, code)
"""

JOBS = r"""
import time
from pathlib import Path
from attnkit.storage import run_directory
from attnkit.ablation.launchers.base import Job
from attnkit.ablation.launchers.process import JobProcess

polite = '''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
from attnkit.ablation.launchers.process import end_with_parent
end_with_parent()
print("began", flush=True)
time.sleep(60)
'''
ends = []
for end in (JobProcess.stop, JobProcess.kill):
    job = Job("a", ("-c", polite), Path("a.log"))
    process = JobProcess(job, {})
    while "began" not in job.log.read_text():
        assert process.code() is None
        time.sleep(0.05)
    end(process)
    ends.append((process.wait(60), job.log.read_text().split()))
assert ends == [(143, ["began", "saved"]), (-9, ["began"])], ends

with run_directory.in_use(Path("held")):
    assert run_directory.is_in_use(Path("held"))
    try:
        with run_directory.in_use(Path("held")):
            raise AssertionError("held twice")
    except run_directory.RunDirectoryError:
        pass
assert not run_directory.is_in_use(Path("held"))
"""


def on_windows(code, folder):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WINDOWS + code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_commands_work_without_what_windows_lacks(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sees a dog.\n" * 200)
    said = on_windows(COMMANDS, tmp_path)
    assert "Usage: " in said
    assert "sliding_window" in said
    assert (tmp_path / "runs/characters/base/seed0/result.json").is_file()


def test_jobs_and_locks_work_without_what_windows_lacks(tmp_path):
    """A job is asked to end by way of its standard input, and saves."""
    on_windows(JOBS, tmp_path)


def test_what_is_hidden_is_missed(tmp_path):
    """The test can fail: code of attnkit that asks for these things does not find them."""
    code = """
names = {"__name__": "attnkit.new"}
lines = {
    "import fcntl": ImportError,
    "import os; os.killpg": AttributeError,
    "from signal import SIGKILL": ImportError,
    "import os; os.open('.', 0)": OSError,
}
for line, error in lines.items():
    try:
        exec(line, dict(names))
    except error:
        continue
    raise AssertionError(line)
"""
    on_windows(code, tmp_path)
