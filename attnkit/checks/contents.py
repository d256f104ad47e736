"""What modules and masks hold: tensors in their attributes, and what a call changes in them."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attnkit.attention.base import Attention
from attnkit.checks.blame import line_that_writes
from attnkit.checks.case import Broken

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has."""

_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)


def held(value: Any, path: str, depth: int = 4) -> Iterator[tuple[str, Tensor | nn.Module]]:
    """Yields the tensors and modules in a value, also in lists, dicts and objects, with paths."""
    if isinstance(value, Tensor | nn.Module):
        yield path, value
    elif depth:
        for name, item in _items(value) or ():
            yield from held(item, f"{path}{name}", depth - 1)


def held_outside(attention: Attention) -> Iterator[tuple[str, Tensor | nn.Module]]:
    """Yields the tensors and modules that a mechanism and its parts store outside of parameters,
    buffers and submodules.
    """
    for name, module in attention.named_modules():
        for attribute, value in list(vars(module).items()):
            if attribute not in _OF_TORCH:
                yield from held(value, f"{name}.{attribute}" if name else attribute)


@contextmanager
def writes_nothing(root: nn.Module, when: str = "") -> Iterator[None]:
    """Demands that calls in this block change no attribute and no buffer of a module or its parts.
    Values of parameters are not compared, and what a `cached_property` stores is allowed.

    Args:
        root: the module.
        when: end of the evidence, such as ` in training`.
    """
    before = {id(module): (module, _contents(module)) for module in root.modules()}
    yield
    for module in root.modules():
        if id(module) not in before:  # the module that holds it has changed
            continue
        old, new = before[id(module)][1], _contents(module)
        changed = [name for name in {**new, **old} if not _same(old.get(name), new.get(name))]
        if not changed:
            continue
        names = " and ".join(f"`self.{name}`" for name in changed[:3])
        of = "" if module is root else f" of {type(module).__name__}"
        line = line_that_writes(changed[0], type(module), *map(type, root.modules()))
        raise Broken(
            f"the call changed {names}{of}{when}{f' ({line})' if line else ''}; keep nothing "
            "between calls: use local variables, and `stream.shared` for later layers"
        )


def _contents(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Returns for each attribute of a module, its buffers, parameters and parts included, what it
    holds by path, with copies of tensors that are not parameters.
    """
    own = {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
    found: dict[str, dict[str, Any]] = {}
    for name, value in (own | module._buffers | module._parameters | module._modules).items():
        if not isinstance(getattr(type(module), name, None), functools.cached_property):
            found[name] = dict(_parts(value, ""))
    return found


def _parts(value: Any, path: str, depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Yields a value, or a copy if it is a tensor, and what it contains, with paths."""
    items = _items(value)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        yield path, value.detach().clone()
    elif not isinstance(value, _CONTAINERS):
        yield path, value
    if items is None:
        return
    yield f"{path} items", len(items)
    for name, item in items if depth else ():
        yield from _parts(item, f"{path}{name}", depth - 1)


def _items(value: Any) -> list[tuple[str, Any]] | None:
    """Returns the parts of a list, dict or object, with ends of paths; None if it has none."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, _CONTAINERS):
        return [(f"[{i}]", item) for i, item in enumerate(value)]
    is_one = callable(value) or isinstance(value, Tensor | torch.dtype | torch.device)
    if is_one or not hasattr(value, "__dict__"):
        return None
    return [(f".{name}", item) for name, item in vars(value).items()]


def _same(old: dict[str, Any] | None, new: dict[str, Any] | None) -> bool:
    """Returns True if an attribute holds equal numbers, words and tensors, and the same objects."""
    if old is None or new is None or old.keys() != new.keys():
        return False
    return all(_equal(value, new[path]) for path, value in old.items())


def _equal(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if isinstance(old, nn.Parameter) or isinstance(new, nn.Parameter):
            return False
        alike = (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)
        return alike and torch.equal(old.nan_to_num(), new.nan_to_num())
    return isinstance(old, _BY_VALUE) and type(old) is type(new) and old == new


_BY_VALUE = (int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
