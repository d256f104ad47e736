"""The record of a run's environment, `environment.json`: versions, machine, data, resumptions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import ENVIRONMENT, RunDirectoryError, write_json

PACKAGES = (
    "attnkit",
    "torch",
    "lightning",
    "torchmetrics",
    "tensorboard",
    "omegaconf",
    "tokenizers",
    "numpy",
)


def current_environment() -> dict[str, Any]:
    """Returns the machine and the versions that a run depends on, without user or host names."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def with_resumption(
    directory: Path, current: dict[str, Any], step: int, changes: Sequence[str]
) -> dict[str, Any]:
    """Returns the environment's record with an entry for a resumption: step, command, changes."""
    recorded = read_environment(directory)
    resumption = {"step": step, "command": current["command"], "changes": list(changes)}
    last = _last_versions(recorded)
    resumption |= {key: current[key] for key in _VERSIONS if current.get(key) != last.get(key)}
    return {**recorded, "resumed": [*recorded.get("resumed", []), resumption]}


def add_kernels(directory: Path, certificates: Sequence[Mapping[str, Any]]) -> None:
    """Adds certificates of outside kernels to the environment's record."""
    environment = parse_json((directory / ENVIRONMENT).read_bytes())
    write_json(directory / ENVIRONMENT, {**environment, "kernels": list(certificates)})


_VERSIONS = ("python", "threads", "precision", "device", "packages")
"""Keys of the environment that can change the last bits of results."""


def read_environment(directory: Path) -> dict[str, Any]:
    """Reads `environment.json` of a run.

    Raises:
        RunDirectoryError: if it is missing or damaged.
    """
    path = directory / ENVIRONMENT
    try:
        content = parse_json(path.read_bytes())
        for key, kind in {"packages": dict, "python": str, "data": dict}.items():
            if not isinstance(content[key], kind):
                raise ValueError(key)
        resumed = content.get("resumed", [])
        if not isinstance(resumed, list) or not all(isinstance(entry, dict) for entry in resumed):
            raise ValueError("resumed")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunDirectoryError(
            f"{path} is missing or damaged ({error}), so changes of data and versions cannot be "
            "detected; restore it, or train the run again with --overwrite"
        ) from error
    return content


def _last_versions(environment: dict[str, Any]) -> dict[str, Any]:
    """Returns the versions, threads, precision and device of the last process that trained."""
    last = {key: environment.get(key) for key in _VERSIONS}
    for resumption in environment.get("resumed", []):
        last |= {key: resumption[key] for key in _VERSIONS if key in resumption}
    return last


def changed_versions(directory: Path, current: dict[str, Any]) -> list[str]:
    """Returns `torch: 2.13.0 -> 2.14.0` for each version that differs from the last training, and
    likewise for the number of threads, the precision and the device.

    Raises:
        RunDirectoryError: if `environment.json` is missing or damaged.
    """
    recorded = _last_versions(read_environment(directory))
    single = [key for key in _VERSIONS if key != "packages"]
    pairs = [(key, recorded[key], current.get(key)) for key in single]
    known = recorded["packages"]
    pairs += [(name, known.get(name), version) for name, version in current["packages"].items()]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old is not None and old != new]
