"""The entry point: it knows the commands' names and imports nothing heavy, so that help and a misspelt command answer
at once."""

from __future__ import annotations

import difflib
import gc
import sys

import vae_lightning

COMMANDS = {
    "fit": "train a model",
    "validate": "measure the bound on the validation images",
    "test": "measure everything on the test images, beside the baselines",
    "predict": "score each test image: ELBO, rate, distortion",
    "sample": "draw images from the prior",
    "reconstruct": "show images beside their reconstructions",
    "encode": "write the posterior of each image",
    "anomaly": "tell another data set's images from the model's own",
    "doctor": "look a configuration and its data over before training",
    "sweep-rd": "trace the rate-distortion curve over beta",
    "compare": "put the numbers of several tested runs side by side",
    "report": "make one self-contained HTML page of a run",
    "compress": "write images into a small file, without loss",
    "decompress": "get every bit of them back",
    "inspect": "explain a compressed file, without a model",
    "surprise": "sort images by their code length under a model",
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
    given = sys.argv[1:] if args is None else args
    command = given[0] if given else "--help"
    if command in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:12} {what}" for name, what in COMMANDS.items())))
        return 0
    if command == "--version":
        print(f"vae-lightning {vae_lightning.__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}; options come after it."
        print(f"error: expected a command first, got {command!r}: {hint}", file=sys.stderr)
        return 1
    if command in ("compare", "report", "sweep-rd"):
        from vae_lightning.experiment import plain

        return plain.run(command, given[1:])
    if command in ("compress", "decompress", "inspect", "surprise"):
        from vae_lightning.experiment import codec

        return codec.run(command, given[1:])
    gc.disable()  # imports and parsers make a million objects that stay, and each collection looks at all of them
    try:
        from vae_lightning.experiment.cli import run

        return run(given)
    finally:
        gc.unfreeze()
        gc.enable()
