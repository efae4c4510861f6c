"""What stands around the command line: a checkpoint's configuration in front of the arguments, and less noise."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vae_lightning.checkpoint import RECORD, find_checkpoint, read_checkpoint
from vae_lightning.modules import require_modules
from vae_lightning.run.folder import Run, newest_run


class Opened(NamedTuple):
    """A checkpoint that has been read."""

    path: Path
    content: dict[str, Any]


@contextmanager
def checkpoint_config(args: list[str]) -> Iterator[tuple[list[str], Opened | None]]:
    """The arguments with the checkpoint's own configuration in front of them, so that whatever the user says wins; and
    that checkpoint."""
    index, value = _find_option(args, "--ckpt_path")
    with_config = any(arg in ("-c", "--config") or arg.startswith("--config=") for arg in args)
    if value is None or (value == "last" and with_config):
        yield args, None
        return
    fitting = args[0] == "fit"
    run = _newest(args) if value == "last" else Path(value)
    path = find_checkpoint(run, prefer="last" if fitting else "best")
    opened = Opened(path, read_checkpoint(path))
    config = opened.content[RECORD]["config"]
    keys = ("seed_everything", "model", "data", *(("trainer", "checkpoint", "run") if fitting else ()))
    kept = {key: config[key] for key in keys}
    require_modules(kept, opened.content[RECORD])
    if fitting:
        kept["run"] = {**kept["run"], "name": None}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint.yaml"
        file.write_text(yaml.safe_dump(kept))
        rest = [*args[1:index], f"--ckpt_path={path}", *args[index + (1 if "=" in args[index] else 2) :]]
        yield [args[0], "--config", str(file), *rest], opened


def _newest(args: list[str]) -> Path:
    """The run that `last` means without a configuration file: as far as --run.* narrow it down, the newest."""
    said = {key: value for key in ("root", "experiment", "name") if (value := _find_option(args, f"--run.{key}")[1])}
    return newest_run(Run(**said), everywhere="experiment" not in said)


def _find_option(args: list[str], name: str) -> tuple[int, str | None]:
    """Where an option stands and what it says."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{name}="):
            return i, arg.partition("=")[2]
        if arg == name and i + 1 < len(args):
            return i, args[i + 1]
    return -1, None


def switched_on(options: list[str], command: Callable[..., None] | None) -> list[str]:
    """Options, with `true` behind those of the command's own that are true or false and have nothing behind them."""
    switches = (
        [name for name, it in signature(command).parameters.items() if it.annotation == "bool"] if command else []
    )
    flags, values = {f"--{name}" for name in switches}, ("true", "false")
    following = [*options[1:], ""]
    return [
        f"{option}=true" if option in flags and after.lower() not in values else option
        for option, after in zip(options, following, strict=True)
    ]


def with_images(options: list[str]) -> list[str]:
    """Options, with words that belong to no flag put behind --images, as one list.

    Raises:
        ValueError: images are named by the flag as well.
    """
    words: list[str] = []
    rest: list[str] = []
    waits = False  # the flag before waits for its value
    for option in options:
        if waits or option.startswith("-"):
            rest.append(option)
            alone = option in ("-h", "--help") or option.startswith("--print_config")
            waits = not waits and "=" not in option and not alone
        else:
            words.append(option)
    if not words:
        return options
    if any(option.partition("=")[0] in ("--images", "--images+") for option in rest):
        raise ValueError(f"--images: expected the images once, got {words[0]} beside it: give all of them as words.")
    return [*rest, f"--images={json.dumps(words)}"]


NOISE = (
    "Tip:",
    "GPU available",
    "TPU available",
    "HPU available",
    "Seed set to",
    "Restor",
    "Loaded model weights",
    "`Trainer.fit` stopped",
)


def quieten() -> None:
    """Leaves out what Lightning says at every run and no user can act on."""
    keep = lambda record: not any(words in record.getMessage() for words in NOISE)  # noqa: E731
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.rank_zero",
        "lightning.pytorch",
    ):
        logging.getLogger(name).addFilter(keep)
    for words in (
        "does not have many workers",
        "LeafSpec",
        "treespec",
        "`isinstance\\(treespec",
        "exists and is not empty",
        "in eval mode at the start of training",
    ):
        warnings.filterwarnings("ignore", f".*{words}.*")
