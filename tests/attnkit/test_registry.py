"""The registry: names, options from signatures, plugins from files, modules and packages."""

import importlib.metadata
import subprocess
import sys
import textwrap
from typing import Annotated, Any

import pytest

from attnkit.registry import (
    REQUIRED,
    Registry,
    RegistryError,
    Spec,
    importing,
    load_plugin,
    options_of,
    suggest,
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package on the import path; its modules register in `TOOLS`, which is returned."""
    written = []

    def write(name, **modules):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (tmp_path / f"{name}_registry.py").write_text(
            f"from attnkit.registry import Registry\nTOOLS = Registry('tool', '{name}')\n"
        )
        for module, source in modules.items():
            header = f"from {name}_registry import TOOLS\n"
            (folder / f"{module}.py").write_text(header + textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(tmp_path))
        written.append(name)
        return importlib.import_module(f"{name}_registry").TOOLS

    yield write
    for module in list(sys.modules):
        if any(module.startswith(name) for name in written):
            del sys.modules[module]


@pytest.fixture
def tools():
    """An empty registry whose module registers nothing in it."""
    return Registry("tool", "attnkit.registry")


def plugin(folder, source, name="plugin.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def test_names_come_from_the_package_at_the_first_look_up(package):
    tools = package(
        "tools_a", saw="@TOOLS.register('saw')\nclass Saw:\n    '''Cuts.\n\n    Wood.'''"
    )
    assert "tools_a.saw" not in sys.modules
    assert tools.names() == ["saw"]
    assert tools.summary("saw") == "Cuts."
    assert tools.name_of(tools.get("saw")) == "saw"


def test_an_unknown_name_lists_the_known_ones_and_suggests(tools):
    tools.register("hammer")(type("Hammer", (), {}))
    tools.register("saw")(type("Saw", (), {}))
    with pytest.raises(
        RegistryError, match=r"unknown tool `hamer`; did you mean `hammer`\? \(known: hammer, saw\)"
    ):
        tools.get("hamer")


def test_a_taken_name_is_refused_and_names_the_owner(tools):
    class Saw:
        pass

    class Other:
        pass

    tools.register("saw")(Saw)
    with pytest.raises(
        RegistryError, match=r"`saw` is already registered by .*Saw; choose another"
    ):
        tools.register("saw")(Other)
    assert tools.get("saw") is Saw


@pytest.mark.parametrize("name", ["Saw", "my-saw", "_saw", "saw_", "2saw", "my__saw", ""])
def test_names_are_snake_case(tools, name):
    with pytest.raises(RegistryError, match="not snake_case"):
        tools.register(name)


def test_a_package_that_fails_to_import_fails_again_and_is_never_half_there(package):
    tools = package("tools_b", a="@TOOLS.register('a')\nclass A: pass", b="import no_such_module_x")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_x"):
            tools.names()


def test_a_plugin_cannot_take_a_built_in_name_however_early_it_comes(package):
    tools = package("tools_c", saw="@TOOLS.register('saw')\nclass Saw: pass")
    with pytest.raises(RegistryError, match=r"`saw` is already registered by tools_c\.saw\.Saw"):

        @tools.register("saw")
        class Mine:
            pass

    assert tools.get("saw").__module__ == "tools_c.saw"


def test_options_are_the_keyword_only_parameters_with_help_and_defaults():
    class Saw:
        """Cuts.

        Args:
            teeth: how many teeth,
                both sides counted.
            length (cm): of the blade.
        """

        def __init__(self, wood, *, teeth: int = 8, length: Annotated[float, "cm"]):
            pass

    options = options_of(Saw)
    assert list(options) == ["teeth", "length"]
    assert options["teeth"].default == 8
    assert options["teeth"].help == "how many teeth, both sides counted."
    assert options["length"].default is REQUIRED
    assert options["length"].annotation == Annotated[float, "cm"]


def test_options_passed_on_by_keyword_count_and_stop_where_nothing_is_passed_on():
    class Top:
        def __init__(self, *, hidden: int = 0):
            pass

    class Middle(Top):
        def __init__(self, *, depth: int = 1, teeth: int = 2):
            super().__init__()

    class Bottom(Middle):
        def __init__(self, *, teeth: int = 3, **options: Any):
            super().__init__(teeth=teeth, **options)

    options = options_of(Bottom)
    assert {name: option.default for name, option in options.items()} == {"teeth": 3, "depth": 1}


def test_an_annotation_that_does_not_exist_at_run_time_is_told_with_its_class(tools):
    class Saw:
        def __init__(self, *, blade: "Blade"):  # noqa: F821  # pyright: ignore
            pass

    tools.register("saw")(Saw)
    with pytest.raises(RegistryError, match=r"Saw.*`Blade`.*TYPE_CHECKING"):
        tools.options("saw")


def test_build_takes_supplied_values_by_position_and_options_by_keyword(tools):
    @tools.register("saw")
    class Saw:
        def __init__(self, wood, *, teeth: int = 8, length: float):
            self.made = (wood, teeth, length)

    assert tools.build({"name": "saw", "length": 2.0}, "oak").made == ("oak", 8, 2.0)
    assert tools.build(Spec("saw", {"length": 1.0, "teeth": 4}), "oak").made == ("oak", 4, 1.0)
    with pytest.raises(RegistryError, match="tool `saw` needs the option `length`"):
        tools.build("saw", "oak")
    with pytest.raises(RegistryError, match=r"no option `teth`; did you mean `teeth`\?"):
        tools.build({"name": "saw", "teth": 3, "length": 1.0}, "oak")


@pytest.mark.parametrize("value", [{"teeth": 3}, {"name": 3}, 7, None, ["saw"]])
def test_what_names_nothing_is_no_spec(value):
    with pytest.raises(RegistryError, match="name"):
        Spec.of(value)


def test_suggestions_are_for_near_misses_only():
    assert suggest("num_haeds", ["num_heads", "dim"]) == "; did you mean `num_heads`?"
    assert suggest("zzz", ["num_heads", "dim"]) == ""


def test_a_plugin_file_is_relative_to_its_folder_and_imported_once(tmp_path):
    plugin(tmp_path, "value = object()")
    first = load_plugin("plugin.py", tmp_path)
    assert load_plugin("plugin.py", tmp_path / ".").value is first.value
    assert load_plugin(str(tmp_path / "plugin.py")).value is first.value


def test_plugin_files_with_similar_paths_are_told_apart(tmp_path):
    plugin(tmp_path, "where = 'a_b'", "a_b/plugin.py")
    plugin(tmp_path, "where = 'a/b'", "a/b/plugin.py")
    found = [load_plugin("plugin.py", tmp_path / folder).where for folder in ("a_b", "a/b")]
    assert found == ["a_b", "a/b"]


def test_a_plugin_that_fails_names_its_own_line_and_can_be_mended(tmp_path):
    source = """
        from attnkit.registry import MASKS

        @MASKS.register("NotSnake")
        class Mine:
            pass
        """
    path = plugin(tmp_path, source)
    with pytest.raises(RegistryError, match=r"plugin\.py:4: RegistryError: mask name 'NotSnake'"):
        load_plugin("plugin.py", tmp_path)
    path.write_text("value = 1")
    assert load_plugin("plugin.py", tmp_path).value == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nx = = 2", r"plugin\.py:2: SyntaxError"),
        (
            "import no_such_module_y",
            r"plugin\.py:1: ModuleNotFoundError.* \(pip install no_such_module_y, or",
        ),
        ("\n\n1 / 0", r"plugin\.py:3: ZeroDivisionError"),
    ],
)
def test_import_errors_of_a_plugin_name_the_line(tmp_path, source, message):
    plugin(tmp_path, source)
    with pytest.raises(RegistryError, match=f"failed to import: .*{message}"):
        load_plugin("plugin.py", tmp_path)


@pytest.mark.parametrize("name", ["no_such_module_z", "", ".relative"])
def test_a_plugin_module_that_is_not_there(name):
    with pytest.raises(RegistryError, match=f"plugin module `{name}` failed to import"):
        load_plugin(name)


def test_a_plugin_file_that_is_not_there(tmp_path):
    with pytest.raises(RegistryError, match=r"plugin file .*none\.py does not exist"):
        load_plugin("none.py", tmp_path)


def test_a_broken_installed_plugin_is_told_where_a_name_is_missing(tools, monkeypatch):
    point = importlib.metadata.EntryPoint("x", "no_such_package_q", "attnkit.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr(importing, "_entry_points_loaded", False)
    monkeypatch.setattr(importing, "_entry_point_failures", [])
    assert tools.names() == []
    with pytest.raises(
        RegistryError, match="installed plugin `no_such_package_q` failed to import"
    ):
        tools.get("mine")


def test_the_registry_needs_the_standard_library_alone():
    code = (
        "import sys; import attnkit.registry; heavy = {'torch', 'yaml', 'omegaconf', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


class Positional:
    def __init__(self, dim, depth=2, *, width=3):
        self.depth, self.width = depth, width


def test_an_option_before_the_star_is_told(tools):
    tools.register("positional")(Positional)
    expected = r"`depth` of Positional.__init__ is positional, .*__init__\(self, dim, \*, depth"
    with pytest.raises(RegistryError, match=expected):
        tools.build({"name": "positional", "depth": 5}, 8)
    with pytest.raises(RegistryError, match="did you mean `width`"):
        tools.build({"name": "positional", "widht": 5}, 8)
