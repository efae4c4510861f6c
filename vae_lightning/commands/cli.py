"""The command line: LightningCLI, with a checkpoint's own configuration below what the user says."""

from __future__ import annotations

import gc
import os
import pydoc
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor

from vae_lightning.checkpoint import RECORD, find_checkpoint, folder_of, load_weights, read_checkpoint
from vae_lightning.commands.arguments import Opened
from vae_lightning.commands.errors import AlreadyDone
from vae_lightning.data.build import build_data
from vae_lightning.files import require_writable
from vae_lightning.measure.measure import measure
from vae_lightning.measure.verdict import begin_with_verdict, conclude
from vae_lightning.models.build import record_of
from vae_lightning.models.records import frozen_parts, require_same_split, take_records, write_records
from vae_lightning.modules import require_settings
from vae_lightning.report.curve import draw_curve
from vae_lightning.report.page import report
from vae_lightning.report.results import FILE
from vae_lightning.report.verdict import print_verdict
from vae_lightning.run.folder import INHERITED, Run, claim, newest_run
from vae_lightning.run.loggers import CSVHistory, as_list, attach, finish, place_wandb
from vae_lightning.train.best import HEADLINE, BestCheckpoint, LastCheckpoint, set_apart
from vae_lightning.train.loop import use_fast_loop
from vae_lightning.train.monitors import why_stopped
from vae_lightning.train.pictures import Picture
from vae_lightning.train.process import part_company, with_float64
from vae_lightning.train.resume import check_training, epochs_done, nothing_left, with_own_objective

OF_A_TRAINING = (Checkpoint, EarlyStopping, LearningRateMonitor, Picture, Timer)
"""Callbacks that have nothing to do in another command."""


class CLI(LightningCLI):
    """LightningCLI with runs in folders, checkpoints that bring their configuration, and commands of its own."""

    run_folder: Path | None = None
    until: int | None = None  # the step up to which a resumed run's metrics are kept
    steps: int | None = None  # that a checkpoint has behind it

    def __init__(self, arguments: list[str], opened: Opened | None, *args: Any, **kwargs: Any) -> None:
        self.arguments, self.command, self.opened = arguments, arguments[0], opened
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command that runs: each parser costs a tenth of a second to build."""
        theirs = {"train_dataloaders", "val_dataloaders", "dataloaders", "verbose", "weights_only"}
        return {self.command: {"model", "datamodule", "return_predictions"} | theirs}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # In every command, though only `fit` needs them: an experiment's file stands behind any -c.
        parser.add_class_arguments(Run, "run")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "model.evaluation": {"class_path": "vae_lightning.metrics.ImageEvaluation"},
                "checkpoint.monitor": HEADLINE,
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )

    @property
    def section(self) -> Namespace:
        """The configuration of the command that runs."""
        section: Namespace = self.config[self.subcommand]
        return section

    def _read(self, path: Path) -> dict[str, Any]:
        """A checkpoint's content, of which the last one read is at hand."""
        if self.opened is None or self.opened.path != path:
            self.opened = Opened(path, read_checkpoint(path))
        return self.opened.content

    def before_instantiate_classes(self) -> None:
        section, fitting = self.section, self.subcommand == "fit"
        section.trainer.accelerator = with_float64(section.trainer.accelerator)
        self.config_dump: dict[str, Any] = {}  # Lightning's copy, which nothing here reads, costs a quarter of a second
        if fitting and section.ckpt_path == "last":
            section.ckpt_path = str(find_checkpoint(newest_run(section.run), prefer="last"))
        checkpoint = section.get("ckpt_path")
        if not fitting and self.subcommand != "doctor" and checkpoint is None:
            raise ValueError(
                f"{self.subcommand}: expected --ckpt_path with a checkpoint file or a run's folder, got none."
            )
        if any(frozen_parts(section.model)):
            said = None if checkpoint is None else self._read(Path(checkpoint))[RECORD]["config"]["model"]
            take_records(section.model, said)
        if section.model.image_shape is None:
            require_settings({"data": section.data.as_dict(), "model": section.model.as_dict()})
            built = build_data(section.data)
            section.model.update(Namespace(record_of(built.spec)))
            for name, value in built.source.found.items():  # kept with the model, as a percentile's window is
                section.data.source.init_args[name] = value
        section.data.text = section.model.text
        if not fitting:
            if checkpoint is not None:
                self.run_folder = folder_of(Path(checkpoint))
                name = f"{self.run_folder.parent.name}/{self.run_folder.name}"
                place_wandb(section.trainer.logger, self.run_folder, name)
            section.trainer.logger = section.trainer.logger or False
            section.trainer.callbacks = self._callbacks_of_evaluation(section.trainer.callbacks)
            section.trainer.enable_checkpointing = False
            self._parser(self.subcommand).callback_keys = []
            self.save_config_callback = None
        elif section.trainer.fast_dev_run:
            self.save_config_callback = None
        else:
            self._open_run(section)

    def _callbacks_of_evaluation(self, callbacks: Any) -> list[Namespace] | None:
        """Of a command that does not train: the user's, but for those that only mean something to a training, which
        come along with an experiment's file. Those that are said outright are not dropped without a word."""
        said = any(argument.startswith("--trainer.callbacks") for argument in self.arguments)
        runs = self.subcommand in ("validate", "test", "predict")
        if said and callbacks and not runs:
            raise ValueError(
                f"--trainer.callbacks: expected none, since {self.subcommand} runs no loop that would call them, got "
                "some: leave them out, or give them to fit, validate, test or predict."
            )
        given = [] if callbacks is None or not runs else callbacks if isinstance(callbacks, list) else [callbacks]
        kinds = {id(it): pydoc.locate(it.class_path) for it in given}
        idle = [it for it in given if issubclass(kinds[id(it)], OF_A_TRAINING)]  # type: ignore[arg-type]
        if said and idle and len(idle) == len(given):
            names = ", ".join(sorted({it.class_path.rpartition(".")[2] for it in idle}))
            raise ValueError(
                f"--trainer.callbacks: expected callbacks that do something in {self.subcommand}, got {names}, which "
                "belong to a training: leave them out, or give them to fit."
            )
        return [it for it in given if it not in idle] or None

    def _open_run(self, section: Namespace) -> None:
        """Finds or makes the run's folder, and gives the loggers their place in it."""
        start = None if section.ckpt_path is None else self._read(Path(section.ckpt_path))
        if start is not None and only_asked_to_go_on(self.arguments) and nothing_left(section, start):
            raise AlreadyDone(
                f"{folder_of(Path(section.ckpt_path))}: all epochs are done, {epochs_done(start)} of them; for more "
                "--trainer.max_epochs."
            )
        check_training(section, start)
        recorded = section.clone()
        recorded.pop("ckpt_path")  # which another command's parser need not have
        text = self._parser(self.subcommand).dump(recorded, skip_none=False)
        if write_records(plain := yaml.safe_load(text)):
            require_same_split(plain)
            text = yaml.safe_dump(plain, sort_keys=False)
        if section.ckpt_path is not None and section.run.name is None:
            checkpoint = Path(section.ckpt_path)
            self.run_folder, self.until = folder_of(checkpoint), self._read(checkpoint)["global_step"]
            moved_out = not (self.run_folder / "checkpoints").is_dir()
            last = checkpoint if moved_out else find_checkpoint(self.run_folder, prefer="last")
            if self._read(last)["global_step"] > self.until:
                raise ValueError(
                    f"{checkpoint}: expected the run's last checkpoint, got one of step {self.until}, from which the "
                    f"run has gone on: give {last} to go on with it, or --run.name to begin another run from here."
                )
        else:
            self.run_folder = claim(section.run)
        os.environ[INHERITED] = str(self.run_folder)
        self.save_config_kwargs = {"folder": self.run_folder, "text": text, "command": self.arguments}
        place_wandb(section.trainer.logger, self.run_folder, f"{section.run.experiment}/{self.run_folder.name}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.run_folder is not None and self.subcommand == "fit":
            self.trainer_defaults["callbacks"] = [LastCheckpoint()]
            self.model.config = yaml.safe_load(self.save_config_kwargs["text"])
            loggers = as_list(self.config_init[self.subcommand].trainer.logger)
            kwargs["logger"] = [CSVHistory(self.run_folder, self.until), *loggers]
        trainer = super().instantiate_trainer(**kwargs)
        if self.subcommand == "fit":
            set_apart(trainer.checkpoint_callbacks)
            use_fast_loop(trainer)
        return trainer

    def after_instantiate_classes(self) -> None:
        """Loads the checkpoint's weights here, where another model's are refused by name."""
        gc.freeze()  # what is there by now stays: main() has left the collector off until here
        gc.enable()
        if self.subcommand == "fit" and self.section.ckpt_path is None and self.section.run.warm_start is not None:
            warm = find_checkpoint(self.section.run.warm_start)
            self._load(read_checkpoint(warm)["state_dict"], warm)
            self.model.is_warm = True
        if self.section.get("ckpt_path") is None:
            return
        path = Path(self.section.ckpt_path)
        self._load(self._read(path)["state_dict"], path)
        self.steps = self._read(path)["global_step"]
        self.opened = None
        if self.subcommand in ("validate", "test"):
            self.config_init[self.subcommand].ckpt_path = None  # the Trainer need not load them again

    def _load(self, state: dict[str, Tensor], path: Path) -> None:
        load_weights(self.model, with_own_objective(state, self.model.objective), path)

    # -- what happens around the Trainer's own methods -----------------------------------------------------------------

    def after_fit(self) -> None:
        if self.run_folder is None or not self.trainer.is_global_zero:
            return
        draw_curve(self.run_folder, self.model.headline.name)
        finish(self.trainer.loggers)
        if reason := why_stopped(self.trainer):
            print(reason)
        conclude(self.model, self.datamodule, self.run_folder)
        print(f"run: {self.run_folder}\ntest it: vae-lightning test --ckpt_path {self.run_folder}")

    def test(self, **kwargs: Any) -> None:
        assert self.run_folder is not None
        require_writable(self.run_folder / FILE)
        self.trainer.test(verbose=False, **kwargs)
        part_company()
        if self.trainer.is_global_zero:
            results = measure(self.model, self.datamodule, self.run_folder)
            begin_with_verdict(results, self.model, self.run_folder, self.steps)
            print(results.table())
            print(f"kept: {results.write(self.run_folder)}")
            if self.trainer.loggers:
                attach(self.trainer.loggers, report(self.run_folder), "report")
                finish(self.trainer.loggers)

    def before_doctor(self) -> None:
        print_verdict(self.run_folder)


def only_asked_to_go_on(arguments: list[str]) -> bool:
    """Whether `fit` is told a checkpoint and nothing else."""
    _, *told = arguments
    return (len(told) == 2 and told[0] == "--ckpt_path") or (len(told) == 1 and told[0].startswith("--ckpt_path="))
