"""The model of a checkpoint's record: built alike for trained models, frozen parts and scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_lightning.checkpoint import RECORD, find_checkpoint, load_weights, read_checkpoint
from vae_lightning.core import Model, Spec, TextSpec
from vae_lightning.modules import require_modules

PREFIX = "latent_model."
"""Of the model's weights in a checkpoint."""


def spec_of(record: dict[str, Any]) -> Spec:
    """What the data were, by a checkpoint's record."""
    classes, text = record["classes"], record.get("text")  # which a record of before captions lacks
    return Spec(
        tuple(record["image_shape"]),
        record["levels"],
        None if classes is None else tuple(classes),
        None if text is None else TextSpec(**text),
    )


def record_of(spec: Spec) -> dict[str, Any]:
    """The same in plain data, for a record."""
    return {
        "image_shape": list(spec.image_shape),
        "levels": spec.levels,
        "classes": None if spec.classes is None else list(spec.classes),
        "text": None if spec.text is None else asdict(spec.text),
    }


class Settings:
    """Of a record, what builds the model: annotated as in `Experiment`."""

    def __init__(self, latent_model: Callable[[Spec], Model]) -> None:
        self.latent_model = latent_model


def build(record: dict[str, Any]) -> Model:
    """The model of a checkpoint's record, plain data, by the command line's parser: without its weights.

    Raises:
        ValueError: the configuration names a class or a key that does not exist, or one of a module that is not there.
    """
    from jsonargparse import ArgumentError

    from vae_lightning import conditionals, models, nets  # noqa: F401 (a record names their classes by the last word)
    from vae_lightning.parsing import instantiate

    settings = {"latent_model": record["config"]["model"]["latent_model"]}
    require_modules(settings, record)
    try:
        model: Model = instantiate(Settings, settings).latent_model(spec_of(record))
    except ArgumentError as error:
        raise ValueError(f"the model's configuration does not fit this version of vae_lightning: {error}") from error
    layout = torch.channels_last if record["config"]["model"].get("channels_last") else torch.contiguous_format
    return model.to(memory_format=layout)  # as in training: another layout sums in another order


def trained(path: str) -> tuple[Model, dict[str, Any], Path]:
    """The model of a checkpoint file or a run's folder with its weights, its record, and the checkpoint.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the file is no checkpoint of this project, or is damaged.
    """
    file = find_checkpoint(path)
    content = read_checkpoint(file)
    record: dict[str, Any] = content[RECORD]
    model = build(record)
    state: dict[str, Tensor] = content["state_dict"]
    weights = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    load_weights(model, weights, file)
    return model, record, file
