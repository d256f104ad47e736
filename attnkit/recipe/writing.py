"""Writes a recipe: plain types, and YAML that is read back unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from attnkit.recipe.interpolation import escape_interpolation
from attnkit.recipe.scalars import needs_quotes
from attnkit.registry import Spec


def plain_types(value: Any) -> Any:
    """Returns a value as dicts, lists, text and numbers; a spec becomes `{name: ..., ...}`."""
    if isinstance(value, Spec):
        return {"name": value.name, **plain_types(value.options)}
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {item.name: plain_types(getattr(value, item.name)) for item in fields}
    if isinstance(value, Mapping):
        return {key: plain_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_types(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_yaml(keys: Mapping[str, Any]) -> str:
    """Returns plain types as a recipe file, in the order of their keys."""
    return yaml.dump(keys, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Writes repeated values in full: aliases are hard to read."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Quotes where PyYAML would write none, but this kit reads another type: `1e-3`.
    style = '"' if needs_quotes(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", escape_interpolation(text), style=style)


_Dumper.add_representer(str, _represent_text)
