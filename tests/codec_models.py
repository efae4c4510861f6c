"""Tiny trained models for the tests of compression, each made once."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tests.conftest import REPOSITORY, generated_flags

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
MODELS = {
    "grey": ((1, 4, 4), 256, []),
    "colour": ((3, 4, 4), 256, []),
    "linked": ((3, 4, 4), 256, ["--model.latent_model.likelihood=LinkedLogisticLikelihood"]),
    "binary": (
        (1, 4, 4),
        256,
        ["--data.dynamic_binarization=true", "--model.latent_model.likelihood=BernoulliLikelihood"],
    ),
}


def train(kind: str, folder: Path, seed: int = 0) -> Path:
    """The run of one of them."""
    from vae_lightning.experiment.main import main

    shape, levels, flags = MODELS[kind]
    before = Path.cwd()
    os.chdir(folder)
    try:
        short = ["--trainer.max_epochs=1", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
        small = ["--model.latent_model.latent_size=2", f"--seed_everything={seed}", f"--run.name={kind}{seed}"]
        assert main(["fit", "-c", str(DIGITS), *generated_flags(shape, levels), *short, *small, *flags]) == 0
    finally:
        os.chdir(before)
        torch.set_flush_denormal(False)
    return folder / "runs" / "digits" / f"{kind}{seed}"
