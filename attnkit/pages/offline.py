"""Builds self-contained pages: modules, styles and data in one file, without network access.

A page in TensorBoard and the same page in a file have the same modules. In a file, they are `data:`
addresses of an import map.
"""

from __future__ import annotations

import base64
import html
import json
from typing import Any

from attnkit.pages.static_files import IMPORT, SHARED, modules_of, read_static, static_names

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' \
data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{styles}
</style>
<script type="importmap">{modules}</script>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script type="module">
import {{ start }} from "{entry}";
start(JSON.parse(document.getElementById("data").textContent));
</script>
</body>
</html>
"""


def offline_page(package: str, entry: str, *, title: str, data: Any, body: str = "") -> str:
    """Returns a page whose module `entry` exports `start(data)`.

    Texts in the data are never markup: the module reads them as JSON.

    Args:
        package: the package with the module in its `static/`.
        entry: name of the module.
        title: of the page, as text.
        data: the argument of `start`, as JSON.
        body: markup that is shown without JavaScript; the caller has escaped it.
    """
    names = static_names((package,))
    modules = modules_of((package,), entry)
    sheets = [name for name in names if name.endswith(".css")]
    sheets.sort(key=lambda name: names[name] != SHARED)  # shared sheets first
    return _PAGE.format(
        title=html.escape(title),
        styles="\n".join(read_static(names[name], name) for name in sheets),
        modules=json.dumps({"imports": {name: _address(text) for name, text in modules.items()}}),
        body=body,
        data=safe_json(data),
        entry=entry,
    )


def _address(module: str) -> str:
    text = IMPORT.sub(r'\1"\2"', module)  # `data:` addresses have no relative imports
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


def safe_json(data: Any) -> str:
    """Returns JSON for a script element, where only `<` can end the script or begin a comment."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
