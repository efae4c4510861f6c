"""A value of another type than its setting takes: what it takes, in words, and how that is written."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any

PLAIN = {
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("true or false", "true and false"),
    "str": ("a text", "texts"),
    "Path": ("a path", "paths"),
}
COUNTS = {2: "two", 3: "three", 4: "four"}
SERIES = ("list", "Sequence", "Iterable", "tuple", "set")
NAMED = ("dict", "Mapping")
SHOWN = 100
"""How much of a value a sentence repeats."""


def documented(class_path: str, setting: str) -> str:
    """What a class's documentation says of a setting; empty where it says nothing."""
    try:
        text = inspect.getdoc(pydoc.locate(class_path)) or ""
    except pydoc.ErrorDuringImport:
        return ""
    found = re.search(rf"^ +{re.escape(setting)}: (.*(?:\n {{8,}}.*)*)", text, re.MULTILINE)
    return found[1] if found else ""


def of_another_type(text: str, where: str) -> str | None:
    """A sentence on the value, or None where the parser complains of something else.

    Args:
        text: the parser's error.
        where: the setting's key.
    """
    said = text[text.rfind('Parser key "') :]
    owner, types, value = _owner(text, said), _types(said), _value(said)
    names_classes = value.startswith("[") and "Expected a dot import path" in said
    if types is None or names_classes or any(_is_class(it) for it in types):
        return None
    setting = where.rpartition(".")[2]
    types = [_annotated(owner, setting) or it if it in SERIES else it for it in types]
    words = [found for it in types if (found := _in_words(it))]
    if choices := [choice.strip("'") for it in types if it.startswith("Literal[") for choice in _of(it)[1]]:
        words.append(f"one of {', '.join(dict.fromkeys(choices))}")
    if not words:
        return None
    words = [*dict.fromkeys(words), *(["null"] if "NoneType" in types else [])]
    expected = ", ".join(words[:-1]) + (" or " if len(words) > 1 else "") + words[-1]
    remedy = next((found for it in types if (found := _written(it, owner, setting, value))), "")
    return f"{where}: expected {expected}, got {value}{f': give --{where} {remedy}' if remedy else ''}."


def plain_kinds(text: str) -> str:
    """What else a setting takes that takes a class as well: "a number"; empty where it takes classes alone."""
    types = _types(text[text.rfind('Parser key "') :]) or []
    return " or ".join(PLAIN[it][0] for it in types if it in PLAIN)


def _types(said: str) -> list[str] | None:
    """The types that a value was held against, by their names: int, tuple[float, float], NoneType, x.y.Class."""
    if found := re.search(r"Subtypes: \[(.+?)\] Errors:", said):
        types = _parts(found[1])
    elif found := re.search(r"Expected a (<class '[\w.]+'>|typing\.Literal\[.+?\]|tuple(?= with))", said):
        types = [found[1]]
    else:
        return None
    types = [re.sub(r"<class '([\w.]+)'>", r"\1", it) for it in types]
    types = [re.sub(r"^(typing|collections\.abc|pathlib)\.", "", it) for it in types if it != "torch.Tensor"]
    return [it for it in types if it != "int" or "float" not in types]


def _parts(text: str, at: str = ",") -> list[str]:
    """Split at the letters that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == at and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _is_class(kind: str) -> bool:
    """Whether its value is the name of a class."""
    return re.fullmatch(r"[\w.]+", kind) is not None and kind not in (*PLAIN, *SERIES, *NAMED, "NoneType")


def _of(kind: str) -> tuple[str, list[str]]:
    """tuple[int, int] -> tuple and its elements' types."""
    name, _, inner = kind.partition("[")
    return name, [it for it in _parts(inner.removesuffix("]")) if it]


def _plain(kind: str) -> str | None:
    """The first plain type in it: that of an element such as float | Tensor."""
    return next((word for word in re.findall(r"\w+", kind) if word in PLAIN), None)


def _in_words(kind: str) -> str | None:
    name, inner = _of(kind)
    if name in PLAIN:
        return PLAIN[name][0]
    if name in NAMED:
        return "names with their values"
    if name not in SERIES:
        return None
    if inner and _of(inner[0])[0] in SERIES:
        return "a list of lists"
    kinds = [_plain(it) for it in inner if it != "..."]
    of = PLAIN[kinds[0]][1] if kinds and kinds[0] and len(set(kinds)) == 1 else None
    if name == "tuple" and inner and inner[-1] != "...":
        return f"{COUNTS.get(len(inner), len(inner))} {of or 'values'}"
    return f"a list of {of or 'classes'}" if kinds else "a list"


def _written(kind: str, owner: str | None, setting: str, value: str) -> str:
    """How a series is written on the command line; empty for what is none."""
    name, inner = _of(kind)
    if name not in SERIES or not inner or _of(inner[0])[0] in SERIES:
        return ""
    if name == "tuple" and inner[-1] != "...":
        names = re.match(r"[\[(](\w+(?:, \w+)*)[\])]", documented(owner, setting) if owner else "")
        said = names[1].split(", ") if names else []
        return f"[{','.join(said if len(said) == len(inner) else 'abcdefgh'[: len(inner)])}]"
    plain = _plain(inner[0])
    if plain == "str" or (plain and re.fullmatch(r"-?\d+" if plain == "int" else r"-?[\d.]+(e-?\d+)?", value)):
        return f"[{value}]"
    return {"int": "[1,2], or however many", "float": "[0.1,0.2], or however many"}.get(plain or "", "")


def _value(said: str) -> str:
    found = re.search(r" Given value: (?!NestedArg)(.+?)(?:\. Got value|$)", said)
    found = found or re.search(r"Got value: (.+?)(?:\. Got value| - Expected| Given value|$)", said)
    return found[1][:SHOWN] if found else "another"


def _owner(text: str, said: str) -> str | None:
    """The class that the setting belongs to."""
    before = re.findall(r"Problem with given class_path '([^']+)'", text)
    after = re.search(r"class_path='([^']+)'", said)
    return after[1] if after else before[-1] if before else None


def _annotated(owner: str | None, setting: str) -> str | None:
    """The type of a series, with those of its elements, as the class says it."""
    try:
        signature: Any = inspect.signature(pydoc.locate(owner)) if owner else None  # type: ignore[arg-type]
    except (ValueError, TypeError, pydoc.ErrorDuringImport):
        return None
    parameter = signature.parameters.get(setting) if signature else None
    kind = _parts(str(getattr(parameter, "annotation", "")).replace("typing.", ""), "|")[0]
    kind = kind.replace("collections.abc.", "")
    return kind if _of(kind)[0] in SERIES else None
