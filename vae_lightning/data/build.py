"""The data of a configuration: built alike for a run's start and by a checkpoint's record."""

from __future__ import annotations

from typing import Any

from vae_lightning.data.module import ImageData


def build_data(config: Any) -> ImageData:
    """The data of a configuration's section `data`, parsed or plain, by the command line's parser.

    Raises:
        ValueError: the configuration names a class or a key that does not exist.
    """
    from jsonargparse import ArgumentError

    from vae_lightning.parsing import instantiate

    try:
        data: ImageData = instantiate(ImageData, config)
    except ArgumentError as error:
        raise ValueError(f"the data's configuration does not fit this version of vae_lightning: {error}") from None
    return data
