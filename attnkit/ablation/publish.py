"""`attnkit publish`: writes a study as a static site, for a web server or for a local browser.

FOLDER/
    index.html              table, links, commands that repeat the runs
    study.html              the Ablations page: table, learning curves, loss against cost
    attention/<variant>.html  the Attention page: the last maps of the variant's first seed
    recipes/<variant>.yaml, environments/<variant>.json  of that run
    comparison.json, comparison.csv  all numbers
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.comparison import Comparison, Row
from attnkit.ablation.comparison_page import page
from attnkit.ablation.fairness import without_paths
from attnkit.ablation.stored_run import StoredRun
from attnkit.ablation.tables import as_json, comma_separated, grid, visible
from attnkit.attention_page.page import page as attention_page
from attnkit.errors import DataError
from attnkit.storage.run_directory import RECIPE
from attnkit.tensorboard.map_format import decode
from attnkit.tensorboard.map_header import PLUGIN_NAME
from attnkit.tensorboard.untrusted import MapFormatError

INDEX = "index.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  color-scheme: light dark }
.wide { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
pre { overflow-x: auto; padding: .75rem; background: #8882 }
"""


def publish(
    study: str | Path,
    folder: str | Path,
    *,
    base: str | None = None,
    metric: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the site of a study. The folder appears when it is complete.

    Args:
        study: folder of the study.
        folder: of the site.
        base: the variant to compare with; None: the study's.
        metric: as in `compare_runs`; None: the study's.
        overwrite: replace a site in the folder.

    Returns:
        The path of its `index.html`.

    Raises:
        RunDirectoryError: if the study cannot be compared.
        DataError: if the folder exists, or cannot be written.
    """
    study, folder = Path(study), Path(folder)
    _check_free(folder, overwrite=overwrite)
    comparison = compare_runs(study, base=base, metric=metric)
    if len({run.name.study for row in comparison.rows for run in row.runs}) > 1:
        raise DataError(f"{study} contains several studies; give the folder of one")
    with _written_at_once(folder) as part:
        (part / "study.html").write_text(page(comparison), encoding="utf-8")
        (part / "comparison.json").write_text(as_json(comparison), encoding="utf-8")
        (part / "comparison.csv").write_text(comma_separated(comparison), encoding="utf-8")
        for name in ("attention", "recipes", "environments"):
            (part / name).mkdir()
        links = [_write_variant(part, row) for row in comparison.rows]
        (part / INDEX).write_text(_index(comparison, links), encoding="utf-8")
    return folder / INDEX


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / INDEX).is_file():  # never remove other files
        raise DataError(f"{folder} exists and is not a site; choose another folder")
    if not overwrite:
        raise DataError(f"{folder} exists; choose another folder, or add --overwrite")


@contextmanager
def _written_at_once(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, which becomes the folder once everything is written."""
    part = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_variant(part: Path, row: Row) -> dict[str, str]:
    """Writes the files of a variant; returns label -> file, relative to the site."""
    run, name = row.runs[0], row.runs[0].name.variant
    files = {"recipe": f"recipes/{name}.yaml", "environment": f"environments/{name}.json"}
    shutil.copyfile(run.directory / RECIPE, part / files["recipe"])
    environment = json.dumps(without_paths(run.environment), indent=2, ensure_ascii=False)
    (part / files["environment"]).write_text(environment + "\n", encoding="utf-8")
    if maps := _attention(run):
        files = {"attention": f"attention/{name}.html", **files}
        (part / files["attention"]).write_text(maps, encoding="utf-8")
    return files


def _attention(run: StoredRun) -> str | None:
    """Returns the Attention page with the last maps of a run; None if it has logged none."""
    guidance = {"tensors": 0, "images": 1, "scalars": 1}
    events = EventAccumulator(str(run.directory), guidance).Reload()
    records = []
    for tag in _map_tags(events):
        try:
            records.append(decode(list(events.Tensors(tag)[-1].tensor_proto.string_val)))
        except MapFormatError:  # of another program
            continue
    title = f"{run.name.study}/{run.name.variant}, seed {run.name.seed}"
    return attention_page(records, title) if records else None


def _map_tags(events: Any) -> list[str]:
    try:
        return sorted(events.PluginTagToContent(PLUGIN_NAME))
    except KeyError:  # it has logged none
        return []


def _index(comparison: Comparison, links: list[dict[str, str]]) -> str:
    table = grid(comparison)
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in [*table.columns, ""])
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(word)}</td>" for word in words)
        + f"<td>{_links(files)}</td></tr>\n"
        for words, files in zip_longest(table.rows, links, fillvalue={})  # stopped: no files
    )
    notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in table.notes)
    commands = "\n".join(
        f"attnkit run '{files['recipe']}' seed={run.name.seed}"
        for row, files in zip(comparison.rows, links, strict=True)
        for run in row.runs
    )
    title = html.escape(visible(comparison.title))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p><a href="study.html">Table, learning curves, loss against cost</a> ·
<a href="comparison.json">JSON</a> · <a href="comparison.csv">CSV</a></p>
<p>{html.escape(table.title)}</p>
<div class="wide"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
<ul>
{notes}</ul>
<h2>Repeat a run</h2>
<pre>{html.escape(commands)}</pre>
</body>
</html>
"""


def _links(files: Mapping[str, str]) -> str:
    return " ".join(f'<a href="{quote(file)}">{label}</a>' for label, file in files.items())
