"""The steps over validation, test and predicted images."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vae_lightning.core import Batch, LatentModel, Model, Spec, bits, seeded
from vae_lightning.metrics import Evaluation, Headline
from vae_lightning.metrics.codes import SHOWN

EVALUATION_SEED = 1
"""Of the noise of every pass over validation or test images."""


class ReturnNoise(Callback):
    """Gives the random numbers back that a pass has taken when an error, or the user, ends it."""

    def __init__(self, noise_of_pass: ExitStack) -> None:
        self.noise_of_pass = noise_of_pass

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.noise_of_pass.close()


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
        self._draw_noise_of_pass()
        self.evaluation.start(self.device, keep)

    def _draw_noise_of_pass(self) -> None:
        """The same noise at every pass, other noise in every process, and none of it taken from training's."""
        self._noise_of_pass.close()
        self._noise_of_pass.enter_context(seeded(EVALUATION_SEED + self.global_rank, self.device))

    def _measure(self, batch: Batch, stage: Literal["val", "test"]) -> None:
        self.evaluation.update(self.latent_model, self.spec, batch, stage)

    def configure_callbacks(self) -> list[Callback]:
        return [ReturnNoise(self._noise_of_pass)]

    def _finish_evaluation(self, prefix: str) -> None:
        self._noise_of_pass.close()
        self.results = self.evaluation.results()
        for name, (mean, _) in self.results.items():
            shown = name == self.headline.name or name in SHOWN
            self.log(f"{prefix}/{name}", mean, prog_bar=shown, rank_zero_only=True)

    def on_predict_epoch_start(self) -> None:
        self._draw_noise_of_pass()

    def on_predict_epoch_end(self) -> None:
        self._noise_of_pass.close()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Scores of each image, (B,): the less probable an image, the lower its ELBO, and where images are discrete the
        more bits a code spends on it. An autoencoder, which has no rate, gives its distortion."""
        if not isinstance(self.latent_model, LatentModel):
            raise ValueError(f"predict: expected a model with latents, got {type(self.latent_model).__name__}.")
        trace = self.latent_model.trace(batch)
        scores = trace.scores()
        return {**scores, "bits": bits(-scores["elbo"])} if trace.has_rate and trace.is_discrete else scores
