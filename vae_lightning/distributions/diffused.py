"""The density that a denoiser makes of Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vae_lightning.distributions.paths import LOG_SNR, Path, Prediction, Times

Predict = Callable[[Tensor, Tensor], Tensor]
"""x_t (*S, *inner) and times that broadcast with S -> what a net says, (*S, *inner)."""


@dataclass(frozen=True)
class Sampler:
    """How the differential equation is solved.

    Args:
        steps: from noise to data, evenly in time.
        heun: two looks of the net a step and an error of second order; else Euler's method, with one look.
    """

    steps: int = 20
    heun: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Sampler.steps: expected at least 1, got {self.steps}.")


class Diffused(Distribution):
    """y ~ p(y) by a diffusion, event_shape (*inner,), a Gaussian rest ~ N(0, I) beside it, and x of the two by a fixed
    invertible map, event_shape (*event,); batch_shape S.

    `sample` solves the probability-flow equation from noise to data (Song et al. 2021, eq. 13). `log_prob` is a
    one-sample estimate of a lower bound of log p(x). `loss` is what trains the net; its weights are no bound's.

    Args:
        predict: the net, told its conditions.
        batch_shape: S, that of the conditions.
        standardisation: with `inner_shape`, `event_shape`, `log_det` and `inverse`: nets/standardise.py.
        path, prediction, times, sampler: the diffusion's settings.
        guided: the net that is sampled, where it is another than that of the density.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self,
        predict: Predict,
        batch_shape: Sequence[int],
        standardisation: Any,
        path: Path,
        prediction: Prediction,
        times: Times,
        sampler: Sampler,
        guided: Predict | None = None,
    ) -> None:
        self.predict, self.guided = predict, predict if guided is None else guided
        self.standardisation, self.inner_shape = standardisation, tuple(standardisation.inner_shape)
        self.path, self.prediction, self.times, self.sampler = path, prediction, times, sampler
        super().__init__(torch.Size(batch_shape), torch.Size(standardisation.event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    # -- training ------------------------------------------------------------------------------------------------------

    def loss(self, value: Tensor) -> Tensor:
        """Squared error of what the net says, summed over the event, at one time a value (*S, *event) -> S. The times
        of a batch are spread evenly over their density's quantiles (Kingma et al. 2021, appendix I.1)."""
        y, _ = self.standardisation(value)
        lead = y.shape[: y.dim() - len(self.inner_shape)]
        count = math.prod(lead)
        share = (torch.rand((), device=y.device) + torch.randperm(count, device=y.device) / count) % 1
        first, last = self.path.ends()
        time = self.times.of(share.clamp(1e-6, 1 - 1e-6)).clamp(first, last).reshape(lead).to(y)
        noise = torch.randn_like(y)
        mix = self.path.at(self._wide(time))
        said = self.predict(mix.signal * y + mix.noise * noise, time)
        return self._summed((said - self.prediction.target(mix, y, noise)).square())

    # -- the bound -----------------------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """One-sample estimate, without bias, of a lower bound of log p(x), nats, (*S, *event) -> S.

        The bound is that of Kingma et al. (2021, eq. 11 to 18) in continuous time, over log signal-to-noise ratios l in
        -10 .. 10, unweighted: E log N(y; y_0, e^-10 I) - KL(q(y_1|y) || noise) - 1/2 int E |e - e(y_l)|^2 dl, where
        e(.) is the noise by the net without guidance. l is drawn evenly, and the error that the denoiser of N(0, I)
        makes of the same noise is taken off, and its known integral added: data like N(0, I) cost no variance.
        """
        y, rest = self.standardisation(value)
        size, square = math.prod(self.inner_shape), self._summed(y.square())
        lead = square.shape
        log_snr = LOG_SNR * (2 * torch.rand(lead, dtype=y.dtype, device=y.device) - 1)
        time, noise = self.path.time_of(log_snr), torch.randn_like(y)
        mix = self.path.at(self._wide(time))
        x_t = mix.signal * y + mix.noise * noise
        found = self.prediction.read(mix, x_t, self.predict(x_t, time))[1]
        plain = mix.noise * x_t / (mix.signal**2 + mix.noise**2)  # the noise by the denoiser of N(0, I)
        more = self._summed((noise - found).square()) - self._summed((noise - plain).square())
        largest, smallest = math.exp(LOG_SNR), math.exp(-LOG_SNR)
        plain_integral = square * (1 / (1 + smallest) - 1 / (1 + largest)) + size * (
            math.log1p(largest) + 1 / (1 + largest) - math.log1p(smallest) - 1 / (1 + smallest)
        )
        end = -0.5 * size * (math.log(2 * math.pi) + 1 - LOG_SNR) - 0.5 * smallest * square
        of_rest = -0.5 * (rest.square() + math.log(2 * math.pi)).sum(-1)
        bound = end - 0.5 * (plain_integral + 2 * LOG_SNR * more)
        log_prob: Tensor = bound + of_rest + self.standardisation.log_det
        return log_prob

    # -- the differential equation -------------------------------------------------------------------------------------

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        return self.from_noise(self.noise(sample_shape))

    def noise(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """N(0, I), (*sample_shape, *S, *event), to begin with."""
        like = self.standardisation.log_det
        return torch.randn(self._extended_shape(torch.Size(sample_shape)), dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def from_noise(self, noise: Tensor) -> Tensor:
        """The value that noise (*S, *event) becomes: the same at each call."""
        lead = noise.shape[: noise.dim() - len(self.event_shape)]
        y, rest = noise.reshape(*lead, -1).split((math.prod(self.inner_shape), self.standardisation.rest_size), -1)
        moved = self._solve(y.reshape(*lead, *self.inner_shape), back=False)
        value: Tensor = self.standardisation.inverse(moved, rest)
        return value

    @torch.no_grad()
    def invert(self, value: Tensor) -> Tensor:
        """The noise (*S, *event) that becomes this value, by the equation run backward, up to its steps' error."""
        y, rest = self.standardisation(value)
        lead = rest.shape[:-1]
        moved = self._solve(y, back=True).reshape(*lead, -1)
        return torch.cat((moved, rest), -1).reshape(value.shape)

    def _solve(self, y: Tensor, back: bool) -> Tensor:
        """From standard noise to standardised data, or back. On any path z = x_t / (a + s) moves by d z / d r = e - x,
        where r = s / (a + s): that is solved, so that a step of Euler's is exact where the net's x and e stay."""
        first, last = self.path.ends()
        times = torch.linspace(last, first, self.sampler.steps + 1, dtype=torch.float64).to(y)
        times = times.flip(0) if back else times
        mixes = [self.path.at(time) for time in times]
        start, end = mixes[0], mixes[-1]
        z = y * (start.signal if back else start.noise) / (start.signal + start.noise)
        for (now, here), (then, there) in pairwise(zip(times, mixes, strict=True)):
            step = there.noise / (there.signal + there.noise) - here.noise / (here.signal + here.noise)
            drift = self._drift(z, now, here)
            moved = z + step * drift
            if self.sampler.heun:
                moved = z + step / 2 * (drift + self._drift(moved, then, there))
            z = moved
        return z * (end.signal + end.noise) / (end.noise if back else end.signal)

    def _drift(self, z: Tensor, time: Tensor, mix: Any) -> Tensor:
        x_t = z * (mix.signal + mix.noise)
        x, e = self.prediction.read(mix, x_t, self.guided(x_t, time))
        return e - x

    def _wide(self, time: Tensor) -> Tensor:
        return time.reshape(*time.shape, *(1 for _ in self.inner_shape))

    def _summed(self, y: Tensor) -> Tensor:
        return y.flatten(y.dim() - len(self.inner_shape)).sum(-1)
