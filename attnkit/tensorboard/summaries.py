"""The messages of an event file, as TensorBoard's protocol buffers.

Every summary sets its data class, which TensorBoard infers only for its own plugins.
"""

# Pyright does not know the names in modules that the protocol buffer compiler generated.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, summary_v2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

from attnkit.tensorboard.map_header import PLUGIN_NAME

STATUSES = {
    "success": api_pb2.STATUS_SUCCESS,
    "failed": api_pb2.STATUS_FAILURE,
    "aborted": api_pb2.STATUS_FAILURE,
    # Lightning's status when a cluster puts the job back into its queue.
    "finished": api_pb2.STATUS_RUNNING,
}


def scalar(tag: str, value: float) -> Summary:
    """Returns a point of a curve."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def text(tag: str, markdown: str) -> Summary:
    """Returns a text for the Text page."""
    content = markdown.encode("utf-8", errors="backslashreplace")
    return _strings(tag, "text", DATA_CLASS_TENSOR, [content])


def fenced(text: str) -> str:
    """Returns Markdown that shows a text verbatim, whatever Markdown or HTML it contains."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def image(tag: str, png: bytes, width: int, height: int) -> Summary:
    """Returns a PNG image for the Images page."""
    content = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=content)])


def maps(tag: str, blobs: Sequence[bytes]) -> Summary:
    """Returns attention maps for the dashboard, whose blobs can be fetched one at a time."""
    return _strings(tag, PLUGIN_NAME, DATA_CLASS_BLOB_SEQUENCE, blobs)


def layout(
    charts: Mapping[str, Mapping[str, Sequence[str]]],
    bands: Mapping[str, Mapping[str, tuple[str, str, str]]] | None = None,
) -> Summary:
    """Returns the layout of the Custom Scalars page: which curves it overlays.

    Args:
        charts: category -> chart -> regular expressions of the tags in it.
        bands: category -> chart -> tags of a curve, and of the lower and upper end of its band.
    """
    categories = [
        layout_pb2.Category(
            title=category,
            chart=[
                layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                for title, tags in entries.items()
            ],
        )
        for category, entries in charts.items()
    ]
    categories += [
        layout_pb2.Category(
            title=category,
            chart=[
                layout_pb2.Chart(
                    title=title,
                    margin=layout_pb2.MarginChartContent(
                        series=[
                            layout_pb2.MarginChartContent.Series(
                                value=value, lower=lower, upper=upper
                            )
                        ]
                    ),
                )
                for title, (value, lower, upper) in entries.items()
            ],
        )
        for category, entries in (bands or {}).items()
    ]
    content = layout_pb2.Layout(category=categories).SerializeToString()
    return _strings("custom_scalars__config__", "custom_scalars", DATA_CLASS_TENSOR, [content])


def session_start(params: Mapping[str, bool | int | float | str], trial_id: str) -> Summary:
    """Returns a run's row in the table of hyperparameters; `params` are flat, see `flatten`.

    Runs with the same trial id are averaged into one row. There is no `Experiment`, by design:
    TensorBoard would use that of the first run, and hide columns that only other runs have.
    """
    return summary_v2.hparams_pb(params, trial_id=trial_id)


def session_end(status: str) -> Summary:
    """Returns how a run ended, one of `STATUSES`."""
    end = SessionEndInfo(status=STATUSES[status], end_time_secs=time.time())
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(HParamsPluginData(session_end_info=end)),
        tensor=metadata.NULL_TENSOR,
    )
    return Summary(value=[value])


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Flattens nested mappings to dotted names; other values become JSON, and nulls are removed."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (bool, int, float, str)):
            flat[f"{prefix}{name}"] = value
        elif value is not None:
            flat[f"{prefix}{name}"] = json.dumps(value, default=str)
    return flat


def _strings(tag: str, plugin: str, data_class: int, contents: Sequence[bytes]) -> Summary:
    """Returns a vector of byte strings that belongs to a plugin."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(contents))])
    value = Summary.Value(
        tag=tag,
        metadata=SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name=plugin), data_class=data_class
        ),
        tensor=TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=contents),
    )
    return Summary(value=[value])
