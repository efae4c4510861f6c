"""An epoch of the ordinary `fit` beside an epoch of the hand-written loop, and of peers where they are installed.

python -m benchmarks.train mlp
python -m benchmarks.train conv
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.clock import Clock
from benchmarks.hand_written import MLPVAE, ConvVAE, train
from benchmarks.harness import compare
from vae_lightning.data import ImageData
from vae_lightning.experiment import cli  # noqa: F401 (its classes, which the configuration names by their last word)
from vae_lightning.experiment.checkpoint import build
from vae_lightning.experiment.main import main
from vae_lightning.experiment.process import tune_process

HERE = Path(__file__).parent


def project(config: str, epochs: int, *flags: str) -> tuple[list[float], list[float]]:
    """Seconds of each epoch through the command line, and the bound after each."""
    Clock.epochs = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = ["fit", "-c", str(HERE / config), f"--run.root={folder}", f"--trainer.max_epochs={epochs}", *flags]
        assert main(arguments) == 0
        (metrics,) = Path(folder).rglob("metrics.csv")
        header, *rows = [line.split(",") for line in metrics.read_text().splitlines()]
        bounds = [float(row[header.index("val/elbo")]) for row in rows if row[header.index("val/elbo")]]
    return Clock.epochs, bounds


def by_hand(name: str, data: ImageData, epochs: int) -> tuple[list[float], list[float]]:
    """The same weights to begin with, the same order, the same noise."""
    torch.manual_seed(0)
    experiment = build(_settings(name))
    model = MLPVAE() if name == "mlp" else ConvVAE((32, 64, 128), 192, 32, 32)
    train_image, held_out = data.splits["train"].image, data.splits["val"].image
    experiment.latent_model.init_from_data(train_image[:: max(1, len(train_image) // 10_000)].float())
    state = list(experiment.latent_model.state_dict().values())
    model.load_state_dict(dict(zip(model.state_dict(), state, strict=True)))
    if name == "conv":
        model = model.to(memory_format=torch.channels_last)
    seconds, _, bounds = train(model, train_image, held_out, epochs)
    return seconds, bounds


def _settings(name: str) -> dict[str, Any]:
    config = yaml.safe_load((HERE / f"{name}.yaml").read_text())["model"]
    side = 28 if name == "mlp" else 32
    return {**config, "image_shape": [1, side, side], "levels": 2}


def run(name: str, repeats: int, epochs: int, *variants: tuple[str, tuple[str, ...]]) -> None:
    from benchmarks.images import BinaryMNIST

    tune_process()  # as the command line does
    data = ImageData(BinaryMNIST(name == "conv", 0.15 if name == "conv" else 1.0), batch_size=128)
    data.setup()
    bounds: dict[str, list[float]] = {}
    first: dict[str, float] = {}

    def loop() -> float:
        seconds, bounds["hand-written loop"] = by_hand(name, data, epochs)
        return statistics.mean(seconds[1:])

    def fit(case: str, flags: tuple[str, ...]) -> float:
        seconds, bounds[case] = project(f"{name}.yaml", epochs, *flags)
        first[case] = seconds[0]
        return statistics.mean(seconds[1:])

    cases = {"hand-written loop": loop}
    for case, flags in (("vae-lightning fit", ()), *variants):
        cases[case] = lambda case=case, flags=flags: fit(case, flags)
    compare(
        f"train_{name}", cases, "hand-written loop", repeats, ("images", len(data.splits["train"])), {"elbo": bounds}
    )
    for case, values in bounds.items():
        print(f"  ELBO after each epoch, {case}: {', '.join(f'{value:.4f}' for value in values)}")
    for case, value in first.items():
        print(f"  first epoch, {case}: {value:.2f} s")


if __name__ == "__main__":
    which = sys.argv[1] if len(sys.argv) > 1 else "mlp"
    if which == "mlp":
        run("mlp", 5, 3, ("vae-lightning fit, compiled", ("--model.compile=true",)))
    else:
        layout = ("vae-lightning fit, default layout", ("--model.channels_last=false",))
        half = ("vae-lightning fit, bf16", ("--trainer.precision=bf16-mixed",))
        run("conv", 3, 2, layout, ("vae-lightning fit, compiled", ("--model.compile=true",)), half)
