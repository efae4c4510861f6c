"""The data of a configuration: the one parser that serves a run's start and a checkpoint's record alike."""

from __future__ import annotations

from typing import Any

from vae_lightning.data.module import ImageData


def build_data(config: Any) -> ImageData:
    """The data of a configuration's section `data`, parsed or plain, through jsonargparse as the command line.

    Raises:
        ValueError: the configuration names a class or a key that does not exist.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ImageData, "data")
    try:
        parsed = parser.parse_object({"data": config})
    except ArgumentError as error:
        raise ValueError(f"the data's configuration does not fit this version of vae_lightning: {error}") from None
    data: ImageData = parser.instantiate(parsed).data
    return data
