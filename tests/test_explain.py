"""Errors of the parser: the one thing that the user meant, and what to do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import wandb
from torch.utils.data import Dataset

from tests.conftest import REPOSITORY
from tests.test_bad_input import DIGITS, FAST, refused
from vae_lightning.data import Digits


class Untyped(Dataset):
    """A user's data set whose setting is not annotated."""

    def __init__(self, count):  # type: ignore[no-untyped-def]
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return np.full((8, 8), index, np.uint8)


FOLDER = ["--data.source=ImageFolder", "--data.source.path=x"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--trainer.logger=TensorBoardLogger"],
            ["TensorBoardLogger needs the setting save_dir, got none", "logger.save_dir."],
        ),
        (
            ["--model.lr_scheduler=ReduceLROnPlateau"],
            ["got ReduceLROnPlateau, a name of 2", "--model.lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau"],
        ),
        (["--data.source=vae_lightning.data.ImageData"], ["which is a DataModule", "ImageSource"]),
        (
            ["--data=ImageFolder"],
            ["data: expected settings", "got the class ImageFolder: say --data.source ImageFolder."],
        ),
        (["--data=nothing"], ["data: expected settings such as --data.NAME VALUE, or a file of them, got 'nothing'"]),
        (
            ["--model.optimizer.lr=-1"],
            ["model.optimizer.lr: expected a value that the optimiser takes, got -1.0: give"],
        ),
        (["--model.optimizer.betas=[2,0.9]"], ["model.optimizer.betas: expected a value", "got 2.0: give another"]),
        (
            ["--data.source=MapDataset", "--data.source.train=tests.test_explain.Untyped"],
            ["data.source.train: Untyped needs the setting count, got none: give --data.source.train.count."],
        ),
        (["--data.source=ImageData"], ["which is a DataModule", "ImageSource"]),
        (["--data.source=torchvision.datasets.MNIST"], ["a data set of torch's", "ImageSource"]),
        (
            [f"-c={REPOSITORY / 'configs/experiment/digits_m2.yaml'}", f"-c={REPOSITORY / 'configs/prior/vamp.yaml'}"],
            ["model.latent_model.prior: there is no setting 'prior' of SemiSupervisedVAE", "it takes conditional"],
        ),
        (["--data.source.grey=true"], ["there is no setting 'grey' of Digits; it takes none"]),
        (
            ["--data.source=ImageFolder", "--data.source.path=x", "--data.source.chanels=3"],
            ["(did you mean channels?); it takes channels, "],
        ),
        (["--model.optimizer=Adamm"], ["model.optimizer: expected the name of a class", "did you mean Adam?"]),
        (["--trainer.callbacks+=EarlyStoping"], ["did you mean EarlyStopping?"]),
        (["--trainer.callbacks+=EarlyStopping"], ["EarlyStopping needs the setting monitor"]),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=loss", "--trainer.callbacks.mode=up"],
            ["mode"],
        ),
        (
            [
                "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=x",
                "--trainer.callbacks.patience=many",
            ],
            ["trainer.callbacks.patience: expected a value for patience of EarlyStopping (int"],
        ),
        (["--model.lr_schedule=CosineAnnealingLR"], ["give it as --model.lr_scheduler, with --model.lr_schedule null"]),
        (
            ["--model.lr_schedule=torch.optim.lr_scheduler.CosineAnnealingLR"],
            ["give it as --model.lr_scheduler, with --model.lr_schedule null"],
        ),
        (["--model.lr_scheduler=WarmupCosine"], ["give it as --model.lr_schedule, with --model.lr_scheduler null"]),
        (["--model.lr_scheduler=StepLR"], ["StepLR needs the setting step_size", "--model.lr_scheduler.step_size"]),
        (["--model.latent_model=null"], ["model.latent_model: expected the name of a class, got null: give"]),
        (["--model.optimizer=null"], ["model.optimizer: expected the name of a class, got null: give --model.opt"]),
        (["--model.latent_model.encoder.net=nowhere.Net"], ["encoder.net:", "there is no module 'nowhere' here"]),
        (["--data=Digits"], ["data: expected settings", "got the class Digits: say --data.source Digits"]),
        (
            [*FOLDER, "--data.source.window=5"],
            ["data.source.window: expected two numbers or null, got 5: give --data.source.window [low,high]."],
        ),
        (
            [*FOLDER, "--data.source.window=[1,a]"],
            ["got [1, 'a']: give --data.source.window [low,high]."],
        ),
        (
            [*FOLDER, "--data.source.percentiles=x"],
            ["expected two numbers or null, got x: give --data.source.percentiles [low,high]."],
        ),
        (
            [*FOLDER, "--data.source.size=64"],
            ["expected two whole numbers or null, got 64: give --data.source.size [height,width]."],
        ),
        ([*FOLDER, "--data.source.size=[64]"], ["got [64]: give --data.source.size [height,width]."]),
        ([*FOLDER, "--data.source.levels=[3]"], ["data.source.levels: expected a whole number or null, got [3]."]),
        (
            [*FOLDER, "--data.source.channels=grey"],
            ["data.source.channels: expected a whole number or null, got grey."],
        ),
        (
            ["--data.source=Arrays", "--data.source.path=x", "--data.source.window=5"],
            ["give --data.source.window [low,high]."],
        ),
        (
            ["--data.source=[1,2]"],
            ["data.source: expected a class of kind ImageSource, got [1, 2]", "--data.source.NAME VALUE."],
        ),
        (
            ["--model.latent_model.prior=SplineFlowPrior", "--model.latent_model.prior.hidden=5"],
            ["prior.hidden: expected a list of whole numbers, got 5: give --model.latent_model.prior.hidden [5]."],
        ),
        (
            ["--model.optimizer=AdamW", "--model.optimizer.betas=5"],
            ["model.optimizer.betas: expected two numbers, got 5: give --model.optimizer.betas [a,b]."],
        ),
        (["--model.optimizer.lr=x"], ["model.optimizer.lr: expected a number, got x."]),
        (["--model.objective.beta=x"], ["beta: expected a number or the name of a class, got x, which is neither."]),
        (["--model.objective.beta=WarmupConstan"], ["beta: expected the name of a class", "did you mean WarmupConst"]),
        (["--model.averaging=x"], ["model.averaging: expected a number or null, got x."]),
        (["--model.evaluation.samples=x"], ["model.evaluation.samples: expected a whole number, got x."]),
        (["--model.compile=maybe"], ["model.compile: expected true or false, got maybe."]),
        (["--data.augment=5"], ["data.augment: expected a list of classes or null, got 5."]),
        (["--data.augment=[flip]"], ["data.augment: expected the name of a class, got 'flip', which there is not"]),
        (["--trainer.precision=x"], ["trainer.precision: expected one of 64, 32, 16, transformer-engine, "]),
        (
            ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=2"],
            ["--trainer.callbacks.monitor headline"],
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_one_sentence(cli: Callable, flags: list[str], words: list[str]) -> None:
    result = cli("fit", "-c", DIGITS, *FAST, *flags)
    refused(result, *words)
    assert "Union" not in result.error
    assert "Namespace" not in result.error
    assert len(result.error.strip().splitlines()) == 1
    assert not list(Path().glob("runs/*/*"))


class Mine(Digits):
    """A source with settings of many types.

    Args:
        pair: (low, high) of it.
    """

    def __init__(
        self,
        pair: float | tuple[float, float] = 1.0,
        numbers: int | list[int] = 3,
        choice: Literal["x", "y"] = "x",
        names: dict[str, int] | None = None,
        mapping: Mapping[str, float] | None = None,
        nest: Sequence[tuple[int, int]] = (),
        file: Path | None = None,
        others: list[Digits] | None = None,
        word: str | None = None,
    ) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("pair=x", "expected a number or two numbers, got x: give --data.source.pair [low,high]."),
        ("pair=[1]", "expected a number or two numbers, got [1]: give --data.source.pair [low,high]."),
        (
            "numbers=x",
            "expected a whole number or a list of whole numbers, got x: give --data.source.numbers [1,2], or",
        ),
        ("choice=z", "expected one of x, y, got z."),
        ("names=5", "expected names with their values or null, got 5."),
        ("mapping=5", "expected names with their values or null, got 5."),
        ("nest=5", "expected a list of lists, got 5."),
        ("file=[1]", "expected a path or null, got [1]."),
        ("others=5", "expected a list of classes or null, got 5."),
        ("word=[1]", "expected a text or null, got [1]."),
    ],
)
def test_a_value_of_another_type_of_a_users_class(cli: Callable, setting: str, words: str) -> None:
    flags = ["--data.source=tests.test_explain.Mine", f"--data.source.{setting}"]
    result = cli("fit", "-c", DIGITS, *FAST, *flags)
    refused(result, f"error: data.source.{setting.partition('=')[0]}: {words}")
    assert len(result.error.strip().splitlines()) == 1


@pytest.mark.parametrize("logger", ["MLFlowLogger", "CometLogger"])
def test_a_logger_whose_package_is_missing(cli: Callable, logger: str) -> None:
    package = {"MLFlowLogger": "mlflow", "CometLogger": "comet_ml"}[logger]
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is here")
    refused(cli("fit", "-c", DIGITS, *FAST, f"--trainer.logger={logger}"), f"{logger} needs a package", "pip install")


def test_wandb_without_a_key(cli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # W&B reads the environment once a process
    result = cli("fit", "-c", DIGITS, *FAST, "--trainer.logger=WandbLogger")
    wandb.teardown()
    refused(result, "wandb login", "WANDB_MODE=offline")
    assert not list(Path().glob("runs/*/*"))


def test_a_part_that_is_missing_is_named(cli: Callable) -> None:
    parts = [
        word
        for name in ("base", "model/conv", "data/digits")
        for word in ("-c", REPOSITORY / "configs" / f"{name}.yaml")
    ]
    done = cli("fit", *parts)
    assert done.status != 0
    assert done.error.strip() == (
        "error: model.objective: expected a value, got none: give --model.objective VALUE, or a file of configs/ that "
        "has it."
    )
