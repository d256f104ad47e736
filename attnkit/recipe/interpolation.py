"""Interpolation: `${model.dim}` in a recipe stands for the value that is written there.

This is the only file that knows OmegaConf, and only a recipe with a `${` in it loads that.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from attnkit.recipe.errors import KeyPath, Problem, dotted
from attnkit.recipe.source import UNREADABLE, Node, node_of, plain

_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.\[\]]*\}")
_UNESCAPED = re.compile(r"(?<!\\)(\\\\)*\$\{")


def interpolate(root: Node, problems: list[Problem]) -> Node:
    """Replaces `${section.key}` by what stands there; the values keep the mark of the reference."""
    if not _has_reference(root):
        return root
    from omegaconf import OmegaConf

    allowed = _refuse_resolvers(root, (), problems)
    config = OmegaConf.create(plain(allowed), flags={"allow_objects": True})
    return _resolved(allowed, config, (), problems)


def escape_interpolation(text: str) -> str:
    """Writes text so that a `${` in it is read back as it is."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def _has_reference(node: Node) -> bool:
    if isinstance(node.value, dict):
        return any(map(_has_reference, node.value.values()))
    if isinstance(node.value, list):
        return any(map(_has_reference, node.value))
    return isinstance(node.value, str) and "${" in node.value


def _refuse_resolvers(node: Node, path: KeyPath, problems: list[Problem]) -> Node:
    """Only references to keys are resolved: a resolver could write a secret into a run's folder."""
    if isinstance(node.value, dict):
        children = node.value.items()
        return replace(
            node, value={k: _refuse_resolvers(v, (*path, k), problems) for k, v in children}
        )
    if isinstance(node.value, list):
        items = enumerate(node.value)
        return replace(
            node, value=[_refuse_resolvers(v, (*path, f"[{i}]"), problems) for i, v in items]
        )
    # A letter stands in for each reference: without it what is left and right would join.
    if not isinstance(node.value, str) or not _UNESCAPED.search(_REFERENCE.sub("x", node.value)):
        return node
    message = (
        "only references to keys such as ${model.dim} are allowed here; "
        "for a literal `${` write `\\${`"
    )
    if "oc.env" in node.value:
        message = (
            "environment variables are not allowed: their values would be written into "
            "the run's folder; pass the value as an override"
        )
    problems.append(Problem(node.mark, dotted(path), message))
    return replace(node, value=UNREADABLE)


def _resolved(node: Node, config: Any, path: KeyPath, problems: list[Problem]) -> Node:
    if isinstance(node.value, dict):
        keys = node.value.items()
        return replace(
            node, value={k: _element(v, config, k, (*path, k), problems) for k, v in keys}
        )
    items = enumerate(node.value)
    return replace(
        node, value=[_element(v, config, i, (*path, f"[{i}]"), problems) for i, v in items]
    )


def _element(node: Node, config: Any, key: Any, path: KeyPath, problems: list[Problem]) -> Node:
    if isinstance(node.value, dict | list):
        return _resolved(node, config[key], path, problems)
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = config[key]
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        message = f"`{node.value}` cannot be resolved: {reason} (only keys that the recipe writes)"
        problems.append(Problem(node.mark, dotted(path), message))
        return replace(node, value=UNREADABLE)
    return node_of(value, node.mark, node.key_mark)
