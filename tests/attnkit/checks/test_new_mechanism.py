"""attnkit new: what it writes is a sound mechanism, with a test that says so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnkit.attention.base import build_attention
from attnkit.checks import LAWS, check
from attnkit.checks.seats import MaskCase
from attnkit.cli.main import app
from attnkit.registry import ATTENTION, load_plugin

CAUSAL = [MaskCase("causal", "causal")]


def call(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.each_mechanism
@pytest.mark.parametrize("like", ATTENTION.names())
def test_what_it_writes_loads_and_overrides_one_step(like):
    ended = call("new", "my_attention", "--like", like)
    assert ended.exit_code == 0
    code = Path("my_attention.py").read_text()
    assert len(code.splitlines()) <= 25
    assert all(len(line) <= 100 for line in code.splitlines())
    load_plugin("my_attention.py")
    option = ATTENTION.options("my_attention")["multiplier"]
    assert (option.annotation, option.default) == (float, 2.0)
    assert option.help.startswith("factor of the")
    build_attention({"name": "my_attention", "multiplier": 3.0}, 16)
    laws = [law for law in LAWS if law.quick]
    assert not check(ATTENTION.get("my_attention"), masks=CAUSAL, laws=laws).broken
    (run,) = re.findall(r"attnkit (run .*)", ended.stdout)
    planned = call(*shlex.split(run), "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "my_attention" in planned.stdout


def test_it_names_three_commands():
    ended = call("new", "my_attention")
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["wrote my_attention.py", "wrote test_my_attention.py"]
    assert [line.split()[0] for line in lines[3:]] == ["check", "run", "look"]
    assert "attnkit check my_attention.py" in lines[3]
    assert (
        "attnkit run quickstart 'plugins=[my_attention.py]' model.attention=my_attention"
        in lines[4]
    )
    assert "attnkit attention runs/quickstart/my_attention/seed0 --text" in lines[5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["My-Attention"], "name 'My-Attention' is not snake_case"),
        (["class"], "name 'class' is not snake_case"),
        (["multi_head"], "`multi_head` already exists"),
        (["mine", "--like", "multi_hed"], "did you mean `multi_head`"),
        (["taken"], "taken.py already exists"),
    ],
)
def test_what_cannot_be_written_is_one_message(arguments, message):
    Path("taken.py").write_text("mine = 1\n")
    ended = call("new", *arguments)
    assert ended.exit_code == 2, ended.output
    assert message in ended.stderr
    assert sorted(p.name for p in Path().iterdir()) == ["taken.py"]
    assert Path("taken.py").read_text() == "mine = 1\n"


def pytest_of(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_its_test_has_a_case_for_each_law_and_can_fail():
    """The laws as a stranger's own tests, in a process of their own."""
    call("new", "my_attention")
    code = Path("my_attention.py").read_text()
    broken = code.replace("super().scores(q, k)", "super().scores(q, k.cumsum(2).flip(2))")
    assert broken != code
    Path("my_attention.py").write_text(broken)
    failed = pytest_of("-k", "later_tokens or state_dict or look_at")
    assert failed.returncode == 1, failed.stdout
    assert "1 failed, 1 passed" in failed.stdout
    assert "later tokens have no influence: output " in failed.stdout
    assert "B=1 T=" in failed.stdout
