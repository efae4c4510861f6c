"""The records of frozen parts in configurations: what the checkpoint of a part's run says of its model, as JSON."""

from __future__ import annotations

import argparse
import json
import pydoc
from collections.abc import Iterator
from typing import Any

from vae_lightning.checkpoint import RECORD, find_checkpoint, read_checkpoint
from vae_lightning.models.build import record_of, spec_of
from vae_lightning.models.frozen import FromRun


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
            said = read_checkpoint(find_checkpoint(settings["run"]))[RECORD]
            model = {key: said["config"]["model"].get(key) for key in ("latent_model", "channels_last")}
            settings["record"] = json.dumps({"config": {"model": model}, **record_of(spec_of(said))})
    return bool(found)
