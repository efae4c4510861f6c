"""The modules of a user's own that a configuration takes classes from."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pydoc
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
        if home := _home(name):
            found[name] = home
    return found


def _home(name: str) -> str | None:
    """The folder that a module which has been imported lies in; None for an installed one, and for this package."""
    module = sys.modules.get(name)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    place = next(filter(None, places), None)
    if place is None or {"site-packages", "dist-packages"} & set(Path(place).parts) or name == "vae_lightning":
        return None
    inside = hasattr(module, "__path__") and Path(place).name == "__init__.py"
    return str((Path(place).parent.parent if inside else Path(place).parent).resolve())


def require_modules(config: Any, record: dict[str, Any]) -> None:
    """Raises ValueError where a module that a checkpoint's configuration takes a class from cannot be imported, or has
    no such class.

    Args:
        config: the part of the configuration that is to be built.
        record: the checkpoint's, which says where the modules were.
    """
    for class_path in _class_paths(config):
        name = class_path.partition(".")[0]
        if "." not in class_path:
            continue
        home = record.get(KEY, {}).get(name)
        if name in sys.modules or importlib.util.find_spec(name) is not None:
            _require_class(class_path, home)
            continue
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


def require_settings(config: Any, where: str = "") -> None:
    """Raises ValueError where a user's class has a setting that must be given and was not. Where it is not annotated,
    the parser takes it to be null.

    Args:
        config: plain.
        where: the key that it stands under.
    """
    if isinstance(config, list | tuple):
        for item in config:
            require_settings(item, where)
    elif isinstance(config, dict):
        class_path, given = config.get("class_path"), config.get("init_args")
        if isinstance(class_path, str) and isinstance(given, dict):
            if _home(class_path.partition(".")[0]):
                _require_given(class_path, given, where)
            config = given
        for name, value in config.items():
            require_settings(value, f"{where}.{name}" if where else str(name))


def _require_given(class_path: str, given: dict[str, Any], where: str) -> None:
    try:
        parameters = inspect.signature(pydoc.locate(class_path)).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError, pydoc.ErrorDuringImport):
        return
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty is parameter.annotation and name in given and given[name] is None:
            raise ValueError(
                f"{where}: {class_path.rpartition('.')[2]} needs the setting {name}, got none: give --{where}.{name}."
            )


def _require_class(class_path: str, home: str | None) -> None:
    """Raises ValueError for a class that a module lacks, or a module that cannot be imported."""
    names = class_path.split(".")
    found: Any = None
    for i, name in enumerate(names):
        inner, path = getattr(found, name, None), ".".join(names[: i + 1])
        if inner is None and (found is None or hasattr(found, "__path__")):
            inner = _imported(path, class_path)
        if inner is None:
            whole, last = ".".join(names[:i]), i == len(names) - 1
            what = f"the class {name}" if last else f"the module {name}"
            near = difflib.get_close_matches(name, [it for it in vars(found) if it != name], n=1)
            near_by = f" (it has {near[0]})" if near else ""
            raise ValueError(
                f"{class_path}: expected {what} in {whole}, got the module of {_place(found)}, which lacks "
                f"it{near_by}: {_remedy(names[0], home)}"
            )
        found = inner


def _imported(module: str, class_path: str) -> Any:
    """A module, or None where there is none of this name."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a user's file may do
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return None
        spec = importlib.util.find_spec(module)
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{class_path}: expected a module that can be imported, got {spec and spec.origin}, which ends with "
            f"{type(error).__name__}: {said}. Mend it there."
        ) from error


def _place(module: Any) -> str:
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "this process")


def _remedy(name: str, home: str | None) -> str:
    """What to do about a class that is not there any more."""
    if name == "vae_lightning":
        return "use the version of vae_lightning that the run was made with, or train it anew."
    here = _home(name)
    if home is not None and here != home and Path(home).exists():
        return f"it was trained with the one in {home}: start there, or set PYTHONPATH={home}."
    if here is None:
        return f"install the version of {name} that the run was made with."
    return "put the class back there under that name, or train the run anew."


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
