"""Runs the commands that LightningCLI parses, and turns what goes wrong there into one sentence."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from vae_lightning import conditionals, data, metrics, models, nets, objectives
from vae_lightning.checkpoint import LAST
from vae_lightning.commands.arguments import checkpoint_config, quieten, switched_on, with_images
from vae_lightning.commands.cli import CLI
from vae_lightning.commands.errors import INTERRUPTED, TERMINATED, Stopped
from vae_lightning.commands.explain import explain
from vae_lightning.commands.scoring import ScoringTrainer
from vae_lightning.commands.trainer import CommandTrainer
from vae_lightning.data import ImageData
from vae_lightning.run.folder import INHERITED, RecordRun, drop_if_unused
from vae_lightning.train import pictures, plane, progress, skipping
from vae_lightning.train.loop import ask_cuda_directly
from vae_lightning.train.module import Experiment
from vae_lightning.train.process import tune_process

SLOTS = (conditionals, metrics, models, nets, objectives, pictures, plane, progress, skipping)
"""Imported so that configuration files can name their classes by the last word alone."""
TAKE_IMAGES = ("predict", "reconstruct", "encode", "anomaly")
"""Commands with images of the user's own, named as words without a flag."""


def run(command: str, options: list[str]) -> None:
    """Runs one of Lightning's commands, or of those of `CommandTrainer`.

    Raises:
        ValueError: what the parser, Lightning or a logger says of the configuration, in one sentence.
        Stopped: by SIGTERM or the user.
    """
    gc.disable()  # imports and parsers make a million objects that stay, and each collection looks at all of them
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # Lightning loads checkpoints itself, and safely like this
    os.environ.pop(INHERITED, None) if "LOCAL_RANK" not in os.environ else None
    quieten()
    tune_process()
    ask_cuda_directly()
    strict = {"exit_on_error": False, "allow_abbrev": False}  # errors come here; a misspelt flag is no abbreviation
    options = switched_on(options, vars(CommandTrainer).get(command) or vars(ScoringTrainer).get(command))
    options = with_images(options) if command in TAKE_IMAGES else options
    arguments, before = [command, *options], sys.argv
    try:
        with checkpoint_config(arguments) as (full, opened):
            sys.argv = [sys.argv[0], *full]
            CLI(
                arguments,
                opened,
                Experiment,
                ImageData,
                trainer_class=CommandTrainer,
                save_config_callback=RecordRun,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_kwargs={"prog": "vae-lightning", **strict, command: dict(strict)},
            )
    except (ArgumentError, TypeError, ValueError) as error:
        if not isinstance(error, ArgumentError) and "Does not validate against" not in str(error):
            raise
        kinds = {name: it for slot in (*SLOTS, data) for name, it in vars(slot).items() if isinstance(it, type)}
        raise ValueError(explain(error, kinds)) from error
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except SIGTERMException as stop:
        raise Stopped(_how_to_go_on("terminated", command), TERMINATED) from stop
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise Stopped(_how_to_go_on("interrupted", command), INTERRUPTED) from stop
    except Exception as error:
        if sentence := in_one_sentence(error):
            raise ValueError(sentence) from error
        raise
    finally:
        sys.argv = before
        drop_if_unused(os.environ.get(INHERITED))
        gc.unfreeze()
        gc.enable()


def _how_to_go_on(how: str, command: str) -> str:
    """What is kept of what was stopped."""
    folder = os.environ.get(INHERITED)
    if command != "fit" or folder is None:
        return f"{how}: no file was left unfinished."
    if (Path(folder) / "checkpoints" / LAST).is_file():
        return f"{how} before the training's end: go on with vae-lightning fit --ckpt_path {folder}"
    return f"{how} before the first epoch's end: no checkpoint was kept in {folder}, and the training begins anew."


def in_one_sentence(error: Exception) -> str | None:
    """What is the user's to mend of the errors that libraries raise; None where it is not known to be."""
    said = " ".join(str(error).split())
    if type(error).__module__.partition(".")[0] == "wandb":
        return (
            f"W&B: {said.rstrip('.')}. Log in once (wandb login), set WANDB_MODE=offline to keep its files here for "
            "later (wandb sync), or leave --trainer.logger out."
        )
    if "more than one stateful callback" in said:
        name = said.partition("`")[2].partition("`")[0]
        return (
            f"--trainer.callbacks: expected callbacks that differ, got two of {name} with the same settings: give each "
            "a monitor, mode or interval of its own, or leave one out."
        )
    if said.startswith("Early stopping conditioned on metric"):
        return f"--trainer.callbacks: expected a number to monitor that is logged; {said}"
    return None
