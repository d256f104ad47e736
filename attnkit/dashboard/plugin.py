"""The routes of the dashboard, under `/data/plugin/attention/`.

    index         which runs hold maps, of what, at which steps (JSON)
    record        all maps of one run, tag and step: header and layers, their sizes before them
    statistics    entropy, distance and first-token mass of each head over training (JSON)
    static/...    the pages

Whatever is refused is answered with JSON, {"error": "..."}: 400 for a request that makes no sense,
404 for what is not there, 422 for what lies in an event file and cannot be read.
"""

from __future__ import annotations

import functools
import gzip
import struct
from collections.abc import Callable
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from attnkit.dashboard import pages
from attnkit.dashboard.logged_maps import LoggedMaps
from attnkit.dashboard.statistics import StatisticsCache
from attnkit.tensorboard.map_header import PLUGIN_NAME, VERSION
from attnkit.tensorboard.untrusted import MapFormatError

LARGE = 2**18
"""Bytes from which on a record is compressed: worth it for a server that is far away."""

Answer = Callable[[Request], Response]


class AttentionPlugin(base_plugin.TBPlugin):
    """Serves logged maps to the pages; it changes nothing and answers GET and HEAD alone."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._maps = LoggedMaps(context.data_provider)
        self._statistics = StatisticsCache()

    def get_plugin_apps(self) -> dict[str, Any]:
        """The routes; a page is served if its name is listed, so no path leads elsewhere."""
        answers = {"/index": self._index, "/record": self._record, "/statistics": self._head_curves}
        for name in pages.names():
            answers[f"/static/{name}"] = functools.partial(_page, name)
        return {route: _guarded(answer) for route, answer in answers.items()}

    def is_active(self) -> bool:
        """False: TensorBoard itself sees that there is data of this plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """How TensorBoard shows the plugin."""
        return base_plugin.FrontendMetadata(
            es_module_path=f"/static/{pages.ENTRY}", tab_name="Attention"
        )

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


def _page(name: str, request: Request) -> Response:
    content, content_type = pages.read(name)
    return http_util.Respond(request, content, content_type)


def _guarded(answer: Answer) -> Any:
    """A WSGI application that answers GET and HEAD, and says in JSON what it refuses."""

    @Request.application
    def application(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            refusal = {"error": f"{request.method} is not answered here; use GET"}
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
        raise errors.InvalidArgumentError(f"`{name}` is no whole number: {value[:40]!r}")
    return int(value)
