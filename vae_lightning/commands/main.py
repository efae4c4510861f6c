"""The entry point: the one table of commands. It imports nothing heavy, so that help and a misspelt command answer at
once."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import vae_lightning

LIGHTNING = "vae_lightning.commands.lightning:run"


class Command(NamedTuple):
    """A command: what it does, and the `module:function` that does it, told its name and the arguments after it."""

    help: str
    runs: str = LIGHTNING


COMMANDS = {
    "fit": Command("train a model"),
    "validate": Command("measure the bound on the validation images"),
    "test": Command("measure everything on the test images, beside the baselines"),
    "predict": Command("score each image: ELBO, rate, distortion"),
    "sample": Command("draw images from the prior"),
    "reconstruct": Command("show images beside their reconstructions"),
    "encode": Command("write the posterior of each image"),
    "anomaly": Command("tell other images from the model's own"),
    "detect": Command("find anomalous images, and where", "vae_lightning.commands.detect:detect"),
    "doctor": Command("look a configuration and its data over before training"),
    "search": Command("show the images that are nearest to a text", "vae_lightning.commands.search:search"),
    "generate": Command("make images of what a text says", "vae_lightning.commands.text2image:generate"),
    "variations": Command("make other images with one's embedding", "vae_lightning.commands.text2image:variations"),
    "interpolate": Command("go from one image to another", "vae_lightning.commands.text2image:interpolate"),
    "edit": Command("change an image as two texts differ", "vae_lightning.commands.text2image:edit"),
    "sweep-rd": Command("trace the rate-distortion curve over beta", "vae_lightning.commands.sweep:run"),
    "compare": Command("put the numbers of several tested runs side by side", "vae_lightning.commands.results:compare"),
    "report": Command("make one self-contained HTML page of a run", "vae_lightning.commands.results:report"),
    "compress": Command("write images into a small file, without loss", "vae_lightning.commands.compress:compress"),
    "decompress": Command("get every bit of them back", "vae_lightning.commands.compress:decompress"),
    "inspect": Command("explain a compressed file, without a model", "vae_lightning.commands.compress:inspect"),
    "surprise": Command("sort images by their code length under a model", "vae_lightning.commands.compress:surprise"),
}
HELP = """usage: vae-lightning COMMAND [options]

Variational autoencoders whose numbers can be trusted.

commands:
{commands}

  vae-lightning COMMAND --help       the command's options
  vae-lightning --version            the version

examples:
  vae-lightning fit -c configs/experiment/digits.yaml
  vae-lightning test --ckpt_path runs/digits"""


def main(args: list[str] | None = None) -> int:
    """Runs one command; returns its status."""
    arguments = sys.argv[1:] if args is None else args
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:12} {command.help}" for name, command in COMMANDS.items())))
        return 0
    if name == "--version":
        print(f"vae-lightning {vae_lightning.__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}; options come after it."
        print(f"error: expected a command first, got {name!r}: {hint}", file=sys.stderr)
        return 1
    from vae_lightning.commands.errors import status

    module, _, function = COMMANDS[name].runs.partition(":")

    def run() -> None:
        runs: Callable[[str, list[str]], None] = getattr(importlib.import_module(module), function)
        runs(name, arguments[1:])

    return status(run)
