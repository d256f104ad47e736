"""The routes of the dashboard, under `/data/plugin/attention/`.

    index         the runs with maps, their tags and steps (JSON)
    record        all maps of one run, tag and step: header and layers, preceded by their sizes
    statistics    entropy, distance and first-token mass of each head over training (JSON)
    static/...    the pages

Errors are JSON, {"error": "..."}: 400 for an invalid request, 404 for missing data, 422 for an
event file that cannot be read.
"""

from __future__ import annotations

import functools
import gzip
import struct
from collections.abc import Callable
from importlib import resources
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from attnkit.dashboard.head_statistics import StatisticsCache
from attnkit.dashboard.logged_maps import LoggedMaps
from attnkit.tensorboard.map_header import PLUGIN_NAME, VERSION
from attnkit.tensorboard.untrusted import MapFormatError

LARGE = 2**18
"""Size in bytes from which a record is compressed, which helps with remote servers."""

ENTRY = "main.js"
"""The module that TensorBoard imports; its `render` draws the dashboard."""

CONTENT_TYPES = {"js": "text/javascript", "css": "text/css"}

_STATIC = resources.files("attnkit.dashboard").joinpath("static")

Answer = Callable[[Request], Response]


class AttentionPlugin(base_plugin.TBPlugin):
    """Serves logged maps to the pages, read-only, for GET and HEAD."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._maps = LoggedMaps(context.data_provider)
        self._statistics = StatisticsCache()

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns the routes. Only listed pages are served, so no path escapes the folder."""
        answers = {"/index": self._index, "/record": self._record, "/statistics": self._head_curves}
        for name in page_names():
            answers[f"/static/{name}"] = functools.partial(_page, name)
        return {route: _guarded(answer) for route, answer in answers.items()}

    def is_active(self) -> bool:
        """Returns False: TensorBoard itself detects data with this plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns how TensorBoard shows the plugin."""
        return base_plugin.FrontendMetadata(es_module_path=f"/static/{ENTRY}", tab_name="Attention")

    def _index(self, request: Request) -> Response:
        series = self._maps.all_series(_context(request), _experiment(request))
        runs: dict[str, dict[str, Any]] = {run: {} for run in self._runs(request)}
        for (run, tag), one in sorted(series.items()):
            runs.setdefault(run, {})[tag] = {"steps": one.steps, "started": one.started}
        return _json(request, {"version": VERSION, "runs": runs})

    def _runs(self, request: Request) -> list[str]:
        provider = self._maps.provider
        runs = provider.list_runs(_context(request), experiment_id=_experiment(request))
        return sorted(run.run_name for run in runs)

    def _record(self, request: Request) -> Response:
        run, tag = _argument(request, "run"), _argument(request, "tag")
        parts = self._maps.record(
            _context(request), _experiment(request), run, tag, _whole_number(request, "step")
        )
        sizes = struct.pack(f"<{1 + len(parts)}I", len(parts), *map(len, parts))
        content, encoding = b"".join([sizes, *parts]), None
        if len(content) > LARGE:
            content, encoding = gzip.compress(content, compresslevel=1), "gzip"
        return http_util.Respond(
            request, content, "application/octet-stream", content_encoding=encoding
        )

    def _head_curves(self, request: Request) -> Response:
        run, tag = _argument(request, "run"), _argument(request, "tag")
        context, experiment = _context(request), _experiment(request)
        series = self._maps.one_series(context, experiment, run, tag)
        curves = self._statistics.curves(
            (experiment, run, tag, series.started),
            series.steps,
            lambda step: self._maps.blobs(context, experiment, run, tag, step),
        )
        return _json(request, curves)


@functools.cache
def page_names() -> tuple[str, ...]:
    """Returns the names of all files that may be served."""
    files = (file.name for file in _STATIC.iterdir())
    return tuple(sorted(name for name in files if name.rpartition(".")[2] in CONTENT_TYPES))


def read_page(name: str) -> tuple[bytes, str]:
    """Returns the content and the media type of one of `page_names`."""
    return _STATIC.joinpath(name).read_bytes(), CONTENT_TYPES[name.rpartition(".")[2]]


def _page(name: str, request: Request) -> Response:
    content, content_type = read_page(name)
    return http_util.Respond(request, content, content_type)


def _guarded(answer: Answer) -> Any:
    """Wraps a handler in a WSGI application for GET and HEAD, with errors as JSON."""

    @Request.application
    def application(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            refusal = {"error": f"{request.method} is not supported; use GET"}
            return _json(request, refusal, 405, [("Allow", "GET, HEAD")])
        try:
            return answer(request)
        except MapFormatError as error:
            return _json(request, {"error": str(error)}, 422)
        except errors.PublicError as error:
            return _json(request, {"error": str(error)}, error.http_code)

    return application


def _json(
    request: Request, content: Any, code: int = 200, headers: list[tuple[str, str]] | None = None
) -> Response:
    return http_util.Respond(request, content, "application/json", code=code, headers=headers)


def _context(request: Request) -> Any:
    return plugin_util.context(request.environ)


def _experiment(request: Request) -> str:
    return plugin_util.experiment_id(request.environ)


def _argument(request: Request, name: str) -> str:
    value = request.args.get(name)
    if not value:
        raise errors.InvalidArgumentError(f"the request lacks `{name}`")
    return value


def _whole_number(request: Request, name: str) -> int:
    value = _argument(request, name)
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise errors.InvalidArgumentError(f"`{name}` is not a whole number: {value[:40]!r}")
    return int(value)
