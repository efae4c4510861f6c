"""How images lie in a folder: which files are for what, and of which classes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vae_lightning.data.reading.listing import class_of, identity_of, list_images

Split = Literal["train", "val", "test"]
"""What images are for."""
ROLES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a folder is for by its name, in any case."""
ALMOST = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|dev|eval|test|testing)(?:[^a-z]|$)")
"""What a folder is called that may be meant to be a split, and is not called as one: train_images, eval."""
MASKS = "ground_truth"
"""Beside train and test, the field's place for the masks of defects."""


@dataclass(frozen=True)
class Layout:
    """What lies where.

    Args:
        folders: the folder of each split below the path; "" for the path itself.
        files: names of each split's images below its folder, sorted.
        classes: of the training images, sorted; none where there are none.
        notes: what was left out, each in a few words.
    """

    folders: dict[Split, str]
    files: dict[Split, list[str]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What was taken for what, in one line."""
        named: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
        parts = [
            f"{f'{self.folders[it]}/, ' if self.folders[it] else ''}{len(self.files[it])} "
            f"image{'s' * (len(self.files[it]) != 1)} for {named[it]}"
            for it in self.files
        ]
        some = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        classes = (
            f"{len(self.classes)} class{'es' * (len(self.classes) > 1)} ({some})" if self.classes else "no classes"
        )
        return "; ".join([*parts, classes, *self.notes])


def read_layout(path: Path, split_folders: bool | None = None, class_folders: bool | None = None) -> Layout:
    """How images lie below a folder: in folders of splits or without, in folders of classes or without.

    Args:
        path: the folder.
        split_folders: whether sub-folders called train, val, test and so on are splits; None finds out.
        class_folders: whether the sub-folders of a split (or of the path) are classes; None finds out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it, a layout that can be understood in two ways, or a file that is in two splits.
    """
    names = list_images(path)
    tops: dict[str, list[str]] = {}
    for name in names:
        first, _, rest = name.partition("/")
        tops.setdefault(first if rest else "", []).append(rest or first)
    roles = {top: ROLES[top.casefold()] for top in tops if top.casefold() in ROLES}
    notes: list[str] = []
    if split_folders or (split_folders is None and _has_splits(path, tops, roles)):
        folders = _by_role(path, roles)
        files = {role: tops[top] for role, top in folders.items()}
        if left := sorted(f"{top}/" if top else "what lies beside them" for top in set(tops) - set(folders.values())):
            notes.append(f"left out: {', '.join(left)}")
        notes += [f"{name}/ holds no images" for name in _empty(path, tops)]
    else:
        folders, files = {"train": ""}, {"train": names}
        if split_folders is None:
            _require_no_deeper_splits(path, names)
    layout = Layout(folders, files, (), tuple(notes))
    if class_folders is not False:
        layout = _classified(path, layout, class_folders)
    return _without_repeats(path, layout)


def _has_splits(path: Path, tops: Iterable[str], roles: dict[str, Split]) -> bool:
    if not roles:
        _require_no_other_names(path, tops)
        return False
    if "train" not in roles.values():
        raise _without_train(path, roles)
    others = [top or "images beside them" for top in tops if top not in roles and top.casefold() != MASKS]
    if not others:
        return True
    got = f"{', '.join(sorted(roles))} with {', '.join(sorted(others)[:5])}"
    raise ValueError(
        f"{path}: expected folders train, val and test alone, or folders of classes alone, got {got}: say which they "
        "are, --data.source.split_folders true (others are left out) or false (all are classes), or move what does not "
        "belong there."
    )


def _require_no_other_names(path: Path, tops: Iterable[str]) -> None:
    """Images of train_images and test_images would else be of one split."""
    found = {top: match[1] for top in tops if (match := ALMOST.search(top.casefold()))}
    train = sorted(top for top, word in found.items() if word.startswith("train"))
    if train and (others := sorted(set(found) - set(train))):
        raise ValueError(
            f"{path}: expected folders train, val and test, or folders of classes, got {train[0]} and {others[0]}: "
            "call them train, val and test, or say that they are classes with --data.source.split_folders false."
        )


def _empty(path: Path, tops: Iterable[str]) -> list[str]:
    """Folders that are called as splits are, and hold no images."""
    return sorted(it.name for it in os.scandir(path) if it.name.casefold() in ROLES and it.name not in tops)


def _without_train(path: Path, roles: Iterable[str]) -> ValueError:
    return ValueError(
        f"{path}: expected images in a folder train, got {', '.join(sorted(roles)) or 'none'} without it: call that of "
        "the training images so, or say that the folders are no splits with --data.source.split_folders false."
    )


def _by_role(path: Path, roles: dict[str, Split]) -> dict[Split, str]:
    folders: dict[Split, str] = {}
    for top, role in sorted(roles.items()):
        if role in folders:
            raise ValueError(
                f"{path}: expected one folder a split, got {folders[role]} and {top}, both for {role}: put them "
                "together, or move one away."
            )
        folders[role] = top
    if "train" not in folders:
        raise _without_train(path, roles)
    return {role: folders[role] for role in ("train", "val", "test") if role in folders}


def _require_no_deeper_splits(path: Path, names: list[str]) -> None:
    """Images of class/train and class/test would else be of one split."""
    second = {(parts[0], parts[1]) for name in names if len(parts := name.split("/", 2)) == 3}
    for first in sorted({first for first, _ in second}):
        roles = sorted(name for top, name in second if top == first and name.casefold() in ROLES)
        if len(roles) > 1 and "train" in (ROLES[name.casefold()] for name in roles):
            raise ValueError(
                f"{path}: expected folders of splits above those of classes, got {first}/{roles[0]} and "
                f"{first}/{roles[1]}: give one of them, --data.source.path {path / first}, or say that they are no "
                "splits with --data.source.split_folders false."
            )


def _classified(path: Path, layout: Layout, wanted: bool | None) -> Layout:
    """With the classes of the training images, where all of them lie in folders of classes."""
    of: dict[Split, set[str | None]] = {
        role: {class_of(name) for name in names} for role, names in layout.files.items()
    }
    for role, classes in of.items():
        if None in classes and len(classes) > 1:
            folder = path / layout.folders[role]
            beside = [name for name in layout.files[role] if class_of(name) is None]
            found = sorted(name for name in classes if name is not None)
            raise ValueError(
                f"{folder}: expected images in folders of classes, or none of them, got {len(beside)} such as "
                f"{beside[0]} beside {', '.join(found[:5])}: move them, or say that the folders are no classes with "
                "--data.source.class_folders false."
            )
    train = sorted(name for name in of["train"] if name is not None)
    if not train:
        if wanted:
            raise ValueError(f"{path}: expected folders of classes, got images alone: leave class_folders out.")
        return layout
    if len(train) == 1 and "test" in of and train[0] in of["test"] and len(of["test"]) > 1:
        return _without_defects(layout, train[0])
    for role, classes in of.items():
        if None not in classes and (unknown := sorted(str(name) for name in classes if name not in train)):
            raise ValueError(
                f"{path / layout.folders[role]} has the class folders {', '.join(unknown[:5])}, which the training "
                f"images lack: call them as those are ({', '.join(train[:5])}), or leave classes out with "
                "--data.source.class_folders false."
            )
    bare = tuple(f"those of {role} without" for role, classes in of.items() if None in classes)
    return replace(layout, classes=tuple(train), notes=(*bare, *layout.notes))


def _without_defects(layout: Layout, good: str) -> Layout:
    """The field's layout for anomalies: training images are good, the test has good ones and others."""
    files, notes = dict(layout.files), list(layout.notes)
    for role in ("val", "test"):
        if others := [name for name in files.get(role, []) if class_of(name) != good]:
            files[role] = [name for name in files[role] if class_of(name) == good]
            notes.insert(0, f"{role} without the {len(others)} that are not {good}")
    return replace(layout, files={role: names for role, names in files.items() if names}, notes=tuple(notes))


def _without_repeats(path: Path, layout: Layout) -> Layout:
    """Without names that lead to a file that is there already; ValueError where one of each leads to two splits."""
    seen: dict[tuple[int, int], tuple[Split, str]] = {}
    files: dict[Split, list[str]] = {}
    for role, names in layout.files.items():
        files[role] = []
        for name in names:
            identity = identity_of(os.path.join(path, layout.folders[role], name))
            if identity is None or identity not in seen:
                files[role].append(name)
            elif seen[identity][0] != role:
                other, first = seen[identity]
                raise ValueError(
                    f"{path}: expected each file in one split, got {os.path.join(layout.folders[role], name)}, which "
                    f"is the file {os.path.join(layout.folders[other], first)}: remove one of the links."
                )
            if identity is not None:
                seen.setdefault(identity, (role, name))
    repeats = sum(map(len, layout.files.values())) - sum(map(len, files.values()))
    notes = (*layout.notes, f"{repeats} further names of the same files left out") if repeats else layout.notes
    return replace(layout, files=files, notes=notes)
