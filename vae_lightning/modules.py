"""The modules of a user's own that a configuration takes classes from."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY = "modules"
"""In a checkpoint's record: module -> the folder that it was imported from."""


def modules_of(config: Any) -> dict[str, str]:
    """The folders from which a configuration's classes were imported, by their modules' first names; without those of
    installed packages, which have their names there."""
    found = {}
    for class_path in _class_paths(config):
        name = class_path.partition(".")[0]
        module = sys.modules.get(name)
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
        place = next(filter(None, places), None)
        if place is None or {"site-packages", "dist-packages"} & set(Path(place).parts) or name == "vae_lightning":
            continue
        inside = hasattr(module, "__path__") and Path(place).name == "__init__.py"
        found[name] = str((Path(place).parent.parent if inside else Path(place).parent).resolve())
    return found


def require_modules(config: Any, record: dict[str, Any]) -> None:
    """Raises ValueError where a module that a checkpoint's configuration takes a class from cannot be imported.

    Args:
        config: the part of the configuration that is to be built.
        record: the checkpoint's, which says where the modules were.
    """
    for class_path in _class_paths(config):
        name = class_path.partition(".")[0]
        if "." not in class_path or name in sys.modules or importlib.util.find_spec(name) is not None:
            continue
        home = record.get(KEY, {}).get(name)
        if home is None:
            remedy = "add the folder that holds it to PYTHONPATH, or start from there."
        elif any((Path(home) / file).exists() for file in (f"{name}.py", name)):
            remedy = f"it was trained with the one in {home}: start there, or set PYTHONPATH={home}."
        else:
            remedy = (
                f"it was trained with the one in {home}, which is not there any more: add the folder that holds it now "
                "to PYTHONPATH, or start from there."
            )
        raise ValueError(f"{class_path}: expected the module {name!r}, in which it is defined, got none: {remedy}")


def _class_paths(config: Any) -> Iterator[str]:
    """Every class_path in it, down to the last setting."""
    if isinstance(config, list | tuple):
        for item in config:
            yield from _class_paths(item)
    elif isinstance(config, dict):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"]
        for value in config.values():
            yield from _class_paths(value)
