"""What a map shows: weights, weights times the lengths of what they hand over, or rollout.

    values     a_ij ||v_j W_O||, the length of what head h hands from key j to query i (Kobayashi et
               al. 2020, arXiv:2004.10102). Defined where the heads are linear in the values and
               `merge` is linear in the heads; signed weights keep their sign.
    rollout    R_l = (A_l / 2 + I / 2) R_(l-1), A_l the mean over the heads of layer l, R_(-1) = I
               (Abnar and Zuidema 2020, arXiv:2005.00928): how much of each input token reaches a
               token, if MLPs moved nothing and layers kept one half. Defined for self-attention
               whose rows sum to 1, up to the first layer where they do not; not where
               cross-attention lies between the layers.

`modes.js` does the same in a browser, from the logged weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap, layer_map

Mode = Literal["weights", "values", "rollout"]

MODES: tuple[Mode, ...] = get_args(Mode)


class ModeError(ValueError):
    """A mode is not defined for a map; the message gives the reason."""


def in_mode(record: AttentionRecord, mode: Mode, sites: Sequence[str] = ()) -> AttentionRecord:
    """Returns the maps of a site in a mode.

    Args:
        record: the weights.
        mode: one of `MODES`.
        sites: all sites of the model.

    Returns:
        A record with the layers up to the last one where the mode is defined. Those of `rollout`
        have one head.

    Raises:
        ModeError: if the mode is defined in no layer, or unknown.
    """
    if mode == "weights":
        return record
    if mode == "values":
        return _with_lengths(record)
    if mode == "rollout":
        return _rollout(record, sites)
    raise ModeError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}")


def _with_lengths(record: AttentionRecord) -> AttentionRecord:
    for layer in record.layers:
        if layer.lengths is None:
            raise ModeError(
                f"{record.site}: `values` is not defined for {layer.name}: its mechanism is not "
                "linear in the values, or changes the heads after it has mixed them"
            )
    layers = [
        layer_map(layer.name, layer.weights * layer.lengths[:, None], layer.allowed, "unnormalised")
        for layer in record.layers
        if layer.lengths is not None
    ]
    return replace(
        record, layers=layers, note=_with_note(record, "Weights times lengths of values.")
    )


def _rollout(record: AttentionRecord, sites: Sequence[str]) -> AttentionRecord:
    cross = record.site.removesuffix("self") + "cross"
    if record.kind == "cross" or cross in sites:
        where = "of" if record.kind == "cross" else "between the layers of"
        raise ModeError(
            f"`rollout` is not defined with cross-attention {where} {record.site}: its tokens also "
            "come from another sequence"
        )
    layers: list[LayerMap] = []
    size = len(record.query_tokens)
    total, reached = np.eye(size), np.eye(size, dtype=bool)
    for layer in record.layers:
        if layer.norm != "rows":
            break
        mean = layer.weights.astype(np.float64).mean(axis=0)
        total = (mean + np.eye(size)) / 2 @ total
        allowed = np.ones((size, size), bool) if layer.allowed is None else layer.allowed
        allowed = allowed.any(axis=0) if allowed.ndim == 3 else allowed
        reached = (allowed | np.eye(size, dtype=bool)) @ reached
        mapped = layer_map(layer.name, total[None], None if reached.all() else reached)
        layers.append(replace(mapped, is_of_all_heads=True))
    if not layers:
        raise ModeError(
            f"{record.site}: `rollout` is not defined: the rows of {record.layers[0].name} do not "
            "sum to 1"
        )
    note = "Rollout: heads averaged."
    if len(layers) < len(record.layers):
        note += f" Not defined from {record.layers[len(layers)].name} on: its rows do not sum to 1."
    return replace(record, layers=layers, note=_with_note(record, note))


def _with_note(record: AttentionRecord, note: str) -> str:
    return f"{record.note} {note}" if record.note else note
