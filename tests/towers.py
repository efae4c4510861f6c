"""A model without latents, as a user would write one: two towers that are to agree on which halves belong together."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.core import Batch, Loss, Model, Objective, Spec
from vae_lightning.metrics import Evaluation, Headline


class TwoTowers(Model):
    """An encoder of an image's left half and one of its right half, each to a unit vector (Radford et al. 2021)."""

    def __init__(self, spec: Spec, size: int = 8) -> None:
        super().__init__()
        (c, h, w), self.top = spec.image_shape, spec.levels - 1
        self.left = self._tower(c * h * (w // 2), size)
        self.right = self._tower(c * h * (w - w // 2), size)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    @staticmethod
    def _tower(values: int, size: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(values, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, size))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> how well each left half goes with each right one, (B, B)."""
        halves = (image / self.top).tensor_split(2, -1)
        left, right = (F.normalize(t(half), dim=-1) for t, half in zip((self.left, self.right), halves, strict=True))
        return self.log_scale.exp() * left @ right.T


class PairedContrast(Objective):
    """The cross-entropy of telling which half belongs to which, in both directions, nats per image."""

    def check(self, model: Model, batch: Batch) -> None:
        if not isinstance(model, TwoTowers):
            raise ValueError(f"PairedContrast: expected TwoTowers, got {type(model).__name__}.")

    def forward(self, model: Model, batch: Batch, step: int) -> Loss:
        scores = model(batch["image"])
        own = torch.arange(len(scores), device=scores.device)
        value = 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))
        return Loss(value, {"contrastive": value.detach()})


class Recall(Evaluation):
    """How often the right half that fits best is the image's own, among those of a batch."""

    def headline(self, model: Model, batch: Batch) -> Headline:
        return Headline("recall", "max")

    def update(self, model: Model, spec: Spec, batch: Batch, stage: Literal["val", "test"]) -> None:
        scores = model(batch["image"])
        own = torch.arange(len(scores), device=scores.device)
        self.add("recall", (scores.argmax(1) == own).float())
        self.add("cross_entropy", F.cross_entropy(scores, own, reduction="none"))
