"""Runs through the command line: whole, interrupted, resumed, measured, and read back."""

from __future__ import annotations

import csv
import gc
import json
import math
import os
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

from tests.conftest import REPOSITORY, generated_flags
from vae_lightning import load_model
from vae_lightning.core import Spec
from vae_lightning.report.results import Results

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
SHORT = ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def history(run: str) -> list[dict[str, str]]:
    with open(f"{run}/metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_fit_leaves_a_whole_run_and_a_checkpoint_is_enough(cli: Callable, curves: None, tmp_path: Path) -> None:
    done = cli("fit", "-c", DIGITS, "--trainer.max_epochs=10", "--model.lr_schedule=WarmupConstant")
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
        "verdict.json",
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
    tested = cli("test", "--ckpt_path", run, "--model.evaluation.samples=50")
    assert tested.status == 0
    report = Results.read(run)
    model = {name: row.mean for name, row in report.rows.items()}
    assert report.images == 360
    assert model["elbo"] == pytest.approx(-model["rate"] - model["distortion"], rel=1e-6)
    assert model["bits_per_dim"] == pytest.approx(-model["elbo"] / (64 * math.log(2)), rel=1e-6)
    assert -model["elbo"] + 1 > model["nll_1"] > model["nll_10"] > model["nll"]
    assert model["gap"] == pytest.approx(-model["nll"] - model["elbo"], abs=1)  # the ELBO is by a sample of its own
    assert (report.per_image["gap"] >= 0).all()
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
    assert abs(model["checked_difference"]) < 1
    assert model["prior_nll"] > model["checked_nll"] + 1
    assert model["original_high_frequency"] > model["reconstruction_high_frequency"]  # blur
    assert model["original_edge_width"] < model["reconstruction_edge_width"]
    assert model["probe_pixels"] > 90
    assert model["probe_codes"] > 50
    assert model["classifier_accuracy"] > 85
    assert 0 < model["frechet_train"] < model["frechet"]
    assert model["aggregate_frechet"] < model["frechet"]  # the prior hole
    assert model["ppca_nll"] > 100
    assert model["bits"] == pytest.approx(model["nll"] / math.log(2), rel=1e-4)
    assert (run / "surprise.png").is_file()
    assert (run / "neighbours.png").is_file()
    assert "No FID in Inception's features: put torch-fidelity's weights at" in tested.out
    assert np.isfinite(report.per_image["reconstruction_edge_width"]).all()

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
    assert trained.encode(x)["z"].mean.shape == (32, 10)
    np.testing.assert_allclose(trained.encode(x)["z"].mean, codes["mean"][pair["index"]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.reconstruct(x).mean, pair["reconstruction"], rtol=1e-4, atol=1e-3)
    assert trained.decode(trained.encode(x)["z"].mean).log_prob(x.float()).shape == (32,)
    assert trained.sample(5).sample().shape == (5, 1, 8, 8)
    assert trained.log_prob(x, 100).mean() > trained.elbo(x).mean()
    assert (trained.log_prob(x, 100, refinement=20) - trained.log_prob(x, 1000)).mean() > -0.5
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
        "--model.lr_schedule=null",
        "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR",
        "--model.lr_scheduler.gamma=0.7",
    ]
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
    schedule = ["--model.lr_schedule=null", "--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR"]
    schedule += ["--model.lr_scheduler.T_max=4"]
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


def test_a_run_goes_on_within_an_epoch(cli: Callable) -> None:
    """Order, noise, binarisation, schedule and metrics, from a checkpoint after 8 of an epoch's 20 batches."""
    binarise = ["--data.dynamic_binarization=true", "--model.latent_model.likelihood=BernoulliLikelihood"]
    within = ["--checkpoint.every_n_train_steps=28", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    flags = ["fit", "-c", DIGITS, *SHORT, *binarise, *within, "--trainer.log_every_n_steps=1"]
    assert cli(*flags, "--checkpoint.save_top_k=-1", "--trainer.max_epochs=4", "--run.name=whole").status == 0
    middle = Path("runs/digits/whole/checkpoints/step=28.ckpt")
    saved = torch.load(middle, weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (1, 28)
    assert saved["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["batches"] == 8
    resumed = cli(*flags, f"--ckpt_path={middle}", "--trainer.max_epochs=4", "--run.name=parts")
    assert resumed.status == 0, resumed.err
    assert "not resumable" not in resumed.err
    whole, parts = (weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts"))
    assert same(whole, parts)
    later = [row for row in history("runs/digits/whole") if int(row["step"]) >= 28]
    assert later == [row for row in history("runs/digits/parts") if int(row["step"]) >= 28]
    assert len([row for row in later if row["train/loss"]]) == 52

    cut = cli(*flags, f"--ckpt_path={middle}", "--data.batch_size=32", "--run.name=cut")
    assert cut.status == 1
    assert "expected its batch_size of 64 as before, got 32" in cut.error
    done = cli(*flags, f"--ckpt_path={middle}", "--trainer.max_epochs=1", "--run.name=done")
    assert "expected more than the 1 epochs that are done" in done.error
    before = Path("runs/digits/whole/checkpoints/last.ckpt").read_bytes()
    again = cli("fit", "--ckpt_path=runs/digits/whole")  # as after a kill between the last epoch and the end
    assert (again.status, again.err) == (0, "")
    assert "all epochs are done, 4 of them" in again.out
    for more in ("--model.optimizer.lr=0.01", "--trainer.max_epochs=4", "--trainer={max_epochs: 3}"):
        assert "nothing is left to train" in cli("fit", "--ckpt_path=runs/digits/whole", more).error
    assert Path("runs/digits/whole/checkpoints/last.ckpt").read_bytes() == before


def test_settings_that_would_train_otherwise_than_asked_are_refused(cli: Callable) -> None:
    for flags, remedy in (
        (["--trainer.overfit_batches=2"], "--trainer.limit_train_batches"),
        (["--trainer.precision=64-true"], "expected 32-true, bf16-mixed or 16-mixed"),
        (["--trainer.callbacks=lightning.pytorch.callbacks.LearningRateFinder"], "set --model.optimizer.lr"),
    ):
        refused = cli("fit", "-c", DIGITS, *SHORT, *flags)
        assert refused.status == 1
        assert remedy in refused.error
    assert not list(Path().rglob("runs/*/*"))


def test_a_run_goes_on_from_a_validation_within_an_epoch(cli: Callable) -> None:
    often = ["--trainer.val_check_interval=0.5", "--checkpoint.filename={step}", "--checkpoint.save_top_k=-1"]
    flags = ["fit", "-c", DIGITS, *SHORT, *often, "--trainer.max_epochs=2"]
    assert cli(*flags, "--run.name=whole").status == 0
    middle = "runs/digits/whole/checkpoints/step=30.ckpt"
    resumed = cli(*flags, f"--ckpt_path={middle}", "--run.name=parts")
    assert resumed.status == 0, resumed.err
    whole, parts = (weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts"))
    assert same(whole, parts)


def test_a_moved_run_keeps_its_best_checkpoint(cli: Callable, tmp_path: Path) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=3").status == 0
    Path("runs/digits/1").rename("moved")
    best = weights(Path("moved/checkpoints/best.ckpt"))
    going_on = ["--trainer.max_epochs=4", "--model.optimizer.lr=10"]  # the bound can only fall
    assert cli("fit", "--ckpt_path=moved", *going_on).status == 1  # it diverges
    assert same(best, weights(Path("moved/checkpoints/best.ckpt")))
    assert not same(best, weights(Path("moved/checkpoints/last.ckpt")))
    again = cli("fit", "--ckpt_path=moved/checkpoints/best.ckpt", "--trainer.max_epochs=9")
    assert again.status != 0  # would undo what came after
    assert "expected the run's last checkpoint" in again.error
    assert "nothing is left to train" in cli("fit", "--ckpt_path=moved", "--trainer.max_epochs=4").error


def test_best_and_newest_are_what_they_say(cli: Callable) -> None:
    names = ["--checkpoint.save_top_k=-1", "--checkpoint.filename={epoch}"]
    climb = [
        "--model.lr_schedule=null",
        "--model.lr_scheduler=torch.optim.lr_scheduler.StepLR",
        "--model.lr_scheduler.step_size=2",
    ]
    worse = [*climb, "--model.lr_scheduler.gamma=3000", "--trainer.max_epochs=3", "--model.optimizer.lr=0.003"]
    assert cli("fit", "-c", DIGITS, *SHORT, *names, *worse).status == 1  # it diverges
    bounds = [float(row["val/elbo"]) for row in history("runs/digits/1") if row["val/elbo"]]
    assert bounds[-1] < max(bounds)
    from vae_lightning.checkpoint import find_checkpoint

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
    assert cli("fit", "--ckpt_path=runs/digits/1", *worse).status == 1  # it diverges
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
    from vae_lightning.images.pictures import reconstruction_grid
    from vae_lightning.models import VAE
    from vae_lightning.train.pictures import Traversals

    model = VAE(Spec((1, 2, 2), 2), latent_size=3).eval()
    with torch.no_grad():
        model.encoder.mu.weight.zero_()
        model.encoder.mu.bias.zero_()
        model.encoder.log_scale.bias.copy_(torch.tensor([0.0, -3.0, -1.0]))  # rates rise with the distance from sigma 1
        model.encoder.mu.weight[0, 0] = 1.0  # the first one's means vary most, and say less
        model.likelihood.net.layers[1].weight.copy_(torch.eye(3).repeat(134, 1)[:400])
    image = torch.bernoulli(torch.rand(16, 1, 2, 2))
    seen: list[torch.Tensor] = []
    model.likelihood.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert Traversals(rows=2, columns=5).draw(model, {"image": image})[1] == 5
    rows = seen[-1].unflatten(0, (2, 5))
    moved = [int((row.max(0).values - row.min(0).values).ne(0).nonzero()[0]) for row in rows if row.std(0).any()]
    assert not rows[0, :, 0].std() > 0  # latent 1 or 2 comes before latent 0
    assert 0 not in moved[:1]
    assert (
        len(reconstruction_grid(model, {"image": image[:12]})) == 32
    )  # twelve pairs in two double rows, the last filled up


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
    test = ["test", "--ckpt_path=runs/digits/1", "--model.evaluation.studies=false"]
    for samples in (3, 40):
        assert cli(*test, f"--model.evaluation.samples={samples}").status == 0
        assert Results.read(Path("runs/digits/1")).settings["test_samples"] == samples
    assert cli(*test, "--model.evaluation.samples=0", "--data.split_seed=5").status == 0
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


def test_autoencoder_has_no_bound_and_denoises(cli: Callable) -> None:
    config = REPOSITORY / "configs" / "experiment" / "denoising_autoencoder.yaml"
    small = [*generated_flags((1, 8, 8), 17), "--trainer.max_epochs=8", "--data.source.count=2000", *SHORT]
    assert cli("fit", "-c", config, *small).status == 0
    noise = ["--model.evaluation.corruption=GaussianNoise", "--model.evaluation.corruption.scale=0.5"]
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
