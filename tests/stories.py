"""A story that is not the project's, as a user would write one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals import DiscretizedLogisticLikelihood
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story


class TwoLatents(LatentModel):
    """z2 ~ N(0, I), z1 ~ N(f(z2), s^2), x ~ p(x|z1), with q(z2|x) q(z1|x, z2)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        values, self.levels = math.prod(spec.image_shape), spec.levels
        self.q2, self.q1 = nn.Linear(values, 3), nn.Linear(values + 3, 4)
        self.p1, self.px = nn.Linear(3, 4), DiscretizedLogisticLikelihood((4,), spec)

    def about(self, given: Batch) -> Story:
        return lambda draw: self.tell(draw, given)

    def tell(self, draw: Draw, given: Batch) -> Distribution:
        x = given["image"].flatten(1) / (self.levels - 1) if "image" in given else None
        z2 = draw("z2", p=normal(torch.zeros(3), 1.0), q=None if x is None else normal(self.q2(x), 0.3))
        q1 = None
        if x is not None:
            q1 = normal(self.q1(torch.cat([x.expand(*z2.shape[:-1], -1), z2], -1)), 0.2)
        return self.px(draw("z1", p=normal(self.p1(z2), 0.8), q=q1))


def normal(loc: Tensor, scale: float) -> Distribution:
    return Independent(Normal(loc, torch.full_like(loc, scale)), 1)
