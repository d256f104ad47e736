"""A page as one self-contained file: style, script and numbers inside, no network."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from typing import Any


def offline_page(package: str, *, title: str, data: Any, body: str = "") -> str:
    """Fills the `page.html` of a package with its `page.css` and `page.js`, and with numbers.

    Whatever a text in the numbers says, it is data: the script reads it as JSON.

    Args:
        package: the one that holds the three files.
        title: replaces `{{title}}`, as text.
        data: replaces `{{data}}`, as JSON.
        body: replaces `{{body}}`, as markup that the caller has escaped.
    """
    # Inside a script element only `<` could end it or begin a comment.
    numbers = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "style": _file(package, "page.css"),
        "script": _file(package, "page.js"),
        "data": numbers,
        "body": body,
    }
    # In one go: what is filled in may look like a mark, and stands as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _file(package, "page.html"))


def _file(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
