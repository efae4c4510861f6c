"""How a configuration becomes objects: the same for every command, for scripts and for frozen parts."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser

AS_LIGHTNING = {"fail_untyped": False, "sub_configs": True}
"""How LightningCLI adds a class to its parser: what `fit` takes, such as a parameter without annotation, all take."""


def instantiate(kind: type, config: Any) -> Any:
    """An object of a class by its settings, parsed or plain.

    Raises:
        jsonargparse.ArgumentError: they name a class or a setting that does not exist.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "it", **AS_LIGHTNING)
    return parser.instantiate(parser.parse_object({"it": config})).it
