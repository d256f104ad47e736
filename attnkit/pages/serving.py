"""The part of a TensorBoard plugin that all pages share: static files, and answers as JSON.

Errors are JSON, {"error": "..."}: 400 for an invalid request, 404 for missing data, 405 for other
methods than GET and HEAD, 422 for files that cannot be read.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from collections.abc import Callable
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from werkzeug import Request, Response
from werkzeug.http import quote_etag

from attnkit.pages.static_files import CONTENT_TYPES, modules_of, read_static, static_names

ENTRY = "main.js"
"""The module of each page that TensorBoard imports; its `render` draws the page."""

VERSION = re.compile(r"(?:[0-9a-f]{12})?")
"""Version of the static files in an address; may be empty."""

CACHE_SECONDS = 30 * 24 * 3600
"""Seconds for which a browser caches a static file whose address has a version."""

LARGE = 2**18
"""Size in bytes above which an answer is compressed, which helps with remote servers."""

Answer = Callable[[Request], Response]


def applications(
    answers: dict[str, Answer], package: str, *unreadable: type[Exception]
) -> dict[str, Any]:
    """Returns the routes of a plugin: its answers, and its static files.

    Args:
        answers: route -> its handler.
        package: the package with the plugin's `static/`.
        unreadable: exceptions about files that cannot be read.
    """
    pages = {"/static/*": functools.partial(_page, package)}
    return {route: _guarded(answer, unreadable) for route, answer in {**answers, **pages}.items()}


def entry_of(package: str) -> str:
    """Returns the route of a page's first module.

    It contains a digest of all static files, so that a browser caches them until one changes.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    for name, origin in static_names((package,)).items():
        digest.update(read_static(origin, name).encode())
    return f"/static/{digest.hexdigest()[:12]}/{ENTRY}"


def _page(package: str, request: Request) -> Response:
    """Answers with a static file. Only listed ones are served, so no path escapes a folder.

    The first module imports all others, so that a browser requests them at once, not level by
    level.
    """
    names = static_names((package,))
    version, _, name = request.path.partition("/static/")[2].rpartition("/")
    if name not in names or not VERSION.fullmatch(version):
        raise errors.NotFoundError(f"there is no file {name!r}")
    text = read_static(names[name], name)
    if name == ENTRY:
        others = (each for each in modules_of((package,), ENTRY) if each != ENTRY)
        text = "".join(f'import "./{each}";' for each in others) + text
    content_type = CONTENT_TYPES[name.rpartition(".")[2]]
    return http_util.Respond(request, text, content_type, expires=CACHE_SECONDS if version else 0)


def _guarded(answer: Answer, unreadable: tuple[type[Exception], ...]) -> Any:
    """Wraps a handler in a WSGI application for GET and HEAD, with errors as JSON."""

    @Request.application
    def application(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            refusal = {"error": f"{request.method} is not supported; use GET"}
            return respond_json(request, refusal, 405, [("Allow", "GET, HEAD")])
        try:
            return answer(request)
        except unreadable as error:
            return respond_json(request, {"error": str(error)}, 422)
        except errors.PublicError as error:
            return respond_json(request, {"error": str(error)}, error.http_code)

    return application


def respond_json(
    request: Request, content: Any, code: int = 200, headers: list[tuple[str, str]] | None = None
) -> Response:
    """Answers with JSON."""
    answer = http_util.Respond(request, content, "application/json", code=code, headers=headers)
    if code == 200:
        answer.add_etag()
        answer.make_conditional(request)
    return answer


def respond_bytes(request: Request, content: bytes, content_type: str) -> Response:
    """Answers with bytes, compressed if they are many; with 304 if the page already has them."""
    tag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if request.if_none_match.contains(tag):
        return Response(status=304, headers=[("ETag", quote_etag(tag))])
    encoding = None
    if len(content) > LARGE:
        content, encoding = gzip.compress(content, compresslevel=1), "gzip"
    headers = [("ETag", quote_etag(tag))]
    return http_util.Respond(
        request, content, content_type, content_encoding=encoding, headers=headers
    )


def context_of(request: Request) -> Any:
    """Returns TensorBoard's context of a request."""
    return plugin_util.context(request.environ)


def experiment_of(request: Request) -> str:
    """Returns the id of the experiment that a request is about."""
    return plugin_util.experiment_id(request.environ)


def argument(request: Request, name: str) -> str:
    """Returns an argument of a request.

    Raises:
        errors.InvalidArgumentError: if it is missing or empty.
    """
    value = request.args.get(name)
    if not value:
        raise errors.InvalidArgumentError(f"the request lacks `{name}`")
    return value


def whole_number(request: Request, name: str) -> int:
    """Returns a whole number among the arguments of a request.

    Raises:
        errors.InvalidArgumentError: if it is missing, or not a whole number.
    """
    value = argument(request, name)
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise errors.InvalidArgumentError(f"`{name}` is not a whole number: {value[:40]!r}")
    return int(value)
