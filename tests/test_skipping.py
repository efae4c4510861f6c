"""Steps whose gradient is of no use change nothing, and are counted."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from vae_lightning.core import Batch, Loss, Model
from vae_lightning.objectives import ELBO
from vae_lightning.train.skipping import SkipSteps

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
SHORT = ["--trainer.callbacks=SkipSteps", "--model.evaluation.studies=false", "--model.evaluation.samples=0"]


class Wild(ELBO):
    """The ELBO, with a gradient that is huge at every third step, though the loss is not."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        loss = super().forward(model, batch, share)
        self.calls += 1
        if self.calls % 3:
            return loss
        scaled = loss.value * self.factor
        return Loss(loss.value.detach() + (scaled - scaled.detach()), loss.logs, loss.statistics)


class Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


def step(optimizer: torch.optim.Optimizer, callback: SkipSteps, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    callback.on_before_optimizer_step(None, None, optimizer)  # type: ignore[arg-type]
    optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_weights_and_state_stay_at_a_skipped_step(fused: bool) -> None:
    weight, callback = torch.nn.Parameter(torch.ones(3)), SkipSteps(max_norm=10.0)
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    step(optimizer, callback, weight.sum())
    kept, moments = weight.detach().clone(), optimizer.state[weight]["exp_avg"].clone()
    for loss in (1e6 * weight.sum(), Infinite.apply(weight).sum(), (weight * float("nan")).sum()):
        step(optimizer, callback, loss)
        assert torch.equal(weight, kept)
        assert torch.equal(optimizer.state[weight]["exp_avg"], moments)
        assert optimizer.state[weight]["step"] == 1
    step(optimizer, callback, 5 * weight.sum())  # a norm of 8.7
    assert not torch.equal(weight, kept)
    assert (int(callback.skipped), callback.steps) == (3, 5)


def test_a_training_counts_them_and_goes_on_counting(cli: Callable) -> None:
    wild = ["--model.objective=tests.test_skipping.Wild", "--model.objective.factor=1e9"]
    said = cli("fit", "-c", DIGITS, *SHORT, *wild, "--trainer.max_epochs=1", "--trainer.limit_train_batches=6")
    assert said.status == 0, said.err
    assert "2 of 6 steps were skipped: the gradient was not finite, or above 10000." in said.out
    assert "That is many" in said.out
    said = cli("fit", "--ckpt_path", "runs/digits", "--trainer.max_epochs=2")
    assert "4 of 12 steps were skipped" in said.out, said.out
    with Path("runs/digits/1/metrics.csv").open(newline="") as file:
        counts = [row["train/skipped_steps"] for row in csv.DictReader(file) if row["train/skipped_steps"]]
    assert [int(float(count)) for count in counts] == [2, 4]


def test_a_norm_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SkipSteps.max_norm: expected a norm above 0, got 0"):
        SkipSteps(max_norm=0)
