"""A healthy configuration is let pass; each kind of trouble, made on purpose, is found and its flag named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from tests.conftest import Generated
from vae_lightning.conditionals import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
    GaussianPosterior,
    PointMass,
)
from vae_lightning.core import Batch, LatentModel, Loss
from vae_lightning.data import Digits, ImageData, Images, Splits
from vae_lightning.distributions import BinaryImage
from vae_lightning.doctor import cost as checkup_cost
from vae_lightning.doctor import data as checkup_data
from vae_lightning.doctor import examine as doctor
from vae_lightning.doctor import model as checkup_model
from vae_lightning.doctor.examine import Finding, examine, table
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO, IWAE, Linear, Reconstruction
from vae_lightning.train.module import Experiment

SMALL = partial(MLP, hidden=[32])


def adam(lr: float) -> Callable:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def experiment(data: ImageData, likelihood: Any = DiscretizedLogisticLikelihood, **settings: Any) -> Experiment:
    encoder = settings.pop("encoder", GaussianPosterior)
    model = partial(VAE, likelihood=partial(likelihood, net=SMALL), encoder=partial(encoder, net=SMALL), latent_size=4)
    settings = {"latent_model": model, "objective": ELBO(), "optimizer": adam(3e-3), **settings}
    return Experiment(**settings, image_shape=list(data.image_shape), levels=data.levels)


def generated(levels: int = 16, **settings: Any) -> ImageData:
    return ImageData(Generated((1, 8, 8), levels), **{"batch_size": 16, "val_size": 16, **settings})


def troubles(findings: list[Finding]) -> list[Finding]:
    assert all(finding.what.endswith(".") and "\n" not in finding.what for finding in findings)
    assert all(bool(finding.remedy) != finding.ok for finding in findings)
    short = " steps, and some "  # these trainings have an epoch or five (tests/test_verdict.py)
    return [finding for finding in findings if not finding.ok and short not in finding.what]


def found(findings: list[Finding], said: str, flag: str) -> None:
    """That some trouble says so, and names the flag."""
    assert any(said in finding.what and flag in finding.remedy for finding in troubles(findings)), table(findings)


def test_a_healthy_configuration_passes_and_nothing_of_it_changes() -> None:
    data = ImageData(Digits(), batch_size=64, val_size=200)
    looked = experiment(data, objective=ELBO(Linear()))
    weights, state = copy.deepcopy(looked.state_dict()), torch.get_rng_state()
    findings = examine(looked, data, 200, gradient_clip_val=100.0)
    assert not troubles(findings), table(findings)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in looked.state_dict().items())
    assert looked.training
    assert all(p.grad is None for p in looked.parameters())
    text = table(findings)
    assert "1237 train, 200 val, 360 test images of shape (1, 8, 8)" in text
    assert "17 of the 17 declared levels" in text
    lines = text.splitlines()
    assert all(line.startswith("ok   ") for line in lines[:-1])
    assert lines[-1] == f"{len(findings)} findings, none to look at."
    doubled = table([*findings, Finding(False, "this is wrong.", "set --that.")]).splitlines()
    assert doubled[-3:] == ["LOOK this is wrong.", "       set --that.", f"{len(findings) + 1} findings, 1 to look at."]


def normalisation(likelihood: Any, levels: int, **settings: Any) -> Finding:
    data = generated(levels, **settings)
    findings = examine(experiment(data, likelihood), data, 1)
    [finding] = [f for f in findings if f.what.startswith("p(x|z) sums") or f.what.startswith("p(x|z) integrates")]
    return finding


@pytest.fixture
def _only_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"whether p(x|z) is normalised": checkup_model.normalised})


@pytest.mark.usefixtures("_only_normalisation")
@pytest.mark.parametrize(
    "likelihood",
    [
        CategoricalLikelihood,
        ContinuousBernoulliLikelihood,
        DiscretizedLogisticLikelihood,
        DiscretizedLogisticMixtureLikelihood,
        GaussianLearnedScaleLikelihood,
        GaussianLikelihood,
        GaussianOptimalScaleLikelihood,
        GaussianPixelScaleLikelihood,
    ],
)
def test_every_grey_likelihood_is_found_normalised(likelihood: type) -> None:
    assert normalisation(likelihood, 16).ok
    assert normalisation(likelihood, 256).ok


@pytest.mark.usefixtures("_only_normalisation")
def test_the_bernoulli_likelihood_is_found_normalised() -> None:
    assert normalisation(BernoulliLikelihood, 2).ok
    assert normalisation(BernoulliLikelihood, 256, dynamic_binarization=True).ok


class Doubled(Normal):
    """Has twice the density of a Normal, and nothing else wrong."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.69


class OfMean(BinaryImage):
    """The mean over pixels in place of the sum: each pixel alone is right, their product is not."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / self.event_shape.numel()


class LeakyLevels(DiscretizedLogisticLikelihood):
    """A level more than the data have: some of the mass lies where no image can be."""

    def forward(self, context: Tensor) -> Distribution:
        self.levels += 1
        try:
            return super().forward(context)
        finally:
            self.levels -= 1


class DoubledLikelihood(GaussianLikelihood):
    def forward(self, context: Tensor) -> Distribution:
        normal: Any = super().forward(context)
        base = normal.base_dist
        return Independent(Doubled(base.loc, base.scale, validate_args=False), 3, validate_args=False)


class OfMeanLikelihood(BernoulliLikelihood):
    def forward(self, context: Tensor) -> Distribution:
        return OfMean(self.params(context).squeeze(-4))


@pytest.mark.usefixtures("_only_normalisation")
@pytest.mark.parametrize(("broken", "levels"), [(LeakyLevels, 16), (DoubledLikelihood, 16), (OfMeanLikelihood, 2)])
def test_a_likelihood_that_is_not_normalised_is_found(broken: type, levels: int) -> None:
    finding = normalisation(broken, levels)
    assert not finding.ok
    assert "--model.latent_model.likelihood" in finding.remedy


def test_weights_that_are_no_numbers() -> None:
    data = generated()
    looked = experiment(data)
    with torch.no_grad():
        looked.latent_model.encoder.mu.weight[0, 0] = torch.nan
    findings = examine(looked, data, 1)
    found(findings, "1 of 10 parameters hold nan or infinity (encoder.mu.weight)", "--model.optimizer.lr")


@pytest.mark.parametrize("lr", [1000.0, 1e-9])
def test_a_learning_rate_that_does_not_learn_and_one_that_does(lr: float) -> None:
    data = generated()
    findings = examine(experiment(data, optimizer=adam(lr)), data, 1)
    found(findings, f"learning rate {lr:g}", "--model.optimizer.lr 0.01, which takes")
    found(findings, f"learning rate {lr:g}", "--trainer.gradient_clip_val")
    assert len(troubles(findings)) == 1


def test_parameters_without_a_gradient() -> None:
    data = generated()
    looked = experiment(data)
    looked.latent_model.encoder.requires_grad_(False)
    findings = examine(looked, data, 1)
    found(findings, "6 of 10 parameters get no gradient (latent_model.encoder.", "--model.latent_model")
    zero = experiment(data)
    with torch.no_grad():
        for parameter in zero.latent_model.encoder.parameters():
            parameter.zero_()
    found(examine(zero, data, 1), "get no gradient (latent_model.encoder.net", "--model.latent_model")


class Cusp(ELBO):
    """Finite, with an infinite gradient: the root of a distance that is zero."""

    def forward(self, model: LatentModel, batch: Batch, share: float) -> Loss:
        loss = super().forward(model, batch, share)
        weight = next(model.parameters())
        return Loss(loss.value + (weight - weight.detach()).abs().sum().sqrt(), loss.logs)


def test_a_gradient_that_is_no_number() -> None:
    data = generated()
    findings = examine(experiment(data, objective=Cusp()), data, 1)
    found(findings, "1 of 10 gradients are nan or infinite (latent_model.encoder.net", "--trainer.gradient_clip_val")


class Made(Generated):
    """Generated images, made over before they are handed out."""

    def __init__(self, make: Callable[[Splits], Splits], levels: int) -> None:
        super().__init__((1, 8, 8), levels)
        self.over = make

    def load(self, root: Path, download: bool) -> Splits:
        return self.over(super().load(root, download))


def made(make: Callable[[Splits], Splits], levels: int = 16) -> ImageData:
    return ImageData(Made(make, levels), batch_size=16, val_size=16)


def each(change: Callable[[Tensor], Tensor]) -> Callable[[Splits], Splits]:
    return lambda splits: Splits(*(Images(change(part.stored), part.label) for part in (splits.train, splits.test)))


def test_test_images_that_are_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"the content of the images": checkup_data.content})
    data = made(lambda splits: Splits(splits.train, splits.train[torch.arange(40)], splits.test))
    findings = examine(experiment(data), data, 1)
    found(findings, "40 of 40 test images are among 96 training images", "--data.source")
    grey = ImageData(
        Made(lambda splits: Splits(splits.train, splits.train[torch.arange(40)], splits.test), 256),
        batch_size=16,
        dynamic_binarization=True,
    )
    found(examine(experiment(grey, BernoulliLikelihood), grey, 1), "40 of 40 test images", "--data.source")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * 16, "training images: expected the integers 0..15 of 16 levels, got values from 0 to 240"),
        (lambda x: x.float() / 15, "got float32 from 0 to 1: where they lie in [0, 1], multiply by 15"),
        (lambda x: torch.where(x > 0, x.float(), torch.nan), "got float32 from nan to nan"),
    ],
)
def test_images_of_a_wrong_range(change: Callable[[Tensor], Tensor], said: str) -> None:
    data = made(each(change))
    findings = examine(experiment(data), data, 1)
    found(findings, said, "--data and its settings")


def test_images_that_use_few_of_their_levels_or_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"the content of the images": checkup_data.content})
    data = made(each(lambda x: (x > 100).to(torch.uint8) * 255), 256)
    found(examine(experiment(data), data, 1), "2 of the 256 declared levels", "--data.dynamic_binarization true")
    data = made(each(lambda x: x // 32), 256)
    found(examine(experiment(data), data, 1), "8 of the 256 declared levels", "declare those that there are (--data.so")
    data = made(each(lambda x: x * (torch.arange(8) < 3)))
    found(examine(experiment(data), data, 1), "62.5% of the pixels are the same", "--data.source")


def test_images_of_another_shape() -> None:
    data, other = generated(), ImageData(Generated((1, 9, 9), 16), batch_size=16, val_size=16)
    [*_, last] = examine(experiment(data), other, 1)
    assert not last.ok
    assert "images of shape (1, 8, 8) with 16 levels, got data of shape (1, 9, 9)" in last.what


def test_a_model_and_an_objective_that_do_not_go_together() -> None:
    data = generated()
    findings = examine(experiment(data, encoder=PointMass), data, 1)
    found(findings, "do not go together: the objective ELBO needs a posterior with a density", "--model.objective")


class Broken(ELBO):
    def forward(self, model: LatentModel, batch: Batch, share: float) -> Loss:
        raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")


def test_a_check_that_fails_is_a_finding_and_the_others_go_on() -> None:
    data = generated()
    findings = examine(experiment(data, objective=Broken()), data, 1)
    said = "could not be looked at: RuntimeError: mat1 and mat2 shapes cannot be multiplied."
    for name in ("the gradients", "overfitting 32 images", "memory and time"):
        found(findings, f"{name} {said}", "VAE_LIGHTNING_TRACEBACK")
    assert len(troubles(findings)) == 3
    assert any(finding.what.startswith("the ELBO and the bounds") for finding in findings)


def test_an_autoencoder_and_an_importance_weighted_model() -> None:
    data = generated()
    auto = examine(experiment(data, GaussianLikelihood, encoder=PointMass, objective=Reconstruction()), data, 3)
    assert not troubles(auto), table(auto)
    assert "a point mass has no bound" in table(auto)
    assert "a density, which has no bits/dim" in table(auto)
    weighted = examine(experiment(data, objective=IWAE(5)), data, 3)
    assert not troubles(weighted), table(weighted)


class Misjudged(Normal):
    """Judges its draws less (or more) probable than they are."""

    by = -0.5

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + self.by


class MisjudgedPosterior(GaussianPosterior):
    def forward(self, context: Tensor) -> Distribution:
        base = cast(Any, super().forward(context)).base_dist
        return Independent(Misjudged(base.loc, base.scale, validate_args=False), 1, validate_args=False)


@pytest.mark.parametrize("by", [-0.5, 0.5])
def test_a_posterior_whose_log_prob_is_not_of_its_draws(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Misjudged, "by", by)
    monkeypatch.setattr(doctor, "CHECKS", {"the bounds": checkup_model.bounds})
    data = generated()
    findings = examine(experiment(data, encoder=MisjudgedPosterior), data, 1)
    found(findings, "the first two should agree", "--model.latent_model.encoder")
    assert not troubles(examine(experiment(data), data, 1))


def test_a_start_far_from_the_prior_and_from_the_data() -> None:
    data = generated()
    looked = experiment(data)
    with torch.no_grad():
        looked.latent_model.encoder.mu.bias.fill_(50.0)
    found(examine(looked, data, 1), "the rate begins at", "--model.objective.beta Linear")
    narrow = experiment(data, partial(GaussianLikelihood, scale=0.001))
    found(examine(narrow, data, 1), "the distortion begins at", "--model.latent_model.likelihood")


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = generated()
    monkeypatch.setattr(checkup_cost, "_available", lambda device: 60_000.0)
    found(examine(experiment(data), data, 1), "MiB of 0 available", "--data.batch_size")
