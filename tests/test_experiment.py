"""Runs through the command line: whole, interrupted, resumed, measured, and read back."""

from __future__ import annotations

import csv
import gc
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.conftest import GENERATED, REPOSITORY, generated_flags
from vae_lightning import load_model
from vae_lightning.experiment.results import Results
from vae_lightning.metrics import MeanWithError, gaussian_rate_distortion, independent_pixels_nll, pca_squared_error

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
SHORT = ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def history(run: str) -> list[dict[str, str]]:
    with open(f"{run}/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_fit_leaves_a_whole_run_and_a_checkpoint_is_enough(cli: Callable, tmp_path: Path) -> None:
    done = cli("fit", "-c", DIGITS, "--trainer.max_epochs=10")
    assert done.status == 0
    assert "val/elbo" in done.out
    run = tmp_path / "runs" / "digits" / "1"
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "curve.png",
        "images",
        "metrics.csv",
        "run.json",
    }
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert {path.name for path in (run / "images").iterdir()} == {
        "reconstructions",
        "priorsamples",
        "traversals",
        "interpolations",
    }
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["sizes"] == {"train": 1237, "val": 200, "test": 360}
    assert len(record["data"]["val_index"]) == 200
    assert "git_commit" in record
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["image_shape"] == [1, 8, 8]
    rows = history("runs/digits/1")
    bounds = [float(row["val/elbo"]) for row in rows if row["val/elbo"]]
    assert len(bounds) == 10
    assert bounds[-1] > bounds[0] + 10

    os.chdir(tmp_path / "runs")  # from anywhere, without the configuration
    tested = cli("test", "--ckpt_path", run, "--model.test_samples=50")
    assert tested.status == 0
    report = Results.read(run)
    model = {name: row.mean for name, row in report.rows.items()}
    assert report.images == 360
    assert model["elbo"] == pytest.approx(-model["rate"] - model["distortion"], rel=1e-6)
    assert model["bits_per_dim"] == pytest.approx(-model["elbo"] / (64 * math.log(2)), rel=1e-6)
    assert -model["elbo"] + 1 > model["nll_1"] > model["nll_10"] > model["nll"]
    assert model["gap"] == pytest.approx(-model["nll"] - model["elbo"], rel=1e-4)
    assert 0 < report.rows["nll"].error < 2
    assert 1 < model["effective_samples"] < 50
    assert model["pca_squared_error"] > 0
    for name in ("elbo", "nll", "squared_error"):
        kept = report.per_image[name].astype(float)
        assert kept.shape == (360,)
        assert kept.mean() == pytest.approx(model[name], rel=1e-5)
        assert kept.std(ddof=1) / 360**0.5 == pytest.approx(report.rows[name].error, rel=1e-4)
    for label in ("ELBO", "rate", "distortion", "bits/dim", "independent pixels", "PCA with 10 components"):
        assert label in tested.out

    assert model["sampled_rate"] == pytest.approx(model["mutual_information"] + model["prior_hole"], abs=1e-3)
    assert model["prior_hole"] == pytest.approx(model["total_correlation"] + model["dimension_wise_kl"], abs=1e-3)
    assert model["shuffled_distortion"] > model["distortion"] + 10
    assert abs(model["annealed_difference"]) < 1
    assert model["prior_nll"] > model["checked_nll"] + 1
    assert model["original_high_frequency"] > model["reconstruction_high_frequency"]  # blur
    assert model["original_edge_width"] < model["reconstruction_edge_width"]
    assert model["probe_pixels"] > 90
    assert model["probe_codes"] > 50
    assert model["classifier_accuracy"] > 85
    assert 0 < model["frechet_train"] < model["frechet"]
    assert model["ppca_nll"] > 100
    assert model["bits"] == pytest.approx(model["nll"] / math.log(2), rel=1e-4)
    assert (run / "surprise.png").is_file()

    assert cli("report", run).status == 0
    assert "total correlation" in (run / "report.html").read_text()
    shutil.copytree(run, run.with_name("copy"))
    compared = cli("compare", run, run.with_name("copy"))
    assert compared.status == 0
    assert "paired" in compared.out
    shutil.rmtree(run.with_name("copy"))
    assert cli("compare", run).status == 1  # nothing to compare with

    assert cli("validate", "--ckpt_path", run).status == 0
    assert cli("predict", "--ckpt_path", run / "checkpoints" / "best.ckpt").status == 0
    with (run / "predictions.csv").open() as file:
        scores = [float(row["elbo"]) for row in csv.DictReader(file)]
    assert len(scores) == 360
    assert np.mean(scores) == pytest.approx(model["elbo"], abs=0.5)
    assert cli("sample", "--ckpt_path", run, "--num_samples=10", "--mean=false", "--output=s.npy").status == 0
    samples = np.load("s.npy")
    assert samples.shape == (10, 1, 8, 8)
    assert samples.dtype == np.uint8
    assert samples.max() <= 16
    assert cli("sample", "--ckpt_path", run).status == 0
    assert cli("reconstruct", "--ckpt_path", run, "--split=val", "--num_images=16").status == 0
    assert cli("reconstruct", "--ckpt_path", run, "--output=r.npz").status == 0
    pair = np.load("r.npz")
    assert pair["image"].shape == pair["reconstruction"].shape == (32, 1, 8, 8)
    assert cli("encode", "--ckpt_path", run).status == 0
    codes = np.load(run / "codes.npz")
    assert codes["mean"].shape == codes["scale"].shape == (360, 10)
    assert codes["label"].shape == (360,)

    trained = load_model(str(run))
    x = torch.from_numpy(pair["image"])
    assert trained.encode(x).mean.shape == (32, 10)
    np.testing.assert_allclose(trained.encode(x).mean, codes["mean"][:32], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.reconstruct(x).mean, pair["reconstruction"], rtol=1e-4, atol=1e-3)
    assert trained.decode(trained.encode(x).mean).log_prob(x.float()).shape == (32,)
    assert trained.sample(5).sample().shape == (5, 1, 8, 8)
    assert trained.log_prob(x, 100).mean() > trained.elbo(x).mean()
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, 8, 8\), got \(32, 1, 4, 8\)"):
        trained.elbo(x[:, :, :4])
    with pytest.raises(ValueError, match=r"expected images that hold the integers 0..16"):
        trained.elbo(x / 16)


def test_same_seed_same_numbers(cli: Callable) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert (
            cli(
                "fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=2", f"--seed_everything={seed}", f"--run.name={name}"
            ).status
            == 0
        )
    a, b, c = (weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in "abc")
    assert same(a, b)
    assert not same(a, c)
    assert history("runs/digits/a") == history("runs/digits/b")


@pytest.mark.parametrize("binarise", [False, True])
def test_resume_equals_no_stop(cli: Callable, binarise: bool) -> None:
    """Order, noise, binarisation, optimiser, schedule and metrics go on as if nothing had happened."""
    flags = [
        "fit",
        "-c",
        DIGITS,
        *SHORT,
        "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR",
        "--model.lr_scheduler.gamma=0.7",
    ]
    flags += ["--model.objective.beta=Linear", "--model.objective.beta.steps=70"]
    if binarise:
        flags += ["--data.dynamic_binarization=true", "--model.latent_model.likelihood=BernoulliLikelihood"]
    assert cli(*flags, "--trainer.max_epochs=4", "--run.name=whole").status == 0
    assert cli(*flags, "--trainer.max_epochs=2", "--run.name=parts").status == 0
    assert cli("fit", "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=3").status == 0
    assert cli("fit", "-c", DIGITS, *flags[3:], "--ckpt_path=last", "--trainer.max_epochs=4").status == 0
    assert sorted(path.name for path in Path("runs/digits").iterdir()) == ["parts", "whole"]
    whole, parts = (weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts"))
    assert same(whole, parts)
    assert history("runs/digits/whole") == history("runs/digits/parts")


def test_a_resumed_run_takes_another_learning_rate_and_its_schedule(cli: Callable) -> None:
    """What the command line says of optimiser and schedule holds, as if it had been said from the start."""
    schedule = ["--model.lr_scheduler.T_max=4", "--model.lr_scheduler.eta_min=0"]
    assert cli("fit", "-c", DIGITS, *SHORT, *schedule, "--trainer.max_epochs=2", "--run.name=a").status == 0
    said = ["--model.optimizer.lr=0.01", "--model.lr_scheduler.T_max=8", "--trainer.log_every_n_steps=1"]
    assert cli("fit", "--ckpt_path=runs/digits/a", "--trainer.max_epochs=4", *said).status == 0
    rates = {int(row["step"]) // 20: float(row["optim/lr"]) for row in history("runs/digits/a") if row["optim/lr"]}
    for epoch in (2, 3):
        assert rates[epoch] == pytest.approx(0.01 * (1 + math.cos(math.pi * epoch / 8)) / 2, rel=1e-6)
    configs = sorted(path.name for path in Path("runs/digits/a").glob("config*.yaml"))
    assert configs == ["config.1.yaml", "config.yaml"]  # the earlier start's is kept
    lr = [
        yaml.safe_load(Path("runs/digits/a", n).read_text())["model"]["optimizer"]["init_args"]["lr"] for n in configs
    ]
    assert lr[1] == 0.01
    assert lr[0] != 0.01
    command = json.loads(Path("runs/digits/a/run.json").read_text())["command"]
    assert command[:2] == ["fit", "--ckpt_path=runs/digits/a"]


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
def test_every_step_counts_clips_and_schedules(cli: Callable) -> None:
    """What is left out of Lightning's loop leaves step count, clipping and callbacks at their work; compiled, too."""
    probe = "--trainer.callbacks+=tests.test_experiment.Probe"
    for flags in ([], ["--model.compile=true"]):
        Probe.seen = []
        clip = ["--trainer.gradient_clip_val=0.01", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
        name = "compiled" if flags else "eager"
        run = [f"--run.name={name}", *flags]
        done = cli("fit", "-c", DIGITS, "--trainer.callbacks=null", probe, *clip, *run)
        assert done.status == 0, done.err
        assert [step for step, _ in Probe.seen] == list(range(1, 41))
        assert all(norm <= 0.01 * 1.001 for _, norm in Probe.seen)
        assert torch.load(f"runs/digits/{name}/checkpoints/last.ckpt", weights_only=True)["global_step"] == 40
        assert len([row for row in history(f"runs/digits/{name}") if row["train/loss"]]) == 40
    eager, compiled = (history(f"runs/digits/{name}") for name in ("eager", "compiled"))
    final = [[float(row["val/elbo"]) for row in rows if row["val/elbo"]][-1] for rows in (eager, compiled)]
    assert final[0] == pytest.approx(final[1], abs=3)


class Probe(Callback):
    """The step and the gradient's norm after every step."""

    seen: ClassVar[list[tuple[int, float]]] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.optimizer = optimizer

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        norms = [p.grad.norm() for group in self.optimizer.param_groups for p in group["params"]]
        Probe.seen.append((trainer.global_step, torch.stack(norms).norm().item()))
        assert gc.isenabled()  # off at the start only


def test_a_checkpoint_within_an_epoch_is_no_place_to_go_on_from(cli: Callable) -> None:
    within = ["--checkpoint.every_n_train_steps=8", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    flags = [*within, "--checkpoint.save_top_k=-1", "--trainer.max_epochs=1"]
    assert cli("fit", "-c", DIGITS, *SHORT, *flags).status == 0
    refused = cli("fit", "--ckpt_path=runs/digits/1/checkpoints/step=8.ckpt", "--run.name=b", "--trainer.max_epochs=3")
    assert refused.status == 1
    assert "expected a checkpoint of an epoch's end to go on from, got one within epoch 1, at step 8" in refused.error
    assert cli("fit", "--ckpt_path=runs/digits/1", "--trainer.max_epochs=2").status == 0  # from last.ckpt
    overfit = cli("fit", "-c", DIGITS, *SHORT, "--trainer.overfit_batches=2")
    assert "--trainer.limit_train_batches" in overfit.error


def test_a_moved_run_keeps_its_best_checkpoint(cli: Callable, tmp_path: Path) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=3").status == 0
    Path("runs/digits/1").rename("moved")
    best = weights(Path("moved/checkpoints/best.ckpt"))
    going_on = ["--trainer.max_epochs=4", "--model.optimizer.lr=10"]  # the bound can only fall
    assert cli("fit", "--ckpt_path=moved", *going_on).status == 0
    assert same(best, weights(Path("moved/checkpoints/best.ckpt")))
    assert not same(best, weights(Path("moved/checkpoints/last.ckpt")))
    again = cli("fit", "--ckpt_path=moved/checkpoints/best.ckpt", "--trainer.max_epochs=9")
    assert again.status != 0  # would undo what came after
    assert "expected the run's last checkpoint" in again.error
    assert "nothing is left to train" in cli("fit", "--ckpt_path=moved", "--trainer.max_epochs=4").error


def test_best_and_newest_are_what_they_say(cli: Callable) -> None:
    names = ["--checkpoint.save_top_k=-1", "--checkpoint.filename={epoch}"]
    climb = ["--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size=2"]
    worse = [*climb, "--model.lr_scheduler.gamma=3000", "--trainer.max_epochs=3", "--model.optimizer.lr=0.003"]
    assert cli("fit", "-c", DIGITS, *SHORT, *names, *worse).status == 0
    bounds = [float(row["val/elbo"]) for row in history("runs/digits/1") if row["val/elbo"]]
    assert bounds[-1] < max(bounds)
    from vae_lightning.experiment.checkpoint import find_checkpoint

    assert find_checkpoint("runs/digits/1").stem == f"epoch={bounds.index(max(bounds))}"
    refused = cli("fit", "-c", DIGITS, *SHORT, "--checkpoint.save_top_k=2")
    assert "--checkpoint.filename" in refused.error
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1").status == 0
    Path("runs/digits/1/note").touch()  # what a test leaves behind makes a run no newer
    assert find_checkpoint("runs/digits").parent.parent.name == "2"


def test_last_is_written_every_epoch_however_seldom_one_validates(cli: Callable) -> None:
    flags = ["--trainer.check_val_every_n_epoch=3", "--trainer.max_epochs=5"]
    assert cli("fit", "-c", DIGITS, *SHORT, *flags).status == 0
    folder = Path("runs/digits/1/checkpoints")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 4
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 2
    worse = ["--trainer.max_epochs=7", "--trainer.check_val_every_n_epoch=1", "--model.optimizer.lr=30"]
    assert cli("fit", "--ckpt_path=runs/digits/1", *worse).status == 0
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 6  # nor however bad it is
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 2


def test_pictures_show_the_same_images_with_the_same_noise(cli: Callable) -> None:
    """With a learning rate of zero, the pictures of two epochs are the same to the last pixel; all of them are there
    at the last epoch, too."""
    every = [
        f"--trainer.callbacks+={name}"
        for name in ("Reconstructions", "PriorSamples", "Traversals", "Interpolations")
        for _ in range(1)
    ]
    frozen = ["--trainer.callbacks=null", *every, "--model.optimizer.lr=0", "--trainer.max_epochs=2"]
    assert cli("fit", "-c", DIGITS, *frozen).status == 0
    folders = sorted(Path("runs/digits/1/images").iterdir())
    assert len(folders) == 4
    for folder in folders:
        first, second = (path.read_bytes() for path in sorted(folder.iterdir()))
        assert first == second, folder
    assert cli("fit", "-c", DIGITS, "--trainer.max_epochs=3").status == 0  # the configuration says every tenth
    assert len(list(Path("runs/digits/2/images").glob("*/epoch_0003.png"))) == 4


def test_traversals_begin_with_the_most_informative_latent() -> None:
    from vae_lightning.experiment.pictures import Traversals, reconstruction_grid
    from vae_lightning.models import VAE

    model = VAE((1, 2, 2), 2, latent_size=3).eval()
    with torch.no_grad():
        model.encoder.mu.weight.zero_()
        model.encoder.mu.bias.zero_()
        model.encoder.log_scale.bias.copy_(torch.tensor([0.0, -3.0, -1.0]))  # rates rise with the distance from sigma 1
        model.encoder.mu.weight[0, 0] = 1.0  # the first one's means vary most, and say less
        model.likelihood.net.layers[1].weight.copy_(torch.eye(3).repeat(134, 1)[:400])
    image = torch.bernoulli(torch.rand(16, 1, 2, 2))
    seen: list[torch.Tensor] = []
    model.likelihood.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert Traversals(rows=2, columns=5).draw(model, image)[1] == 5
    rows = seen[-1].unflatten(0, (2, 5))
    moved = [int((row.max(0).values - row.min(0).values).ne(0).nonzero()[0]) for row in rows if row.std(0).any()]
    assert not rows[0, :, 0].std() > 0  # latent 1 or 2 comes before latent 0
    assert 0 not in moved[:1]
    assert len(reconstruction_grid(model, image[:12])) == 32  # twelve pairs in two double rows, the last filled up


def test_a_killed_run_loses_at_most_the_epoch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vae_lightning", "fit"]
    flags = ["-c", str(DIGITS), *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([*command, *flags, "--trainer.max_epochs=1000"], cwd=tmp_path, env=environment)
    last = tmp_path / "runs" / "digits" / "1" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epoch = torch.load(last, weights_only=True)["epoch"]
    resumed = subprocess.run(
        [*command, "--ckpt_path", "last", f"--trainer.max_epochs={epoch + 3}"],
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert resumed.returncode == 0
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 2
    assert not list(tmp_path.rglob("*.part"))
    with (last.parent.parent / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["val/elbo"]]
    assert steps == sorted(set(steps))
    assert len(steps) == epoch + 3


def test_a_run_is_never_overwritten(cli: Callable) -> None:
    short = ["fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1"]
    assert cli(*short, "--run.name=mine").status == 0
    before = weights(Path("runs/digits/mine/checkpoints/last.ckpt"))
    again = cli(*short, "--run.name=mine", "--seed_everything=9")
    assert again.status != 0
    assert "runs/digits/mine exists and is not overwritten" in again.error
    assert same(before, weights(Path("runs/digits/mine/checkpoints/last.ckpt")))
    assert cli(*short).status == cli(*short).status == 0
    assert sorted(path.name for path in Path("runs/digits").iterdir()) == ["1", "2", "mine"]


def test_command_line_beats_the_checkpoint(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1").status == 0
    for samples in (3, 40):
        assert cli("test", "--ckpt_path", "runs/digits/1", f"--model.test_samples={samples}").status == 0
        assert Results.read(Path("runs/digits/1")).settings["test_samples"] == samples
    assert cli("test", "--ckpt_path", "runs/digits/1", "--model.test_samples=0", "--data.split_seed=5").status == 0
    assert "nll" not in Results.read(Path("runs/digits/1")).rows


def test_validation_is_the_plain_bound_whatever_training_weighs(cli: Callable) -> None:
    """Two runs that differ in the objective's weights alone have the same bound before the first step."""
    bounds = []
    for name, flags in (
        ("plain", []),
        ("beta", ["--model.objective.beta=50"]),
        ("bits", ["--model.objective.free_bits=9"]),
    ):
        done = cli(
            "fit",
            "-c",
            DIGITS,
            *SHORT,
            "--trainer.max_epochs=1",
            "--model.optimizer.lr=0",
            f"--run.name={name}",
            *flags,
        )
        assert done.status == 0
        bounds.append([row["val/elbo"] for row in history(f"runs/digits/{name}") if row["val/elbo"]])
    assert bounds[0] == bounds[1] == bounds[2]
    assert bounds[0]


def test_a_warm_up_that_does_not_end_is_said(cli: Callable) -> None:
    warm_up = ["--model.objective.beta=Linear", "--model.objective.beta.steps=500"]
    with pytest.warns(UserWarning, match="schedule ends at step 500, but training stops at 20"):
        assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1", *warm_up).status == 0


def test_autoencoder_has_no_bound_and_denoises(cli: Callable) -> None:
    config = REPOSITORY / "configs" / "experiment" / "denoising_autoencoder.yaml"
    small = [*generated_flags((1, 8, 8), 17), "--trainer.max_epochs=8", "--data.source.count=2000", *SHORT]
    assert cli("fit", "-c", config, *small).status == 0
    noise = ["--model.test_corruption=GaussianNoise", "--model.test_corruption.scale=0.5"]
    assert cli("test", "--ckpt_path=runs/denoising_autoencoder", *noise).status == 0
    rows = Results.read(Path("runs/denoising_autoencoder/1")).rows
    result = {name: row.mean for name, row in rows.items()}
    assert "elbo" not in result
    assert result["noisy_squared_error"] == pytest.approx(64 * 0.25, rel=0.05)
    assert result["denoised_squared_error"] < 0.5 * result["noisy_squared_error"]
    assert result["denoised_squared_error"] > 1.05 * result["squared_error"]  # it saw the noise
    assert cli("predict", "--ckpt_path=runs/denoising_autoencoder").status == 0
    header = Path("runs/denoising_autoencoder/1/predictions.csv").read_text().splitlines()[0]
    assert header == "image,distortion"
    refused = cli("sample", "--ckpt_path=runs/denoising_autoencoder")
    assert refused.status != 0
    assert "autoencoder" in refused.error


def test_two_processes_equal_one(cli: Callable, tmp_path: Path) -> None:
    """A test of the same weights does not depend on how many processes share the images, not even an odd number."""
    source = [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    source += ["--data.source.count=333", "--data.val_size=33", "--data.batch_size=50"]  # 111 test images
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1", *source).status == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vae_lightning", "test", "--ckpt_path=runs/digits/1", "--model.test_samples=0"]
    results = []
    for devices in (1, 2):
        flags = ["--trainer.accelerator=cpu", f"--trainer.devices={devices}", "--trainer.strategy=ddp"]
        subprocess.run([*command, *flags], cwd=tmp_path, env=environment, check=True, timeout=300)
        report = Results.read(Path("runs/digits/1"))
        assert report.images == 111
        results.append(report.rows["squared_error"])
    assert results[0].mean == pytest.approx(results[1].mean, rel=1e-6)
    assert results[0].error == pytest.approx(results[1].error, rel=1e-4)


def test_two_processes_train_as_one(cli: Callable, tmp_path: Path) -> None:
    """Two processes with half the batch each take the steps of one, with validation batches that do not come out even
    and pictures on; an autoencoder draws no noise in which they could differ."""
    parts = [REPOSITORY / "configs" / part for part in ("encoder/point_mass.yaml", "objective/reconstruction.yaml")]
    command = ["fit", "-c", str(DIGITS), *(word for part in parts for word in ("-c", str(part)))]
    command += [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    command += ["--data.source.count=273", "--data.val_size=33", "--data.eval_batch_size=16", "--trainer.max_epochs=2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for devices in (1, 2):
        flags = ["--trainer.accelerator=cpu", f"--trainer.devices={devices}", f"--data.batch_size={48 // devices}"]
        flags += [f"--run.name={devices}", *(["--trainer.strategy=ddp"] if devices == 2 else [])]
        subprocess.run(
            [sys.executable, "-m", "vae_lightning", *command, *flags],
            cwd=tmp_path,
            env=environment,
            check=True,
            timeout=120,
        )
    one, two = (Path("runs/digits") / name for name in "12")
    for name, value in weights(one / "checkpoints" / "last.ckpt").items():
        torch.testing.assert_close(weights(two / "checkpoints" / "last.ckpt")[name], value, rtol=1e-3, atol=1e-5)
    bounds = [
        [float(row["val/distortion"]) for row in history(str(run)) if row["val/distortion"]] for run in (one, two)
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    assert len(list(two.glob("images/*/epoch_0002.png"))) == len(list(one.glob("images/*/epoch_0002.png"))) > 0


def test_nothing_loads_that_a_command_does_not_use(cli: Callable, tmp_path: Path) -> None:
    """Help and a misspelt command load nothing heavy; the others no logger or plot that nobody asked for."""
    source = [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1", "--data.val_size=16", *source).status == 0
    code = (
        "import sys; from vae_lightning.experiment.main import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    unasked = {"wandb", "sklearn", "pandas", "tensorboard"}  # matplotlib comes with lightning itself
    for command, absent in (
        (["--help"], {"torch", "lightning", "numpy", "yaml", "jsonargparse"}),
        (["tset"], {"torch", "lightning", "numpy", "yaml", "jsonargparse"}),
        (["validate", "--ckpt_path=runs/digits/1"], unasked),
        (["sample", "--ckpt_path=runs/digits/1"], unasked),
    ):
        words = [sys.executable, "-c", code, *command]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert not absent & set(done.stdout.splitlines()), command


def test_anomaly_tells_other_images_from_its_own(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=10").status == 0
    command = ["anomaly", "--ckpt_path=runs/digits/1", f"--odd={GENERATED}", "--num_samples=5", "--num_images=100"]
    done = cli(*command, "--odd.shape=[1,20,14]", "--odd.levels=256", "--odd.count=90")
    assert done.status == 0, done.err
    found = json.loads(Path("runs/digits/1/anomaly.json").read_text())
    assert found["images"] == [100, 30]
    for name in ("elbo", "log_prob", "rate", "distortion", "complexity", "ratio"):
        assert 0 <= found[f"auroc_{name}"]["mean"] <= 100
    assert found["auroc_distortion"]["mean"] > 95  # soft blobs are no digits
    own = cli("anomaly", "--ckpt_path=runs/digits/1", "--odd=Digits", "--num_samples=2")
    assert own.status == 0
    same_images = json.loads(Path("runs/digits/1/anomaly.json").read_text())
    assert same_images["auroc_complexity"]["mean"] == pytest.approx(50)
    assert same_images["auroc_elbo"]["mean"] == pytest.approx(50, abs=2)
    refused = cli(*command, "--odd.shape=[3,8,8]")
    assert refused.status == 1
    assert "expected images of 1 channels" in refused.error


def test_doctor_looks_a_configuration_over(cli: Callable) -> None:
    healthy = cli("doctor", "-c", DIGITS)
    assert healthy.status == 0, healthy.out
    assert "none to look at" in healthy.out
    ill = cli("doctor", "-c", DIGITS, "--model.objective.beta=Linear", "--model.objective.beta.steps=99999")
    assert ill.status == 1
    assert "LOOK" in ill.out
    assert "--model.objective.beta.steps" in ill.out
    assert not Path("runs").exists()


def test_a_rate_distortion_sweep_goes_on_where_it_stopped(cli: Callable) -> None:
    flags = ["sweep-rd", "-c", DIGITS, *SHORT, "--trainer.max_epochs=4", "--betas", "0.3", "4"]
    assert cli(*flags).status == 0
    with open("runs/rd/rd.csv", newline="") as file:
        points = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [point["beta"] for point in points] == [0.3, 4]
    assert points[0]["rate"] > points[1]["rate"] + 1
    assert points[0]["distortion"] < points[1]["distortion"]
    for point in points:
        assert point["elbo"] == pytest.approx(-point["rate"] - point["distortion"], rel=1e-6)
    assert Path("runs/rd/rd.png").read_bytes().startswith(b"\x89PNG")
    config = yaml.safe_load(Path("runs/rd/beta_4/config.yaml").read_text())
    assert config["run"]["warm_start"] == "runs/rd/beta_0.3"
    trained = Path("runs/rd/beta_4/checkpoints/last.ckpt")
    before = trained.stat().st_mtime_ns
    Path("runs/rd/beta_4/results.json").unlink()  # as if it had been stopped between training and test
    assert cli(*flags).status == 0
    assert trained.stat().st_mtime_ns == before
    shutil.rmtree("runs/rd/beta_4/checkpoints")  # and before its first epoch's end
    Path("runs/rd/beta_4/results.json").unlink()
    assert cli(*flags).status == 0
    assert trained.is_file()
    refused = cli("sweep-rd", "-c", DIGITS, "--betas", "0")
    assert refused.status == 1
    assert "expected weights above 0" in refused.error


def test_a_warm_start_begins_with_the_other_runs_weights(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=2").status == 0
    frozen = ["--run.warm_start=runs/digits/1", "--model.optimizer.lr=0", "--trainer.max_epochs=1"]
    assert cli("fit", "-c", DIGITS, *SHORT, *frozen).status == 0
    best, two = (weights(Path(f"runs/digits/{name}.ckpt")) for name in ("1/checkpoints/best", "2/checkpoints/last"))
    assert same(best, two)


def test_mean_with_error_is_exact_over_uneven_batches() -> None:
    values = -100 + torch.randn(1003, dtype=torch.float64)
    metric = MeanWithError()
    for part in values.split(100):
        metric.update(part.float())
    mean, error, count = metric.compute()
    assert count == 1003
    assert mean.item() == pytest.approx(values.mean().item(), rel=1e-7)
    assert error.item() == pytest.approx((values.std() / math.sqrt(1003)).item(), rel=1e-4)


def test_the_gaussian_limit_is_water_filling_on_known_variances() -> None:
    """Two values of variance 4 and 1 on 0..255: at a water level of w both are told to w."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 2, generator=generator) * torch.tensor([20.0, 10.0]) + 128
    images = noise.round().clamp(0, 255).to(torch.uint8).view(-1, 1, 1, 2)
    first, second = (images.double() / 255).flatten(1).var(0, correction=0).tolist()
    for water in (0.5 * second, 0.1 * second, 2 * second):
        rate = 0.5 * sum(max(0.0, math.log(variance / water)) for variance in (first, second))
        error = sum(min(variance, water) for variance in (first, second))
        found = gaussian_rate_distortion(images.split(50_000), 256, [rate]).item()
        assert found == pytest.approx(error, rel=1e-2)
    assert gaussian_rate_distortion([images], 256, [0.0]).item() == pytest.approx(first + second, rel=1e-2)


def test_baselines_on_known_cases() -> None:
    fair = torch.bernoulli(torch.full((20_000, 1, 2, 2), 0.5)).to(torch.uint8)
    assert independent_pixels_nll(fair.split(7000), fair.split(3000), 2).mean().item() == pytest.approx(
        4 * math.log(2), rel=1e-3
    )
    from sklearn.decomposition import PCA

    images = torch.randint(0, 256, (300, 1, 4, 4), dtype=torch.uint8)
    flat = images.flatten(1).double().numpy() / 255
    oracle = PCA(3).fit(flat[:200])
    expected = ((oracle.inverse_transform(oracle.transform(flat[200:])) - flat[200:]) ** 2).sum(1)
    np.testing.assert_allclose(
        pca_squared_error(images[:200].split(70), images[200:].split(9), 256, 3), expected, rtol=1e-9
    )


def test_published_anchors_on_the_real_files(data_root: Path) -> None:
    """PCA's 13.87 at 30 dimensions and the independent pixels' 205.80 nats: our data and our measures are right."""
    from vae_lightning.data import MNIST, BinarizedMNIST

    mnist = MNIST().load(data_root, download=False)
    error = pca_squared_error(mnist.train.chunks(), mnist.test.chunks(), 256, 30)
    assert error.mean().item() == pytest.approx(13.866, abs=0.01)
    if not (data_root / "BinarizedMNIST").is_dir():
        pytest.skip("the static binarisation is not here")
    static = BinarizedMNIST().load(data_root, download=False)
    nll = independent_pixels_nll(static.train.chunks(), static.test.chunks(), 2)
    assert nll.mean().item() == pytest.approx(205.80, abs=0.02)


def test_wandb_run_read_back(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dashboard would show is in the offline run: metrics, pictures, configuration, summaries."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    overlay = REPOSITORY / "configs" / "logger" / "wandb.yaml"
    assert cli("fit", "-c", DIGITS, "-c", overlay, "--trainer.max_epochs=10").status == 0
    (folder,) = Path("runs/digits/1/wandb").glob("offline-run-*")
    tool = Path(sys.executable).parent / "wandb"
    inspect = [str(tool), "leet", "inspect", "--json"]
    shown = "".join(
        subprocess.run([*inspect, *flags, str(folder)], capture_output=True, text=True, check=True).stdout
        for flags in ([], ["--summary"])
    )
    for name in ("val/elbo", "val/rate", "val/distortion", "train/loss", "optim/lr", "trainer/global_step"):
        assert name in shown
    for picture in ("recon/reconstructions", "samples/priorsamples", "latent/traversals", "latent/interpolations"):
        assert picture in shown
    assert "git_commit" in shown
    assert "GaussianPosterior" in shown
    assert list(folder.rglob("*.png"))
    tested = cli("test", "--ckpt_path=runs/digits/1", "-c", overlay, "--model.test_studies=false")
    assert tested.status == 0, tested.err
    assert Path("runs/digits/1/report.html").is_file()
    records = [folder.name for folder in Path("runs/digits/1/wandb").glob("offline-run-*")]
    assert len(records) == 2  # of one run there: the same id
    artifacts = [
        file for file in Path("runs/digits/1/wandb").rglob("*.wandb") if b"report-digits-1" in file.read_bytes()
    ]
    assert len(artifacts) == 1
    summaries = re.findall(r'"val/elbo":\s*\{\s*"max":\s*(-?[\d.]+)', shown)
    bounds = [float(row["val/elbo"]) for row in history("runs/digits/1") if row["val/elbo"]]
    assert float(summaries[-1]) == pytest.approx(max(bounds), rel=1e-5)
    assert (Path("runs/digits/1/images/reconstructions/epoch_0010.png")).is_file()  # and in files alike
