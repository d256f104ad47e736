"""What is installed: the package wins over the clone's folder, and the recipes come with it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # what is built and installed

ROOT = Path(__file__).parents[2]

BUILD = """
import os, sys
from hatchling.build import build_editable, build_wheel
os.chdir(sys.argv[1])
print({"editable": build_editable, "whole": build_wheel}[sys.argv[2]](sys.argv[3]))
"""

FROM_SITE = """
import runpy, site, sys
sys.path[:] = [path for path in sys.path if path != {root!r}]
site.addsitedir({site!r})
{code}
"""


def run(code, *arguments, cwd):
    """A Python process that does not know of this clone by its environment."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module", params=["editable", "whole"])
def installed(request, tmp_path_factory):
    """How it was installed, and where: what `pip install -e .` and `pip install .` unpack."""
    for backend in ("hatchling", "editables"):
        pytest.importorskip(backend, reason=f"{backend}, which builds the package, is missing")
    made, site = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("site")
    name = run(BUILD, ROOT, request.param, made, cwd=made).split()[-1]
    with zipfile.ZipFile(made / name) as wheel:
        wheel.extractall(site)
    return request.param, site


def code_in(site, code):
    return FROM_SITE.format(root=str(ROOT), site=str(site), code=code)


def test_a_script_beside_the_clone_imports_the_package(installed, tmp_path):
    """Where a folder `attnkit` lies that is no package: the clone's own."""
    kind, site = installed
    (tmp_path / "attnkit").symlink_to(ROOT)
    code = "import attnkit; print(attnkit.__file__, attnkit.build_attention.__name__)"
    file, name = run(code_in(site, code), cwd=tmp_path).split()
    home = ROOT if kind == "editable" else site
    assert Path(file) == home / "attnkit/__init__.py"
    assert name == "build_attention"


def test_its_recipes_are_there_in_an_empty_folder(installed, tmp_path):
    kind, site = installed
    home = ROOT if kind == "editable" else site / "attnkit"
    code = (
        "from attnkit.recipe.shipped import shipped_folder, shipped_recipes\n"
        "from attnkit.recipe import load_recipe\n"
        "print(shipped_folder(), len(shipped_recipes()), load_recipe('heads').path)"
    )
    folder, count, path = run(code_in(site, code), cwd=tmp_path).split()
    assert Path(folder) == home / "recipes"
    assert int(count) == len(list((ROOT / "recipes").rglob("*.yaml")))
    assert Path(path) == home / "recipes/ablations/heads.yaml"


def test_its_commands_work_in_an_empty_folder(installed, tmp_path):
    """`attnkit list recipes`, `attnkit run quickstart`, `attnkit new`."""
    _, site = installed
    code = """
from attnkit.cli.main import app
for command in (["list", "recipes"], ["run", "quickstart", "--dry-run"], ["new", "mine"]):
    assert not app(command, standalone_mode=False), command
"""
    said = run(code_in(site, code), cwd=tmp_path)
    assert "language_modeling/quickstart" in said
    assert "name: quickstart" in said
    assert "attnkit run quickstart 'plugins=[mine.py]'" in said
