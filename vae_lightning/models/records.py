"""The records of frozen parts in configurations: what the checkpoint of a part's run says of its model, as JSON."""

from __future__ import annotations

import argparse
import json
import pydoc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vae_lightning.checkpoint import RECORD, find_checkpoint, read_checkpoint
from vae_lightning.models.build import record_of, spec_of
from vae_lightning.models.frozen import FromRun, require_run

SPLIT_BY = ("source", "val_size", "split_seed")
"""Settings of the data that say which images are held out."""


def frozen_parts(config: Any, before: Any = None) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The settings of every frozen part of a configuration, parsed or plain, and what another configuration says at the
    same place, {} where there is none. What is inside a record stays as it is."""
    if isinstance(config, list):
        others = before if isinstance(before, list) and len(before) == len(config) else [None] * len(config)
        for item, other in zip(config, others, strict=True):
            yield from frozen_parts(item, other)
        return
    here, there = _mapping(config), _mapping(before)
    if isinstance(here.get("class_path"), str) and "run" in _mapping(here.get("init_args")):
        kind = pydoc.locate(here["class_path"])
        if isinstance(kind, type) and issubclass(kind, FromRun):
            same = there.get("class_path") == here["class_path"]
            yield _mapping(here["init_args"]), _mapping(there.get("init_args")) if same else {}
    for name, value in here.items():
        yield from frozen_parts(value, there.get(name))


def _mapping(node: Any) -> dict[str, Any]:
    if isinstance(node, argparse.Namespace):
        return vars(node)
    return node if isinstance(node, dict) else {}


def take_records(config: Any, before: Any = None) -> None:
    """Gives every frozen part of a configuration the record that a checkpoint's own has of it, or of none: the run is
    then opened for its weights, whatever the configuration was written by."""
    for settings, earlier in frozen_parts(config, before):
        settings["record"] = earlier.get("record")


def write_records(config: Any) -> bool:
    """Gives every frozen part of a configuration that has no record its run's; returns whether there is any part.

    Raises:
        FileNotFoundError: a run is not where the configuration says.
    """
    found = list(frozen_parts(config))
    for settings, _ in found:
        if settings.get("record") is None:
            said = read_checkpoint(_checkpoint_of(settings["run"]))[RECORD]
            model = {key: said["config"]["model"].get(key) for key in ("latent_model", "channels_last")}
            data = {key: said["config"]["data"].get(key) for key in SPLIT_BY}
            settings["record"] = json.dumps({"config": {"model": model, "data": data}, **record_of(spec_of(said))})
    return bool(found)


def _checkpoint_of(run: str) -> Path:
    try:
        return find_checkpoint(run)
    except FileNotFoundError as error:
        raise FileNotFoundError(require_run("a frozen part", run, error)) from None


def require_same_split(config: Any) -> None:
    """Raises ValueError where a frozen part of a configuration with records was trained on the same data set as this
    one, split otherwise: it has seen images that are held out here. Of another data set nothing can be said."""
    data = _mapping(_mapping(config).get("data"))
    for settings, _ in frozen_parts(config):
        before = json.loads(settings["record"])["config"].get("data")  # which a record of an earlier version lacks
        if before is None or _images_of(before["source"]) != _images_of(data.get("source")):
            continue
        for key in SPLIT_BY:
            if before[key] != data.get(key):
                what = "what source holds out" if key == "source" else key
                raise ValueError(
                    f"data.{key}: expected {what} as in the training of the frozen {settings['run']}, which would "
                    f"else have seen images that are held out here, got {_told(data.get(key))} and there "
                    f"{_told(before[key])}: make them agree, or train that run again."
                )


def _images_of(source: Any) -> Any:
    """The source that others are wrapped around, as captions are around labelled images."""
    inner = _mapping(_mapping(source).get("init_args"))
    for name in ("source", "folder"):
        if "class_path" in _mapping(inner.get(name)):
            return _images_of(inner[name])
    return source


def _told(setting: Any) -> str:
    """A setting in a sentence."""
    return json.dumps(setting).replace('"', "").replace("vae_lightning.data.", "")
