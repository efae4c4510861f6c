"""p(embedding | text), p(latent | embedding, text): densities by diffusion or rectified flow."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vae_lightning.conditionals.conditions import Conditions, SiteDensity
from vae_lightning.core import Shape
from vae_lightning.distributions import (
    CosinePath,
    Diffused,
    Path,
    Predict,
    Prediction,
    PredictVelocity,
    Sampler,
    Times,
    UniformTimes,
)
from vae_lightning.nets import (
    DenoiserFactory,
    PrincipalComponents,
    ResidualDenoiser,
    StandardisationFactory,
    at_least_float32,
)


class Diffusion(SiteDensity):
    """p(value | conditions) by a denoiser: on the cosine path with v-prediction (Salimans & Ho 2022) by default; on the
    straight path with logit-normal times it is a rectified flow (Esser et al. 2024).

    Its distribution (`distributions/diffused.py`) has an iterative `sample`, an `invert`, a `log_prob` that estimates a
    bound by one sample, and a `loss` to train by.

    Args:
        event_shape: of the value.
        conditions: {name: numbers of a condition's vector}.
        net: (inner shape, conditions) -> the denoiser.
        standardisation: what brings the value to unit variance, fitted by `fit`.
        path: how data and noise are mixed.
        prediction: what the net says.
        times: at which it is trained.
        sampler: how the differential equation is solved.
        drop: {name: probability of dropping a condition in training}; 0 for those that are not named.
        noise: {name: largest scale of noise on a condition in training}, in its standard deviations (`Conditions`).
        guidance: w of classifier-free guidance: what is sampled follows the net's output without conditions plus w
            times the difference that the conditions make (Ho & Salimans 2022, eq. 6, w + 1 there). 1 for none. It takes
            spread away, and `log_prob` knows nothing of it.
    """

    def __init__(
        self,
        event_shape: Shape,
        conditions: Mapping[str, int],
        net: DenoiserFactory = ResidualDenoiser,
        standardisation: StandardisationFactory = PrincipalComponents,
        path: Path | None = None,
        prediction: Prediction | None = None,
        times: Times | None = None,
        sampler: Sampler | None = None,
        drop: dict[str, float] | None = None,
        guidance: float = 1.0,
        noise: dict[str, float] | None = None,
    ) -> None:
        super().__init__(event_shape, conditions)
        self.standardisation = standardisation(event_shape)
        self.conditions = Conditions(conditions, drop or {}, noise)
        self.net = net(self.standardisation.inner_shape, conditions)
        self.path, self.prediction = path or CosinePath(), prediction or PredictVelocity()
        self.times, self.sampler, self.guidance = times or UniformTimes(), sampler or Sampler(), guidance

    def forward(self, context: Mapping[str, Tensor] | None = None) -> Diffused:
        """{name: (*S, size)} of conditions, any of which may be missing -> a distribution with batch_shape S."""
        context = context or {}
        predict = self._predict(self.conditions(context))
        guided = predict if self.guidance == 1 else self._guided(predict, self._predict(self.conditions.nothing()))
        return Diffused(
            predict,
            self.conditions.lead(context),
            self.standardisation,
            self.path,
            self.prediction,
            self.times,
            self.sampler,
            guided,
        )

    def fit(self, value: Tensor, context: Mapping[str, Tensor]) -> None:
        """Fits the standardisations to training values (N, *event) with conditions."""
        self.standardisation.fit(value)
        self.conditions.fit(context)

    def _predict(self, told: Mapping[str, Tensor]) -> Predict:
        """The net, told conditions {name: (*S, size)}."""
        event = len(self.standardisation.inner_shape)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            lead = x.shape[: x.dim() - event]
            flat = {name: value.expand(*lead, -1).reshape(-1, value.shape[-1]) for name, value in told.items()}
            said = self.net(x.flatten(0, len(lead) - 1) if lead else x[None], time.expand(lead).reshape(-1), flat)
            return at_least_float32(said).reshape(x.shape)

        return predict

    def _guided(self, predict: Predict, without: Predict) -> Predict:
        def guided(x: Tensor, time: Tensor) -> Tensor:
            plain = without(x, time)
            return plain + self.guidance * (predict(x, time) - plain)

        return guided
