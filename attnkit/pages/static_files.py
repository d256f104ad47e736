"""The modules and styles of the pages: plain files, without a build step."""

from __future__ import annotations

import functools
import re
from importlib import resources

SHARED = "attnkit.pages"
"""The package whose `static/` every page uses."""

IMPORT = re.compile(r'(\bfrom |\bimport )"\./([\w.]+)"')
"""A specifier relative to a module; the second group is the other module's name."""

CONTENT_TYPES = {"js": "text/javascript", "css": "text/css"}


@functools.cache
def static_names(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the names of all modules and styles in `static/` of some packages -> the package.

    Modules import each other as if all were in one folder, so names are unique.
    """
    names = {
        file.name: package
        for package in (SHARED, *packages)
        for file in resources.files(package).joinpath("static").iterdir()
    }
    return {name: names[name] for name in sorted(names) if name.rpartition(".")[2] in CONTENT_TYPES}


def modules_of(packages: tuple[str, ...], entry: str) -> dict[str, str]:
    """Returns name -> text of a module and of all modules that it imports, also indirectly."""
    names = static_names(packages)
    found: dict[str, str] = {}
    missing = [entry]
    while missing:
        name = missing.pop()
        if name not in found:
            found[name] = read_static(names[name], name)
            missing += [imported for _, imported in IMPORT.findall(found[name])]
    return found


def read_static(package: str, name: str) -> str:
    """Returns the text of a file in `static/` of a package."""
    return resources.files(package).joinpath("static", name).read_text(encoding="utf-8")
