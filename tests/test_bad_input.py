"""What is the user's to mend gets one sentence (expected, got, remedy), a non-zero exit, no traceback, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import GENERATED, REPOSITORY, Result, generated_flags
from vae_lightning.core import Batch, LatentModel, Loss
from vae_lightning.objectives import ELBO

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
MNIST = REPOSITORY / "configs" / "experiment" / "mnist.yaml"
IMAGES = REPOSITORY / "configs" / "experiment" / "images.yaml"
FAST = ["--trainer.max_epochs=1", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]


def refused(result: Result, *words: str) -> None:
    assert result.status != 0
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert word in result.error, result.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainer.max_epoch=3"], ["unrecognized arguments", "--trainer.max_epoch=3"]),
        (
            ["--model.latent_model.latent_siz=3"],
            ["model.latent_model.latent_siz: there is no setting 'latent_siz' of VAE (did you mean latent_size?)"],
        ),
        (
            ["--data.source=ImageFolder", "--data.source.path=x", "--data.source.grey=true"],
            ["data.source.grey: there is no setting 'grey' of ImageFolder (did you mean channels?); it takes c"],
        ),
        (
            ["--model.latent_model.encoder.net.hiden=[3]"],
            ["model.latent_model.encoder.net.hiden: there is no setting 'hiden' of MLP (did you mean hidden?)"],
        ),
        (
            ["--model.latent_model.likelihood=BernouliLikelihood"],
            ["expected the name of a class, got 'BernouliLikelihood'", "did you mean BernoulliLikelihood?"],
        ),
        (
            ["--model.objective=torch.nn.Linear"],
            ["model.objective: expected a class of kind Objective, got torch.nn.Lin"],
        ),
        (
            ["--model.latent_model.encoder.net=torch.nn.Linear"],
            ["encoder.net: expected a class of kind Net, got torch"],
        ),
        (
            ["--model.latent_model.latent_size=many"],
            ["model.latent_model.latent_size: expected a whole number, got many"],
        ),
        (["--model.objective.beta=-3"], ["expected weights of at least 0, got -3"]),
        (["--model.evaluation.samples=-4"], ["model.evaluation.samples: expected at least 0, got -4"]),
        (["--model.evaluation.refinement=-1"], ["model.evaluation.refinement: expected at least 0, got -1"]),
        (["--data.val_size=1.5"], ["data.val_size: expected a number of images"]),
        (["--run.experiment=../out"], ["--run.experiment: expected the name of a folder, got '../out'"]),
        (["--trainer.max_epochs=0"], ["nothing is left to train"]),
        (["--model.latent_model.latent_size=0"], ["latent_size: expected at least 1, got 0"]),
        (["-c", "nowhere.yaml"], ["nowhere.yaml"]),
        (
            ["--model.latent_model.likelihood=BernoulliLikelihood"],
            [
                "binary images (2 levels)",
                "17 grey levels",
                "--data.dynamic_binarization true",
                "DiscretizedLogisticLikelihood",
            ],
        ),
        (
            ["--data.dynamic_binarization=true", "--model.latent_model.likelihood=ContinuousBernoulliLikelihood"],
            ["BernoulliLikelihood"],
        ),
        (
            ["--data.dynamic_binarization=true", "--model.latent_model.likelihood=GaussianLearnedScaleLikelihood"],
            ["BernoulliLikelihood"],
        ),
        (["--model.evaluation.sampels=3"], ["no setting 'sampels' of ImageEvaluation", "did you mean samples?"]),
        (["--model.objective=Reconstruction"], ["expects the encoder PointMass"]),
        (["--model.latent_model.encoder=PointMass"], ["choose the encoder GaussianPosterior"]),
        (["--model.image_shape=[1,9,9]", "--model.levels=17"], ["images of shape (1, 9, 9)", "(1, 8, 8)"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_settings(cli: Callable, flags: list[str], words: list[str]) -> None:
    refused(cli("fit", "-c", DIGITS, *FAST, *flags), *words)
    assert not list(Path().glob("runs/*/*"))


def test_commands(cli: Callable) -> None:
    refused(cli("tets"), "tets", "did you mean test?")
    assert "reconstruct" in cli("--help").out
    assert cli().status == 0
    assert cli("--version").out.startswith("vae-lightning ")
    refused(cli("test", "-c", DIGITS), "expected --ckpt_path")
    refused(cli("fit", "-c", DIGITS, "--ckpt_path=last"), "expected a run with checkpoints")
    refused(cli("sample", "--ckpt_path=nowhere"), "nowhere: expected a checkpoint file or the folder of a run")


def test_missing_data(cli: Callable) -> None:
    refused(
        cli("fit", "-c", MNIST, *FAST, "--data.root=nowhere", "--data.download=false"),
        "nowhere/MNIST",
        "--data.root",
        "VAE_LIGHTNING_DATA",
    )
    refused(cli("fit", "-c", IMAGES, *FAST, "--data.source.path=nowhere"), "nowhere: expected a folder of images")
    Path("empty").mkdir()
    refused(cli("fit", "-c", IMAGES, *FAST, "--data.source.path=empty"), "expected images, got none")
    assert not list(Path().glob("runs/*/*"))  # a run that never began leaves nothing


def test_checkpoints(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *FAST).status == 0
    good = Path("runs/digits/1/checkpoints/best.ckpt")
    content = torch.load(good, weights_only=True)
    Path("notes.txt").write_text("no checkpoint")
    Path("short.ckpt").write_bytes(good.read_bytes()[:10_000])
    torch.save({"weights": torch.zeros(3)}, "other.ckpt")
    torch.save({**content, "extra": Path("unsafe")}, "unsafe.ckpt")
    torch.save({**content, "vae_lightning": {**content["vae_lightning"], "config": {}}}, "empty.ckpt")
    damaged = bytearray(good.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # one bit, in the middle of the weights
    Path("flipped.ckpt").write_bytes(damaged)
    for file, words in (
        ("flipped.ckpt", "is damaged"),
        ("empty.ckpt", "expected a configuration with"),
        ("notes.txt", "expected a checkpoint that torch can load safely"),
        ("short.ckpt", "is damaged"),
        ("other.ckpt", "got a file of another program"),
        ("unsafe.ckpt", "more than plain data"),
    ):
        for command in ("test", "fit"):
            refused(cli(command, f"--ckpt_path={file}"), file, words)
    another = cli("sample", f"--ckpt_path={good}", "--model.latent_model.latent_size=4")
    refused(another, "expected weights of the model configured here", " there, ", " here", "leave the model's settings")
    refused(cli("test", f"--ckpt_path={good}", "--model.latent_model.latent_size=4"), "expected weights")
    other_data = cli("encode", f"--ckpt_path={good}", *generated_flags((1, 9, 9), 17))
    refused(other_data, "images of shape (1, 8, 8) with 17 levels", "(1, 9, 9) with 17")
    refused(cli("test", f"--ckpt_path={good}", *generated_flags((1, 9, 9), 17)), "(1, 9, 9)")
    refused(cli("sample", f"--ckpt_path={good}", "--output=s.jpg"), "expected a file that ends in .png or .npy")
    refused(cli("sample", f"--ckpt_path={good}", "--num_samples=0"), "--num_samples: expected at least 1, got 0")
    refused(cli("reconstruct", f"--ckpt_path={good}", "--num_images=0"), "--num_images: expected at least 1, got 0")
    assert not list(Path().rglob("*.part"))


EXPLODING = "tests.test_bad_input.Exploding"


class Exploding(ELBO):
    """Is no number from step 25 of 600 on, in the middle of the second epoch."""

    def forward(self, model: LatentModel, batch: Batch, share: float) -> Loss:
        loss = super().forward(model, batch, share)
        return Loss(loss.value * (torch.nan if share >= 25 / 600 else 1), loss.logs)


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *FAST).status == 0
    before = torch.load("runs/digits/1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    going_on = ["fit", "--ckpt_path=runs/digits/1", "--trainer.max_epochs=30"]
    stopped = cli(*going_on, f"--model.objective={EXPLODING}")
    refused(stopped, "the loss became", "expected a finite number", "lower the learning rate")
    after = torch.load("runs/digits/1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_generated_data_named_by_a_path_that_does_not_exist(cli: Callable) -> None:
    refused(cli("fit", "-c", DIGITS, *FAST, f"--data.source={GENERATED}x"), "Generatedx", "data.source: expected the")
    assert not list(Path().glob("runs/*/*"))
