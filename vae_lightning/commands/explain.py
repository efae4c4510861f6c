"""What is wrong with a configuration, in one sentence: jsonargparse tells the whole nest of types it looked for."""

from __future__ import annotations

import difflib
import inspect
import pydoc
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

from vae_lightning.commands.values import documented, of_another_type, plain_kinds

OURS = "vae_lightning."
INSTANTIATED = {".loggers.": "trainer.logger", ".callbacks.": "trainer.callbacks"}
"""Settings whose classes are made after parsing, by their module in Lightning: an error then names no key."""


def _near(word: str, known: Iterable[str]) -> str:
    match = [name for name in difflib.get_close_matches(word, known, n=2) if name != word]
    return f" (did you mean {match[0]}?)" if match else ""


def _settings(class_path: str) -> list[str] | None:
    try:
        return list(inspect.signature(pydoc.locate(class_path)).parameters)  # type: ignore[arg-type]
    except (ValueError, TypeError, pydoc.ErrorDuringImport):
        return None


def _about(word: str, class_path: str, settings: list[str]) -> list[str]:
    """The settings whose documentation speaks of a word: channels, "1 for grey", of grey."""
    whole = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    return [name for name in settings if whole.search(documented(class_path, name))]


def _whose(error: BaseException | None) -> re.Match[str] | None:
    """The class whose setting was not accepted, as one of the errors behind this one names it."""
    while error is not None:
        if found := re.search(r"Problem with given class_path '([^']+)'", str(error)):
            return found
        error = error.__cause__ or error.__context__
    return None


def _fitting(slot: str) -> dict[str, Any]:
    """The library's classes of a slot, by their names."""
    if slot in ("optimizer", "lr_scheduler"):
        import torch

        return vars(torch.optim if slot == "optimizer" else torch.optim.lr_scheduler)
    if slot in ("callbacks", "logger"):
        from lightning.pytorch import callbacks, loggers

        return vars(callbacks if slot == "callbacks" else loggers)
    return {}


def _of_another_kind(where: str, name: str, kinds: Mapping[str, Any]) -> str | None:
    """What the user meant by a class that exists and does not belong there."""
    slot, short = where.rpartition(".")[2], name.rpartition(".")[2]
    if slot == "lr_schedule" and short in _fitting("lr_scheduler"):
        return "a scheduler of torch's: give it as --model.lr_scheduler, with --model.lr_schedule null"
    try:
        found = kinds.get(name) or _fitting(slot).get(name) or pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None
    if not isinstance(found, type):
        return None
    bases = [base.__name__ for base in found.__mro__]
    if slot == "lr_scheduler" and "Schedule" in bases:
        return "one of this project's: give it as --model.lr_schedule, with --model.lr_scheduler null"
    if "LightningDataModule" in bases:
        return (
            "a DataModule, and the project has its own around any source: give the source of its images, such as "
            "ImageFolder, MNIST or a subclass of vae_lightning.data.ImageSource"
        )
    if slot == "source" and "Dataset" in bases:
        return "a data set of torch's: let a subclass of vae_lightning.data.ImageSource load its images"
    kind = next((base.__name__ for base in reversed(found.__mro__[:-1]) if base.__module__.startswith(OURS)), None)
    return f"a {kind or bases[min(1, len(bases) - 2)]}" if kind != short else "of another kind"


def _slot(kind: Any) -> str | None:
    """The setting that a class of the project is for, where a whole section was given it."""
    bases = [base.__name__ for base in getattr(kind, "__mro__", ())]
    slots = {"ImageSource": "data.source", "Model": "model.latent_model", "Objective": "model.objective"}
    return next((slot for base, slot in slots.items() if base in bases), None)


def _of_a_class(text: str, where: str, error: Exception) -> str | None:
    """Where a class is the right one, and cannot be made."""
    path = re.search(r"class_path[=']+ ?'?([\w.]+)'", text)
    name = path[1].rpartition(".")[2] if path else where
    if found := re.search(r"Requirement '([^']+)' not met", text):
        return f"{where}: {name} needs a package that is not installed: pip install '{found[1]}', or choose another."
    if "Expected an import path or a subclass spec, but got None" in text:
        return f"{where}: expected the name of a class, got null: give --{where} NAME, or do not set it."
    if "tensorboardX" in text:
        return f"{where}: {name} needs a package that is not installed: pip install tensorboard, or choose another."
    if not where and (found := re.search(r"the following arguments are required: \w+\.(\w[\w.]*)", text)):
        return f"{found[1]}: expected a value, got none: give --{found[1]} VALUE, or a file of configs/ that has it."
    if found := re.search(r"the following arguments are required: (\w+(?:, \w+)*)", text):
        flags = " and ".join(f"--{where}.{setting}" for setting in found[1].split(", "))
        return f"{where}: {name} needs the setting {found[1]}, got none: give {flags}."
    if found := re.search(r"No module named '([^']+)'", text):
        value = re.search(r"Got value: (\w[\w.]*\w)", text)
        got = f", got {value[1]}" if value else ""
        return (
            f"{where}: expected a class that can be imported{got}: there is no module {found[1]!r} here. Start from "
            "the folder that holds it, or add that to PYTHONPATH."
        )
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", text):
        near = _near(found[2], vars(sys.modules.get(found[1], re)))
        return f"{where}: expected the name of a class of {found[1]}, got {found[2]!r}, which there is not{near}."
    if found := re.search(r"Multiple subclasses with name (\w+)\. Give the full class path[^:]*: ([\w., ]+)", text):
        paths = found[2].rstrip(". ").split(", ")
        own = next((path for path in paths if path.startswith("torch.")), paths[0])
        return f"{where}: expected one class, got {found[1]}, a name of {len(paths)}: give --{where} {own}."
    return None


def explain(error: Exception, kinds: Mapping[str, Any]) -> str:
    """One sentence: where, what was expected, what came.

    Args:
        error: what the parser raised.
        kinds: the project's own classes, by the names that a configuration may use for them.
    """
    text = " ".join(str(error).split())
    where = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    where = where or next((key for part, key in INSTANTIATED.items() if part in text), "")
    if found := re.search(r"Option '([^']+)' is not accepted", text):
        option = found[1].partition(".init_args.")[0]  # of a class that is set there with settings of its own
        last = ".*" if option != found[1] else ""
        owner = re.search(rf"{last}class_path='([^']+)'", text[found.end() :]) or _whose(error)
        settings = _settings(owner[1]) if owner else None
        of = f" of {owner[1].rpartition('.')[2]}" if owner else ""
        if owner and settings and option in settings and where.endswith(f".{option}"):
            wanted = str(inspect.signature(cast(Any, pydoc.locate(owner[1]))).parameters[option]).partition(":")[2]
            return f"{where}: expected a value for {option}{of} ({wanted.strip()}), got another."
        known = settings or []
        about = _about(option, owner[1], known) if owner else []
        near = _near(option, known) or (f" (did you mean {about[0]}?)" if about else "")
        first = [*difflib.get_close_matches(option, known, n=3), *about]
        takes = f"; it takes {', '.join(dict.fromkeys([*first, *known]))}" if known else ""
        takes = "; it takes none" if settings == [] else takes
        return f"{where}.{option}: there is no setting {option!r}{of}{near}{takes}."
    if sentence := of_another_type(text, where):
        return sentence
    if found := re.search(r"Expected a dot import path string: ([^\s.]+)", text):
        name, fitting = found[1], [it for it in _fitting(where.rpartition(".")[2]) if it[0].isupper()]
        if other := _of_another_kind(where, name, kinds):
            return f"{where}: expected a class that belongs there, got {name}, which is {other}."
        near = _near(name, [*fitting, *kinds])
        if (plain := plain_kinds(text)) and not near:
            return f"{where}: expected {plain} or the name of a class, got {name}, which is neither."
        return f"{where}: expected the name of a class, got {name!r}, which there is not{near}."
    if sentence := _of_a_class(text, where, error):
        return sentence
    if found := re.search(r"Problem with given class_path '([^']+)':\s*(?!Parser key)(.+?)(?:\. Got value|$)", text):
        return f"{where}: expected the import path of a class, got {found[1]!r}, which cannot be imported ({found[2]})."
    if found := re.search(r"(?:Import path (\S+) does not correspond to|Expected '([^']+)' to be) a subclass of", text):
        name, kind = found[1] or found[2], re.search(r"a subclass of (?:<class ')?(\w+)", text[found.start() :])
        other = _of_another_kind(where, name, kinds) or "none"
        return f"{where}: expected a class of kind {kind[1] if kind else '?'}, got {name}, which is {other}."
    if found := re.search(r"Import path does not correspond to a subclass of (\w+)", text):
        name = next(iter(re.findall(r"Given value: ([\w.]+)", text)), "another")
        other = _of_another_kind(where, name, kinds) or "none"
        return f"{where}: expected a class of kind {found[1]}, got {name}, which is {other}."
    if found := re.search(r"Not a valid subclass of (\w+)\. Got value: (.+?) Subclass types", text):
        return (
            f"{where}: expected a class of kind {found[1]}, got {found[2][:100]}: give its name, and its settings as "
            f"--{where}.NAME VALUE."
        )
    if "No quantity for top_k to track" in text:
        return f"{where}: expected a number to monitor for several checkpoints, got none: --{where}.monitor headline."
    if found := re.search(r"Unable to load config [\"']([^\"']+)", text):
        where = where.partition(".")[0]  # a section, which the parser names twice
        if slot := _slot(kinds.get(found[1].rpartition(".")[2])):
            return f"{where}: expected settings or a file of them, got the class {found[1]}: say --{slot} {found[1]}."
        return f"{where}: expected settings such as --{where}.NAME VALUE, or a file of them, got {found[1]!r}."
    if "unrecognized arguments" in text:
        return f"{text}: expected options that the command has; COMMAND --help lists them."
    return _shortened(text, where)


def _shortened(text: str, where: str) -> str:
    """What is left: of a nest of types, the first complaint that says something."""
    if "Errors: - " not in text:
        return text
    complaints = text.partition("Errors: - ")[2].partition(" Given value")[0].split(" - ")
    value = (re.findall(r"class_path='([^']+)'", text) or [text.rpartition("Given value: ")[2][:100]])[0]
    telling = [it for it in complaints if not it.startswith(("Expected a <class", "Expected a path"))]
    return f"{where}: {(telling or complaints)[0].rstrip('. ')} (got {value})."
