"""The steps over validation, test and predicted images."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from vae_lightning.core import Batch, LatentModel, Model, Spec, seeded
from vae_lightning.metrics import Evaluation, Headline

EVALUATION_SEED = 1
"""Of the noise of every pass over validation or test images."""


class EvaluationSteps(LightningModule):
    """What a LightningModule measures of its model by its `evaluation`; how it trains, a subclass says."""

    latent_model: Model
    spec: Spec

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.results: dict[str, tuple[float, float]] = {}
        """Of the last pass: name -> (mean, standard error over images)."""
        self.headline = Headline("elbo", "max")
        """Once the model has seen images: what its evaluation names."""
        self._noise_of_pass = ExitStack()

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(keep=False)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation(keep=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def _start_evaluation(self, keep: bool) -> None:
        # The same noise at every pass, other noise in every process, and none of it taken from training's.
        self._noise_of_pass.close()
        self._noise_of_pass.enter_context(seeded(EVALUATION_SEED + self.global_rank, self.device))
        self.evaluation.start(self.device, keep)

    def _measure(self, batch: Batch, stage: Literal["val", "test"]) -> None:
        try:
            self.evaluation.update(self.latent_model, self.spec, batch, stage)
        except BaseException:
            self._noise_of_pass.close()
            raise

    def _finish_evaluation(self, prefix: str) -> None:
        self._noise_of_pass.close()
        self.results = self.evaluation.results()
        for name, (mean, _) in self.results.items():
            self.log(f"{prefix}/{name}", mean, prog_bar=name == self.headline.name, rank_zero_only=True)

    def on_predict_start(self) -> None:
        torch.manual_seed(1)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scores of each image, (B,): the less probable an image, the lower its ELBO, and where images are discrete the
        more bits a code spends on it. An autoencoder, which has no rate, gives its distortion."""
        if not isinstance(self.latent_model, LatentModel):
            raise ValueError(f"predict: expected a model with latents, got {type(self.latent_model).__name__}.")
        return self.latent_model.trace(batch).scores()
