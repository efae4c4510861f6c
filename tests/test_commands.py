"""Commands beside fit and test, several processes, loggers, and the baselines that a test prints."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import yaml

from tests.conftest import GENERATED, REPOSITORY, generated_flags
from tests.test_averaging import averaged
from tests.test_experiment import DIGITS, SHORT, history, same, weights
from vae_lightning import load_model
from vae_lightning.commands import sweep
from vae_lightning.data import ImageFolder
from vae_lightning.metrics import MeanWithError, gaussian_rate_distortion, independent_pixels_nll, pca_squared_error
from vae_lightning.report.results import Results
from vae_lightning.train.process import with_float64


def in_processes(folder: Path, *command: str) -> None:
    """The command line in processes of its own, of one thread each."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "vae_lightning", *command]
    subprocess.run(words, cwd=folder, env=environment, check=True, timeout=900)


@pytest.mark.slow
def test_two_processes_equal_one(cli: Callable, tmp_path: Path) -> None:
    """A test of the same weights does not depend on how many processes share the images, not even an odd number: all
    rows, what belongs to each image in the order of the images, and the studies, which the first process makes."""
    source = [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    source += ["--data.source.count=333", "--data.val_size=33", "--data.batch_size=50"]  # 111 test images
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1", *source).status == 0
    command = ["test", "--ckpt_path=runs/digits/1", "--model.evaluation.samples=50"]
    command += ["--model.evaluation.refinement=3", "--trainer.accelerator=cpu"]
    results = []
    for devices in (1, 2):
        flags = [f"--trainer.devices={devices}", *(["--trainer.strategy=ddp"] if devices == 2 else [])]
        if devices == 1:
            assert cli(*command, *flags).status == 0
        else:
            in_processes(tmp_path, *command, *flags)
        report = Results.read(Path("runs/digits/1"))
        assert report.images == 111
        assert report.settings["processes"] == devices
        results.append(report)
    one, two = results
    assert one.rows["squared_error"].mean == pytest.approx(two.rows["squared_error"].mean, rel=1e-6)
    assert one.rows["squared_error"].error == pytest.approx(two.rows["squared_error"].error, rel=1e-4)
    assert list(one.rows) == list(two.rows)
    assert set(one.per_image) == set(two.per_image) > {"nll", "gap", "pareto_k", "original_edge_width"}
    exact = ("squared_error", "psnr", "original_edge_width", "reconstruction_high_frequency", "pca_squared_error")
    for name in (*exact, "independent_nll", "independent_bits_per_dim"):  # no noise in them
        np.testing.assert_allclose(one.per_image[name], two.per_image[name], rtol=1e-4)
    for name, values in one.per_image.items():
        assert values.shape == two.per_image[name].shape == (111,)
        if name in two.rows and np.isfinite(values).all():
            assert two.per_image[name].mean() == pytest.approx(two.rows[name].mean, rel=1e-4)
    for name in ("elbo", "nll", "bits"):  # other noise, the same images
        apart = one.per_image[name].astype(float) - two.per_image[name]
        assert 0 < abs(apart.mean()) < 4 * apart.std() / 111**0.5
    for name in ("mutual_information", "annealed_nll", "probe_codes", "ppca_nll"):  # studies have noise of their own
        assert one.rows[name].mean == pytest.approx(two.rows[name].mean, rel=1e-6)


def test_studies_look_at_the_model_as_it_is_tested(cli: Callable) -> None:
    """An encoder that in training drops most of what it sees: the rate by a study's samples is the rate of the pass."""
    dropped = "--model.latent_model.encoder.net.init_args.dropout=0.5"
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=10", dropped).status == 0
    assert cli("test", "--ckpt_path=runs/digits/1", "--model.evaluation.samples=2").status == 0
    rows = Results.read(Path("runs/digits/1")).rows
    assert rows["rate"].mean > 2
    assert rows["sampled_rate"].mean == pytest.approx(rows["rate"].mean, rel=0.05)


def test_two_processes_train_as_one(cli: Callable, tmp_path: Path) -> None:
    """Two processes with half the batch each take the steps of one and average the weights as one does, with validation
    batches that do not come out even and pictures on; an autoencoder draws no noise in which they could differ."""
    names = ("encoder/point_mass.yaml", "objective/reconstruction.yaml", "averaging/ema.yaml")
    parts = [REPOSITORY / "configs" / part for part in names]
    command = ["fit", "-c", str(DIGITS), *(word for part in parts for word in ("-c", str(part)))]
    command += [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    command += ["--data.source.count=273", "--data.val_size=33", "--data.eval_batch_size=16", "--trainer.max_epochs=2"]
    command += ["--model.averaging=0.5", "--trainer.callbacks+=tests.test_averaging.Kept"]
    for devices in (1, 2):
        flags = ["--trainer.accelerator=cpu", f"--trainer.devices={devices}", f"--data.batch_size={48 // devices}"]
        flags += [f"--run.name={devices}"]
        if devices == 1:
            assert cli(*command, *flags).status == 0
        else:
            in_processes(tmp_path, *command, *flags, "--trainer.strategy=ddp")
    one, two = (Path("runs/digits") / name for name in "12")
    averages = weights(two / "checkpoints" / "last.ckpt")
    for name, value in weights(one / "checkpoints" / "last.ckpt").items():
        torch.testing.assert_close(averages[name], value, rtol=1e-3, atol=1e-5)
    alone = torch.load("1_0.pt")["trained"]
    first, second = (torch.load(f"2_{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["trained"], second["trained"])
    torch.testing.assert_close(first["trained"], alone, rtol=1e-3, atol=1e-5)
    assert same(first["shown"], second["shown"])
    assert same(second["shown"], averages)
    name = next(name for name in averages if name.startswith("latent_model.encoder."))
    torch.testing.assert_close(averages[name], averaged(first["trained"], 0.5), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(averages[name], first["trained"][-1], rtol=1e-3, atol=1e-5)
    bounds = [
        [float(row["val/distortion"]) for row in history(str(run)) if row["val/distortion"]] for run in (one, two)
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    assert len(list(two.glob("images/*/epoch_0002.png"))) == len(list(one.glob("images/*/epoch_0002.png"))) > 0


@pytest.mark.slow
def test_two_processes_go_on_within_an_epoch(tmp_path: Path) -> None:
    """Each with its own share of the order and its own noise, after 5 of 9 steps."""
    command = ["fit", "-c", str(DIGITS), *SHORT, "--trainer.max_epochs=1"]
    command += [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    command += ["--data.source.count=177", "--data.val_size=33", "--data.batch_size=8"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command += ["--checkpoint.every_n_train_steps=5", "--checkpoint.monitor=null", "--checkpoint.filename={step}"]
    middle = "--ckpt_path=runs/digits/whole/checkpoints/step=5.ckpt"
    for flags in (["--run.name=whole"], ["--run.name=parts", middle]):
        in_processes(tmp_path, *command, *flags)
    whole, parts = (weights(tmp_path / f"runs/digits/{name}/checkpoints/last.ckpt") for name in ("whole", "parts"))
    assert same(whole, parts)


def test_nothing_loads_that_a_command_does_not_use(cli: Callable, tmp_path: Path) -> None:
    """Help and a misspelt command load nothing heavy; the others no logger or plot that nobody asked for."""
    source = [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1", "--data.val_size=16", *source).status == 0
    code = (
        "import sys; from vae_lightning.commands.main import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"
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


def test_a_story_of_several_latents_is_measured(cli: Callable) -> None:
    """One that a user wrote, whose latents have names of their own."""
    parts = (f"-c={REPOSITORY}/configs/{part}.yaml" for part in ("base", "data/digits", "objective/elbo"))
    story = [*parts, "--model.latent_model=tests.stories.TwoLatents"]
    assert cli("fit", *story, *SHORT, "--trainer.max_epochs=3").status == 0
    done = cli("test", "--ckpt_path=runs/default", "--model.evaluation.samples=20")
    assert done.status == 0, done.err
    rows = Results.read(Path("runs/default/1")).rows
    there = {"nll", "shuffled_distortion", "sample_edge_width", "frechet", "copying", "probe_codes", "ppca_nll"}
    assert there < set(rows)
    assert rows["shuffled_distortion"].mean > rows["distortion"].mean
    assert {"mutual_information", "annealed_nll", "refined_nll", "amortisation_gap", "rate_z2", "rate_z1"} < set(rows)
    assert "Left out" not in done.out
    model = load_model("runs/default/1")
    far = [model.decode(torch.full((1, 3), side * 50.0)).mean for side in (-1, 1)]
    assert (far[0] - far[1]).abs().mean() > 1  # z is the deepest latent
    assert far[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("asked", "at", "goes_on"),
    [
        ({"max_epochs": 4, "max_steps": -1}, (2, 20), True),
        ({"max_epochs": 4, "max_steps": -1}, (4, 40), False),
        ({"max_epochs": -1, "max_steps": 50}, (4, 40), True),
        ({"max_epochs": None, "max_steps": 40}, (4, 40), False),
        ({"max_epochs": 9, "max_steps": 40}, (4, 40), False),
    ],
)
def test_a_sweep_goes_on_with_what_was_stopped(
    asked: dict[str, int], at: tuple[int, int], goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "beta_1" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    loop = {"epoch_loop.batch_progress": {"is_last_batch": True}}
    content = {"epoch": at[0] - 1, "global_step": at[1], "loops": {"fit_loop": loop}}
    content["vae_lightning"] = {"config": {"trainer": asked}}
    called: list[str] = []
    monkeypatch.setattr(sweep, "read_checkpoint", lambda path: content)
    monkeypatch.setattr(sweep, "_call", lambda *arguments: called.append(arguments[0]))
    sweep._train(tmp_path / "beta_1", 1.0, None, [])
    assert called == ["fit"] * goes_on


def test_apples_gpu_is_not_chosen_and_refused_where_asked_for(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no float64."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert with_float64("auto") == "cpu"
    assert with_float64("cuda") == "cuda"
    for name in ("mps", "gpu"):
        refused = cli("fit", "-c", DIGITS, *SHORT, f"--trainer.accelerator={name}")
        assert refused.status == 1
        assert f"--trainer.accelerator {name}: expected cpu, cuda or auto, since sums" in refused.error
    monkeypatch.undo()
    assert with_float64("auto") == "auto"


def test_a_place_that_cannot_be_written_is_told_before_the_work(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=1").status == 0
    for name, command in (("results.json", ["test"]), ("anomaly-Digits.json", ["anomaly", "--ood=Digits"])):
        Path(f"runs/digits/1/{name}").mkdir()
        refused = cli(*command, "--ckpt_path=runs/digits/1")
        assert refused.status == 1
        assert f"{name}: expected a file that can be written, got a folder there" in refused.error
        assert not Path("runs/digits/1/surprise.png").exists()


def test_anomaly_tells_other_images_from_its_own(cli: Callable) -> None:
    assert cli("fit", "-c", DIGITS, *SHORT, "--trainer.max_epochs=10").status == 0
    command = ["anomaly", "--ckpt_path=runs/digits/1", f"--ood={GENERATED}", "--num_samples=5", "--num_images=100"]
    done = cli(*command, "--ood.shape=[1,20,14]", "--ood.levels=256", "--ood.count=90")
    assert done.status == 0, done.err
    found = json.loads(Path("runs/digits/1/anomaly-Generated.json").read_text())
    assert found["images"] == [100, 30]
    for name in ("elbo", "log_prob", "rate", "distortion", "complexity", "ratio"):
        assert 0 <= found[f"auroc_{name}"]["mean"] <= 100
    assert found["auroc_distortion"]["mean"] > 95  # soft blobs are no digits
    own = cli("anomaly", "--ckpt_path=runs/digits/1", "--ood=Digits", "--num_samples=2")
    assert own.status == 0
    assert ImageFolder("photos/cats").name == "ImageFolder-cats"  # of which there may be several
    same_images = json.loads(Path("runs/digits/1/anomaly-Digits.json").read_text())
    assert same_images["auroc_complexity"]["mean"] == pytest.approx(50)
    assert same_images["auroc_elbo"]["mean"] == pytest.approx(50, abs=2)
    itself = cli(*command, "--ood.shape=[1,20,14]", "--ood.count=90", "--background=runs/digits/1", "--num_samples=2")
    assert itself.status == 0, itself.err
    less_itself = json.loads(Path("runs/digits/1/anomaly-Generated.json").read_text())["auroc_background"]
    assert 20 < less_itself["mean"] < 80  # the noise of samples is left
    small = ["--model.latent_model.latent_size=1", "--trainer.max_epochs=1"]
    assert cli("fit", "-c", DIGITS, *SHORT, *small).status == 0
    less_small = cli("anomaly", "--ckpt_path=runs/digits/1", "--ood=Digits", "--background=runs/digits/2")
    assert less_small.status == 0
    assert "-log p(x) less the background model's" in less_small.out
    grey = cli("fit", "-c", DIGITS, *SHORT, *small, *generated_flags((1, 6, 6), 17))
    assert grey.status == 0
    unlike = cli("anomaly", "--ckpt_path=runs/digits/1", "--ood=Digits", "--background=runs/digits/3")
    assert "expected a model of images of shape (1, 8, 8) with 17 levels, got one of (1, 6, 6) with 17" in unlike.error
    refused = cli(*command, "--ood.shape=[2,8,8]")
    assert refused.status == 1
    assert "expected images of 1 channels" in refused.error


def test_doctor_looks_a_configuration_over(cli: Callable) -> None:
    healthy = cli("doctor", "-c", DIGITS)
    assert healthy.status == 0, healthy.out
    assert "none to look at" in healthy.out
    ill = cli("doctor", "-c", DIGITS, "--model.optimizer.lr=1000")
    assert ill.status == 1
    assert "LOOK" in ill.out
    assert "try --model.optimizer.lr 0.0" in ill.out
    assert not Path("runs").exists()


def test_a_rate_distortion_sweep_goes_on_where_it_stopped(cli: Callable) -> None:
    flags = ["sweep-rd", "-c", DIGITS, *SHORT, "--trainer.max_epochs=4", "--betas", "0.3", "4"]
    failed = cli(*flags, "--model.optimizer.lr=nan")
    assert failed.status == 1
    assert not list(Path("runs/rd").glob("*/checkpoints/*"))
    assert cli(*flags).status == 0  # what has trained nothing binds nobody
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
    other = cli(*flags, "--model.latent_model.latent_size=3")
    assert other.status == 1
    assert "trained with (sweep.yaml: latent_size: 10), got latent_size: 3: choose another --output" in other.error
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
    assert cli("fit", "-c", DIGITS, "-c", overlay, "--trainer.max_epochs=2").status == 0
    wandb.teardown()  # as a process's end does: until then W&B's service may hold the lines back
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
    tested = cli("test", "--ckpt_path=runs/digits/1", "-c", overlay, "--model.evaluation.studies=false")
    assert tested.status == 0, tested.err
    assert Path("runs/digits/1/report.html").is_file()
    wandb.teardown()
    records = [folder.name for folder in Path("runs/digits/1/wandb").glob("offline-run-*")]
    assert len(records) == 2  # of one run there: the same id
    artifacts = [
        file for file in Path("runs/digits/1/wandb").rglob("*.wandb") if b"report-digits-1" in file.read_bytes()
    ]
    assert len(artifacts) == 1
    summaries = re.findall(r'"val/elbo":\s*\{\s*"max":\s*(-?[\d.]+)', shown)
    bounds = [float(row["val/elbo"]) for row in history("runs/digits/1") if row["val/elbo"]]
    assert float(summaries[-1]) == pytest.approx(max(bounds), rel=1e-5)
    assert (Path("runs/digits/1/images/reconstructions/epoch_0002.png")).is_file()  # and in files alike
