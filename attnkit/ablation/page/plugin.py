"""The routes of the page, under `/data/plugin/ablations/`.

studies       the studies below the log directory (JSON)
study         the table of one, and the state of its runs (JSON)
curves        learning curves of its variants (JSON)
export        the table as a file: csv, json, md, tex
static/...    the page
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard import errors
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

from attnkit.ablation.page.folders import walk
from attnkit.pages.serving import applications, argument, entry_of, respond_bytes, respond_json

if TYPE_CHECKING:
    from attnkit.ablation.page.studies import Studies

LOOK_SECONDS = 10.0
"""Seconds for which the answer of `is_active`, a search of the log directory, is cached."""

FILE_TYPES = {
    "csv": "text/csv",
    "json": "application/json",
    "md": "text/markdown",
    "tex": "application/x-tex",
}

PACKAGE = "attnkit.ablation.page"
"""The package with the page's `static/`."""


class AblationsPlugin(base_plugin.TBPlugin):
    """Serves comparisons of studies to the page, read-only.

    Args:
        context: TensorBoard's.
        roots: the log directories -> the names of their groups.
    """

    plugin_name = "ablations"

    def __init__(self, context: base_plugin.TBContext, roots: Mapping[Path, str]) -> None:
        super().__init__(context)
        self._roots = roots
        self._active: tuple[float, bool] = (0.0, False)

    @functools.cached_property
    def _studies(self) -> Studies:
        from attnkit.ablation.page.studies import Studies  # numpy and YAML, at the first request

        return Studies(self._roots)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns the routes."""
        from attnkit.errors import UserError

        answers = {
            "/studies": self._list,
            "/study": self._study,
            "/curves": self._curves,
            "/export": self._export,
        }
        return applications(answers, PACKAGE, UserError, OSError)

    def is_active(self) -> bool:
        """True if there is a run or a plan of attnkit below the log directory."""
        when, found = self._active
        if time.monotonic() > when:
            found = any(next(walk(root), None) is not None for root in self._roots)
            self._active = (time.monotonic() + LOOK_SECONDS, found)
        return found

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns how TensorBoard shows the plugin."""
        return base_plugin.FrontendMetadata(es_module_path=entry_of(PACKAGE), tab_name="Ablations")

    def _list(self, request: Request) -> Response:
        return respond_json(request, {"studies": self._studies.list()})

    def _study(self, request: Request) -> Response:
        view = self._studies.view(
            self._study_id(request), request.args.get("base"), request.args.get("metric")
        )
        return respond_json(request, view)

    def _curves(self, request: Request) -> Response:
        curves = self._studies.curves(
            self._study_id(request),
            request.args.get("tag"),
            request.args.get("metric"),
            request.args.get("seeds") == "1",
        )
        return respond_bytes(request, curves, "application/json")

    def _export(self, request: Request) -> Response:
        form = argument(request, "form")
        if form not in FILE_TYPES:
            raise errors.InvalidArgumentError(f"`form` must be one of {', '.join(FILE_TYPES)}")
        text = self._studies.export(
            self._study_id(request), request.args.get("base"), request.args.get("metric"), form
        )
        return http_util.Respond(request, text, FILE_TYPES[form])

    def _study_id(self, request: Request) -> str:
        study = argument(request, "study")
        if not self._studies.has(study):
            raise errors.NotFoundError(f"there is no study {study!r} below the log directory")
        return study
