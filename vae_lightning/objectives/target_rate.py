"""The bound's two terms with one of them held: a rate that is asked for, and a capacity that grows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.objectives.elbo import mean_scores, require_density, require_stories, samples_of
from vae_lightning.objectives.schedules import Constant, Schedule

MOST = math.log(1e4)
"""Of the logarithm of beta, either way."""


class TargetRate(Objective):
    """The least distortion at a rate of R nats per image: -E_q log p(x|z) + beta (KL(q || p) - R), averaged over the
    batch, where beta is the Lagrange multiplier of the rate.

    At each step log beta rises by `gain` times the rate's relative error, at most 1 either way, and beta takes
    `proportional` times the error's running mean beside it, which keeps the two from swinging (a PI controller, as in
    Shao et al. 2020). Both are buffers, which checkpoints keep. A training that is much shorter than 10 / gain
    steps does not get there. At its end beta is minus the slope of the rate-distortion curve at R.

    Args:
        rate: R, above 0.
        gain: of the running sum, above 0.
        proportional: of the error itself, at least 0.
        beta: where the multiplier begins.
        num_samples: posterior samples per image in the expectation.
    """

    log_beta: Tensor
    error: Tensor

    def __init__(
        self,
        rate: float,
        gain: float = 0.03,
        proportional: float = 1.0,
        beta: float = 1.0,
        num_samples: int = 1,
    ) -> None:
        super().__init__()
        if not (0 < rate < math.inf and 0 < gain <= 1 and proportional >= 0 and 1e-4 <= beta <= 1e4):
            raise ValueError(
                "TargetRate: expected a rate above 0, gain above 0 up to 1, proportional of at least 0 and beta from "
                f"1e-4 to 1e4, got rate={rate}, gain={gain}, proportional={proportional}, beta={beta}."
            )
        self.rate, self.gain, self.proportional = rate, gain, proportional
        self.num_samples = samples_of("TargetRate", num_samples)
        self.register_buffer("log_beta", torch.tensor(math.log(beta)))
        self.register_buffer("error", torch.tensor(0.0))

    @property
    def beta(self) -> Tensor:
        """The weight of the rate at the next step, ()."""
        return (self.log_beta + self.proportional * self.error).exp()

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "TargetRate")

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "TargetRate")
        trace = model.trace(batch, self.num_samples)
        terms, beta = mean_scores(trace), self.beta
        value = terms["distortion"] + beta * (terms["rate"] - self.rate)
        logs = {name: term.detach() for name, term in terms.items()}
        return Loss(value, {**logs, "beta": beta}, {**model.statistics(trace), "rate": logs["rate"]})

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes a step's `rate`, nats per image, into the multiplier."""
        error = (statistics["rate"] / self.rate - 1).clamp(-1, 1)
        self.error.lerp_(error, 0.1)
        self.log_beta.add_(self.gain * error).clamp_(-MOST, MOST)


class Capacity(Objective):
    """-E_q log p(x|z) + weight |KL(q || p) - C|, the rate averaged over the batch, with a capacity C in nats per image,
    which may grow over the training (Burgess et al. 2018, eq. 8).

    Args:
        capacity: C, a number or a schedule over the training.
        weight: nats for each nat that the rate is off; has to be above the slope of the rate-distortion curve at C, or
            the rate stays below it.
        num_samples: posterior samples per image in the expectation.
    """

    def __init__(self, capacity: Schedule | float, weight: float = 100.0, num_samples: int = 1) -> None:
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(f"Capacity.weight: expected a number above 0, got {weight}.")
        self.capacity = capacity if isinstance(capacity, Schedule) else Constant(float(capacity))
        self.weight = weight
        self.num_samples = samples_of("Capacity", num_samples)

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "Capacity")

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        capacity = self.capacity.at(share)
        model = require_stories(model, "Capacity")
        trace = model.trace(batch, self.num_samples)
        terms = mean_scores(trace)
        value = terms["distortion"] + self.weight * (terms["rate"] - capacity).abs()
        logs = {name: term.detach() for name, term in terms.items()}
        return Loss(value, {**logs, "capacity": capacity}, model.statistics(trace))
