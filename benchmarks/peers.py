"""Other projects' training of the same net on the same 60 000 images, beside the hand-written loop and `fit`.

They are no dependency: put pythae on PYTHONPATH (pip install --no-deps --target DIR pythae cloudpickle imageio) and
name the file vae/main.py of pytorch/examples. Both train on grey levels as if they were binary; that takes as long.

    PYTHONPATH=DIR python -m benchmarks.peers --examples examples/vae/main.py --data data
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness import arguments, compare
from benchmarks.images import BinaryMNIST
from benchmarks.train import by_hand, project
from vae_lightning.core import Spec
from vae_lightning.data import ImageData
from vae_lightning.train.process import tune_process

EPOCHS = 3


def examples(script: Path, data: Path) -> float:
    """Seconds between the ends of its epochs, tests included."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "vae"
        (place / "results").mkdir(parents=True)
        shutil.copy(script, place / "main.py")
        (Path(folder) / "data").symlink_to(data.resolve())
        command = [sys.executable, "-u", "main.py", f"--epochs={EPOCHS}"]
        with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ends = [time.perf_counter() for line in process.stdout if "Test set loss" in line]
    return statistics.mean(b - a for a, b in itertools.pairwise(ends))


def pythae(data: ImageData) -> float:
    """Seconds an epoch of its trainer, its evaluation included."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.mu, self.log_var = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = torch.relu(self.net(x.flatten(1)))
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z).view(-1, 1, 28, 28))

    settings = VAEConfig(input_dim=(1, 28, 28), latent_dim=20, reconstruction_loss="bce")
    train, held_out = (
        BaseDataset(part.image.float(), torch.zeros(len(part))) for part in (data.splits["train"], data.splits["val"])
    )
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1,
            per_device_train_batch_size=128,
            per_device_eval_batch_size=512,
            no_cuda=True,
            train_dataloader_num_workers=0,
            eval_dataloader_num_workers=0,
        )
        trainer = BaseTrainer(VAE(Spec(settings, Encoder()), Decoder()), train, held_out, training_config=config)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def run(script: Path | None, root: Path, rounds: int) -> None:
    tune_process()
    data = ImageData(BinaryMNIST(), root=str(root), batch_size=128)
    data.setup()
    cases: dict[str, Callable[[], float]] = {
        "hand-written loop": lambda: statistics.mean(by_hand("mlp", data, EPOCHS)[0][1:]),
        "vae-lightning fit": lambda: statistics.mean(project("mlp.yaml", EPOCHS)[0][1:]),
        "vae-lightning fit, compiled": lambda: statistics.mean(
            project("mlp.yaml", EPOCHS, "--model.compile=true")[0][1:]
        ),
    }
    if importlib.util.find_spec("pythae"):
        cases["pythae"] = lambda: pythae(data)
    if script is not None:
        cases["pytorch/examples"] = lambda: examples(script, root)
    compare("peers", cases, "hand-written loop", rounds, ("images", 60_000))


if __name__ == "__main__":
    parser = arguments(__doc__, 3)
    parser.add_argument("--examples", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VAE_LIGHTNING_DATA", "data")))
    given = parser.parse_args()
    run(given.examples, given.data, given.rounds)
