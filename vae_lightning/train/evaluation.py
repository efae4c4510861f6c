"""The passes over validation, test and predicted images."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from vae_lightning.core import Batch, LatentModel
from vae_lightning.metrics import Evaluation

EVALUATION_SEED = 1
"""Of the noise of every pass over validation or test images."""


class EvaluationPasses(LightningModule):
    """What a LightningModule measures of its `latent_model`, always by the plain bound; how it trains, a subclass says.

    Args:
        test_samples, test_refinement, test_studies, test_corruption: see `Experiment`.
    """

    latent_model: LatentModel
    levels: int

    def __init__(
        self, test_samples: int, test_refinement: int, test_studies: bool, test_corruption: nn.Module | None
    ) -> None:
        super().__init__()
        for name, count in (("test_samples", test_samples), ("test_refinement", test_refinement)):
            if count < 0:
                raise ValueError(f"model.{name}: expected at least 0, got {count}.")
        self.test_samples, self.test_refinement = test_samples, test_refinement
        self.test_studies, self.test_corruption = test_studies, test_corruption
        self.evaluation: Evaluation
        """The pass over validation or test images that is going on."""
        self.results: dict[str, tuple[float, float]] = {}
        """Of the last pass: name -> (mean, standard error over images)."""

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(keep=False)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluation.bound(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation(keep=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        trace = self.evaluation.bound(batch)
        self.evaluation.reconstruction(batch, trace)
        if self.test_samples:
            self.evaluation.likelihood(batch, trace, self.test_samples, self.test_refinement)
        if self.test_corruption is not None:
            self.evaluation.denoising(batch, self.test_corruption)

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def _start_evaluation(self, keep: bool) -> None:
        # The same noise at every pass, other noise in every process, and none of it taken from training's.
        devices = [self.device] if self.device.type == "cuda" else []
        self._rng = torch.random.fork_rng(devices)
        self._rng.__enter__()
        torch.manual_seed(EVALUATION_SEED + self.global_rank)
        self.evaluation = Evaluation(self.latent_model, self.levels, self.device, keep)

    def _finish_evaluation(self, prefix: str) -> None:
        self.results = self.evaluation.results()
        shown = "elbo" if "elbo" in self.results else "distortion"
        for name, (mean, _) in self.results.items():
            self.log(f"{prefix}/{name}", mean, prog_bar=name == shown, rank_zero_only=True)
        self._rng.__exit__(None, None, None)

    def on_predict_start(self) -> None:
        torch.manual_seed(1)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scores of each image, nats, (B,): the less probable an image, the lower its ELBO, and where images are
        discrete the more bits a code spends on it. An autoencoder, which has no rate, gives its distortion."""
        trace = self.latent_model.trace(batch)
        rate, distortion = trace.kl(), -trace.log_likelihood(batch["image"])
        if trace.is_point_mass:
            return {"distortion": distortion}
        scores = {"elbo": -(rate + distortion), "rate": rate, "distortion": distortion}
        return {**scores, "bits": (rate + distortion) / math.log(2)} if trace.is_discrete else scores
