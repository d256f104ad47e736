import importlib.metadata
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
from tensorboard.plugins.base_plugin import TBContext

from attnkit.callbacks.at_moments import MAX_MOMENTS
from attnkit.dashboard.loader import AttentionLoader
from attnkit.pages.serving import ENTRY
from attnkit.pages.static_files import static_names

ROOT = Path(__file__).parents[3]
NAMES = static_names(("attnkit.dashboard",))


def test_tensorboard_finds_the_plugin():
    (entry,) = importlib.metadata.entry_points(group="tensorboard_plugins", name="attention")
    assert entry.load() is AttentionLoader


def test_loading_it_loads_nothing_heavy():
    """Torch would hold up every start of TensorBoard by seconds, also of people without maps."""
    code = """
import sys
import tensorboard.program, tensorboard.plugins.base_plugin, tensorboard.backend.http_util
before = set(sys.modules)
from attnkit.dashboard.loader import AttentionLoader
from tensorboard.plugins.base_plugin import TBContext
plugin = AttentionLoader().load(TBContext(data_provider=object()))
plugin.get_plugin_apps()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"torch", "lightning", "torchmetrics", "omegaconf", "yaml", "rich", "typer"}))
print(plugin.plugin_name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["[]", "attention"]


def test_all_steps_are_kept_unless_the_user_says_otherwise():
    flags = Namespace(samples_per_plugin={})
    AttentionLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"attention": MAX_MOMENTS}
    flags = Namespace(samples_per_plugin={"attention": 7})
    AttentionLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"attention": 7}


def test_without_a_data_provider_there_is_no_plugin():
    assert AttentionLoader().load(TBContext(data_provider=None)) is None


def test_every_page_is_served():
    folders = [ROOT / "attnkit" / room / "static" for room in ("dashboard", "pages")]
    files = sorted(path.name for folder in folders for path in folder.iterdir())
    assert list(NAMES) == files, "each name occurs once"
    assert ENTRY in NAMES


@pytest.mark.slow
def test_a_wheel_holds_the_pages_and_the_entry_point(tmp_path):
    """What `pip install attnkit` unpacks, without the editable folder beside it."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No matching distribution" in done.stderr:
        pytest.skip("building a wheel needs a package index, which is not there")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("attnkit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "attnkit.dashboard.loader:AttentionLoader" in archive.read(entries).decode()
    assert {f"{room.replace('.', '/')}/static/{name}" for name, room in NAMES.items()} <= names
