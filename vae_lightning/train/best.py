"""The checkpoint of the best epoch, by whatever number the evaluation calls its headline."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from vae_lightning.metrics import Headline

HEADLINE = "headline"
"""As `monitor`: the evaluation's own."""


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose monitor may be "headline": the number that the evaluation names once it knows
    the model (a VAE's ELBO, an autoencoder's distortion), with its own direction."""

    def follow(self, headline: Headline) -> None:
        """Called before the first epoch, and before a resumed run's state is restored."""
        if self.monitor == HEADLINE:
            self.monitor, self.mode = f"val/{headline.name}", headline.mode
            self.kth_value = torch.tensor(-math.inf if headline.mode == "max" else math.inf)
