"""The routes of the dashboard, under `/data/plugin/attention/`.

index         the runs with maps, their tags and steps; those with a clinic or contributions (JSON)
record        all maps of one run, tag and step: header and layers, preceded by their sizes
statistics    entropy, distance and first-token mass of each head over training (JSON)
clinic        the scores of the head clinic over training (JSON)
contributions what each part of the model adds to its predictions at one step (JSON)
static/...    the pages
"""

from __future__ import annotations

import struct
from typing import Any

from tensorboard import errors
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from attnkit.dashboard.head_statistics import StatisticsCache
from attnkit.dashboard.logged_maps import LoggedMaps
from attnkit.dashboard.run_files import RunFiles, clinic_of
from attnkit.pages.log_folders import folders_of
from attnkit.pages.serving import (
    applications,
    argument,
    context_of,
    entry_of,
    experiment_of,
    respond_bytes,
    respond_json,
    whole_number,
)
from attnkit.tensorboard import clinic_history, contributions
from attnkit.tensorboard.map_header import PLUGIN_NAME, VERSION
from attnkit.tensorboard.untrusted import MapFormatError

PACKAGE = "attnkit.dashboard"
"""The package with the page's `static/`."""


class AttentionPlugin(base_plugin.TBPlugin):
    """Serves logged maps to the pages, read-only, for GET and HEAD."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        super().__init__(context)
        self._maps = LoggedMaps(context.data_provider)
        self._statistics = StatisticsCache()
        roots = folders_of(context.flags)
        self._clinics = RunFiles(roots, clinic_history.FILE, clinic_of)
        self._contributions = RunFiles(roots, contributions.FILE, contributions.read_history)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns the routes."""
        answers = {
            "/index": self._index,
            "/record": self._record,
            "/statistics": self._head_curves,
            "/clinic": self._clinic,
            "/contributions": self._moment,
        }
        return applications(answers, PACKAGE, MapFormatError)

    def is_active(self) -> bool:
        """Returns False: TensorBoard itself detects data with this plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns how TensorBoard shows the plugin."""
        return base_plugin.FrontendMetadata(es_module_path=entry_of(PACKAGE), tab_name="Attention")

    def _index(self, request: Request) -> Response:
        series = self._maps.all_series(context_of(request), experiment_of(request))
        names = self._runs(request)
        runs: dict[str, dict[str, Any]] = {run: {} for run in names}
        for (run, tag), one in sorted(series.items()):
            runs.setdefault(run, {})[tag] = {"steps": one.steps, "started": one.started}
        content = {
            "version": VERSION,
            "runs": runs,
            "clinics": self._clinics.index(names),
            "contributions": self._contributions.index(names),
        }
        return respond_json(request, content)

    def _runs(self, request: Request) -> list[str]:
        provider = self._maps.provider
        runs = provider.list_runs(context_of(request), experiment_id=experiment_of(request))
        return sorted(run.run_name for run in runs)

    def _record(self, request: Request) -> Response:
        run, tag = argument(request, "run"), argument(request, "tag")
        parts = self._maps.record(
            context_of(request), experiment_of(request), run, tag, whole_number(request, "step")
        )
        sizes = struct.pack(f"<{1 + len(parts)}I", len(parts), *map(len, parts))
        return respond_bytes(request, b"".join([sizes, *parts]), "application/octet-stream")

    def _head_curves(self, request: Request) -> Response:
        run, tag = argument(request, "run"), argument(request, "tag")
        context, experiment = context_of(request), experiment_of(request)
        series = self._maps.one_series(context, experiment, run, tag)
        curves = self._statistics.curves(
            (experiment, run, tag, series.started),
            series.steps,
            lambda step: self._maps.blobs(context, experiment, run, tag, step),
        )
        return respond_json(request, curves)

    def _clinic(self, request: Request) -> Response:
        return respond_json(request, self._clinics.of(self._run(request)))

    def _moment(self, request: Request) -> Response:
        history = self._contributions.of(self._run(request))
        step = whole_number(request, "step")
        if step not in history["steps"]:
            raise errors.NotFoundError(f"{contributions.FILE} has no step {step}")
        return respond_json(request, history["moments"][history["steps"].index(step)])

    def _run(self, request: Request) -> str:
        run = argument(request, "run")
        if run not in self._runs(request):
            raise errors.NotFoundError(f"there is no run {run!r}")
        return run
