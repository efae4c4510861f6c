"""What is wrong with a configuration, in one sentence: jsonargparse tells the whole nest of types it looked for."""

from __future__ import annotations

import difflib
import inspect
import pydoc
import re
from collections.abc import Iterable


def _near(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {match[0]}?)" if match else ""


def _settings(class_path: str) -> list[str]:
    try:
        return list(inspect.signature(pydoc.locate(class_path)).parameters)  # type: ignore[arg-type]
    except (ValueError, TypeError, pydoc.ErrorDuringImport):
        return []


def _about(word: str, class_path: str, settings: list[str]) -> list[str]:
    """The settings whose documentation speaks of a word: channels, "1 for grey", of grey."""
    text = inspect.getdoc(pydoc.locate(class_path)) or ""
    said = {name: re.search(rf"^ +{name}: (.*(?:\n {{8,}}.*)*)", text, re.MULTILINE) for name in settings}
    return [
        name for name, found in said.items() if found and re.search(rf"\b{re.escape(word)}\b", found[1], re.IGNORECASE)
    ]


def _whose(error: BaseException | None) -> re.Match[str] | None:
    """The class whose setting was not accepted, as one of the errors behind this one names it."""
    while error is not None:
        if found := re.search(r"Problem with given class_path '([^']+)'", str(error)):
            return found
        error = error.__cause__ or error.__context__
    return None


def explain(error: Exception, classes: Iterable[str]) -> str:
    """One sentence: where, what was expected, what came.

    Args:
        error: what the parser raised.
        classes: names that a configuration may use for the project's own classes.
    """
    text = str(error)
    where = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    if found := re.search(r"Option '([^']+)' is not accepted", text):
        option = found[1]
        owner = re.search(r"class_path='([^']+)'", text[found.end() :]) or _whose(error)
        settings = _settings(owner[1]) if owner else []
        of = f" of {owner[1].rpartition('.')[2]}" if owner else ""
        about = _about(option, owner[1], settings) if owner else []
        near = _near(option, settings) or (f" (did you mean {about[0]}?)" if about else "")
        first = [*difflib.get_close_matches(option, settings, n=3), *about]
        takes = f"; it takes {', '.join(dict.fromkeys([*first, *settings]))}" if settings else ""
        return f"{where}.{option}: there is no setting {option!r}{of}{near}{takes}."
    if found := re.search(r"Expected a dot import path string: ([^\s.]+)", text):
        return f"{where}: expected the name of a class, got {found[1]!r}, which there is not{_near(found[1], classes)}."
    if found := re.search(r"Problem with given class_path '([^']+)':\s*(.+?)(?:\. Got value|$)", text):
        return f"{where}: expected the import path of a class, got {found[1]!r}, which cannot be imported ({found[2]})."
    if found := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{where}: expected a class of kind {found[2]}, got {found[1]}, which is none."
    if found := re.search(r"Expected '([^']+)' to be a subclass of <class '(\w+)'>", text):
        return f"{where}: expected a class of kind {found[2]}, got {found[1]}, which is none."
    if found := re.search(r"Expected a <class '(\w+)'>\. Got value: (.+?)(?:\. Got value|$)", text):
        return f"{where}: expected {found[1]}, got {found[2]}."
    if "unrecognized arguments" in text:
        return f"{text}: expected options that the command has; COMMAND --help lists them."
    return " ".join(text.split())
