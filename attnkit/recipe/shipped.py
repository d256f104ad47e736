"""The recipes that come with the kit: their folder, and the files of names such as `quickstart`.

In a clone they are its folder `recipes/`; in an installed package, a copy of that folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from attnkit.registry import RegistryError, suggest

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """The folder of these recipes."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name with its folder (`language_modeling/quickstart`) -> file."""
    folder = shipped_folder()
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def shipped_claims() -> dict[str, Path]:
    """Name of a claim -> the recipe whose section `ablation.claims` has it."""
    claims: dict[str, Path] = {}
    for file in shipped_recipes().values():
        text = file.read_text(encoding="utf-8")
        if "  claims:" in text:
            claims |= dict.fromkeys(yaml.safe_load(text)["ablation"]["claims"], file)
    return dict(sorted(claims.items()))


def located(path: Path) -> Path:
    """Finds a recipe: a file, or else one that comes with the kit.

    Args:
        path: a file, `quickstart`, `language_modeling/quickstart`, or
            `recipes/language_modeling/quickstart.yaml`, as in a clone.

    Returns:
        The file; `path` itself if there is none.
    """
    if path.is_file():
        return path
    name = path.as_posix()
    as_in_a_clone = name.startswith("recipes/") and path.suffix == ".yaml"
    if as_in_a_clone:
        name = name.removeprefix("recipes/").removesuffix(".yaml")
    recipes = shipped_recipes()
    if name in recipes or as_in_a_clone:
        return recipes.get(name, path)
    # `quickstart` is the language model's; that of speech is `speech_quickstart`.
    known = {long_name.replace("/", "_"): file for long_name, file in recipes.items()}
    known |= {file.stem: file for file in reversed(recipes.values())}
    return known.get(name, path)


def shipped_recipe(name: str) -> Path:
    """Finds a recipe that comes with the kit.

    Raises:
        RegistryError: if none has this name.
    """
    file = located(Path(name))
    if file not in shipped_recipes().values():
        stems = [file.stem for file in shipped_recipes().values()]
        raise RegistryError(
            f"no recipe that comes with attnkit is called `{name}`{suggest(name, stems)} "
            "(`attnkit recipes` lists them)"
        )
    return file


def copy_recipes(name: str | None, to: Path) -> list[Path]:
    """Copies a recipe and those that it extends into a folder, each below the folder of its kind.

    Args:
        name: name of the recipe; None: all of them.
        to: the folder; created if it is missing.

    Returns:
        The files that were written.

    Raises:
        RegistryError: if there is no such recipe, if a file exists already, or if one cannot be
            written.
    """
    files = (
        list(shipped_recipes().values()) if name is None else _with_parents(shipped_recipe(name))
    )
    copies = {file: to / file.relative_to(shipped_folder()) for file in files}
    for copy in copies.values():
        if copy.exists():
            raise RegistryError(f"{copy} exists already; remove it, or choose another folder")
    try:
        for file, copy in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    except OSError as error:
        raise RegistryError(f"{to}: recipes cannot be written there: {error.strerror}") from error
    return list(copies.values())


def _with_parents(file: Path) -> list[Path]:
    """A recipe, and the files that it extends."""
    extends = yaml.safe_load(file.read_text(encoding="utf-8")).get("extends") or []
    parents = [extends] if isinstance(extends, str) else extends
    found = [one for parent in parents for one in _with_parents((file.parent / parent).resolve())]
    return [file, *found]
