"""Groups the maps of a model by site: one record per site."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from attnkit.attention.maps import AttentionMap
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.key_sound import KeySound

SiteTokens = tuple[Sequence[str], Sequence[str]]

_NORMS = {"sum to 1": "rows", "unnormalised": "unnormalised", "signed": "signed"}

JACOBIAN_NOTE = "Not linear in its values: the Jacobian (signed) is shown."


def records_of(
    maps: Iterable[AttentionMap],
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    example: str,
    note: str = "",
    site_tokens: Mapping[str, SiteTokens] | None = None,
    sound: KeySound | None = None,
) -> list[AttentionRecord]:
    """Returns one record per site (`self`, `decoder.cross`), of the first sequence of the batch.

    Args:
        maps: from `attention_maps`.
        query_tokens: texts of the query tokens.
        key_tokens: texts of the key tokens.
        example: name of the example.
        note: a remark for readers of the maps.
        site_tokens: site (`encoder.self`) -> texts of its query tokens and key tokens, if they
            differ from the two above.
        sound: the sound whose positions are the keys of cross-attention, if there is one.
    """
    tokens_by_site = site_tokens or {}
    records = [
        _record(
            site, list(of_site), query_tokens, key_tokens, tokens_by_site.get(site), example, note
        )
        for site, of_site in _by_site(maps)
    ]
    return [
        replace(record, sound=sound) if record.kind == "cross" else record for record in records
    ]


def mechanisms_of(maps: Iterable[AttentionMap]) -> dict[str, str]:
    """Site -> names of its mechanisms, without duplicates."""
    return {
        site: ", ".join(dict.fromkeys(m.mechanism for m in of_site))
        for site, of_site in _by_site(maps)
    }


def _record(
    site: str,
    maps: list[AttentionMap],
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    of_site: SiteTokens | None,
    example: str,
    note: str,
) -> AttentionRecord:
    cross = maps[0].role == "cross"
    queries, keys = maps[0].weights.shape[-2:]
    later = torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)

    def tokens_of(count: int, cross: bool) -> Sequence[str]:
        """The tokens along an axis; an encoder has the key tokens on both."""
        return key_tokens if cross or count != len(query_tokens) else query_tokens

    query_texts, key_texts = of_site or (tokens_of(queries, False), tokens_of(keys, cross))
    if any(m.taken_from == "Jacobian" for m in maps):
        note = " ".join([*([note] if note else []), JACOBIAN_NOTE])
    return AttentionRecord(
        example=example,
        site=site,
        kind=maps[0].role,
        causal=not any(bool((m.allowed[0, 0] & later).any()) for m in maps),
        query_tokens=query_texts,
        key_tokens=key_texts,
        layers=[
            layer_map(
                f"L{i}",
                m.weights[0].numpy(),
                m.allowed[0, 0].numpy(),
                _NORMS[m.rows],
                None if m.value_lengths is None else m.value_lengths[0].numpy(),
            )
            for i, m in enumerate(maps)
        ],
        note=note,
    )


def _by_site(maps: Iterable[AttentionMap]) -> Iterator[tuple[str, Iterable[AttentionMap]]]:
    """Groups maps whose names in the model differ only in layer numbers."""
    return groupby(sorted(maps, key=_site_of_map), key=_site_of_map)


def _site_of_map(attention: AttentionMap) -> str:
    return site_of(attention.name, attention.role)


def site_of(name: str, role: str) -> str:
    """Returns the site of a mechanism: `model.decoder.layers.3.cross_attention` ->
    `decoder.cross`.

    Args:
        name: path of the mechanism in the model.
        role: `self` or `cross`.
    """
    parts = [part for part in name.split(".") if not part.isdigit()]
    place = [part for part in parts if not re.search("model|layer|block|attention|attn", part)]
    return ".".join([*place, role])
