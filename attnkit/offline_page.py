"""Builds self-contained pages: style, script and data in one file, without network access."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from typing import Any


def offline_page(package: str, *, title: str, data: Any, body: str = "") -> str:
    """Fills the `page.html` of a package with its `page.css`, its `page.js` and data.

    Texts in the data are never markup: the script reads them as JSON.

    Args:
        package: the package with the three files.
        title: replaces `{{title}}`, as text.
        data: replaces `{{data}}`, as JSON.
        body: replaces `{{body}}`, as markup that the caller has escaped.
    """
    # Inside a script element only `<` can end the script or begin a comment.
    numbers = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "style": _file(package, "page.css"),
        "script": _file(package, "page.js"),
        "data": numbers,
        "body": body,
    }
    # In one pass: inserted text may look like a placeholder, and is not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _file(package, "page.html"))


def _file(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
