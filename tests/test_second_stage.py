"""A prior fitted to the codes of a trained model: by their entropy, which no prior beats, and the bound it makes."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from tests.conftest import REPOSITORY, generated_flags
from tests.test_linear_gaussian import linear_gaussian
from vae_lightning import load_model
from vae_lightning.conditionals import (
    AutoregressiveMixturePrior,
    ExemplarPrior,
    GaussianMixture,
    LabelledGaussian,
    MaskedAutoregressivePrior,
    SplineFlowPrior,
    StandardNormal,
    VampPrior,
)
from vae_lightning.core import Conditional, Delta, LatentModel, Spec
from vae_lightning.metrics import ImageEvaluation
from vae_lightning.models import VAE, Frozen, SecondStage
from vae_lightning.objectives import Reconstruction, SiteNLL
from vae_lightning.train.groups import parameter_groups

EXPERIMENTS = REPOSITORY / "configs" / "experiment"
SPEC = Spec((1, 1, 2), 2, ("a", "b"))
PRIORS: list[Any] = [
    partial(SplineFlowPrior, hidden=[16], transforms=2),
    partial(MaskedAutoregressivePrior, hidden=[16], transforms=2),
    partial(GaussianMixture, components=4),
    partial(AutoregressiveMixturePrior, hidden=[16], components=4),
]
NAMES = ["spline", "masked", "mixture", "autoregressive"]


class Clusters(Conditional):
    """The codes of images (0, 0), (0, 1), (1, 0), (1, 1) lie around four places, far from N(0, I): x at 100 or 140."""

    def forward(self, context: Tensor) -> Distribution:
        centre = context.flatten(-3) * torch.tensor([40.0, 6.0]) + torch.tensor([100.0, -3.0])
        return Independent(Normal(centre, torch.tensor([2.0, 0.3]), validate_args=False), 1, validate_args=False)


class Points(Conditional):
    """The same places, as an autoencoder's codes."""

    def forward(self, context: Tensor) -> Distribution:
        return Delta(Clusters()(context).mean)


IMAGES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).view(4, 1, 1, 2)


def of(encoder: type[Conditional], prior: Any, images: Tensor = IMAGES) -> SecondStage:
    first = VAE(SPEC, lambda *_: encoder(), latent_size=2)
    model = SecondStage(SPEC, Frozen.of(first, SPEC), prior)
    model.init_from_data({"image": images.repeat(100, 1, 1, 1)})
    return model


def fitted(model: SecondStage, batch: Tensor, steps: int, rate: float) -> SecondStage:
    optimizer = torch.optim.Adam(model.prior.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        SiteNLL("z")(model, {"image": batch}, 0.0).value.backward()
        optimizer.step()
    return model


def nll(model: LatentModel, images: Tensor) -> float:
    site = model.trace({"image": images}, until="z").sites["z"]
    return -site.p.log_prob(site.z).mean().item()


@pytest.mark.parametrize("prior", [*PRIORS[:1], *PRIORS[2:]], ids=[*NAMES[:1], *NAMES[2:]])
def test_a_fitted_prior_comes_near_the_entropy_of_the_codes(prior: Any) -> None:
    """Four clusters that do not overlap: the entropy is log 4 and that of a Gaussian. What is left is the fit's."""
    model, images = of(Clusters, prior), IMAGES.repeat(50, 1, 1, 1)
    entropy = math.log(4) + sum(math.log(s) + 0.5 * math.log(2 * math.pi * math.e) for s in (2.0, 0.3))
    start = nll(model, images)
    assert start < entropy + 4  # standardised: that of two clusters a number in one Gaussian
    assert nll(model.first_stage, images) > 1000
    found = nll(fitted(model, images, 400, 0.02), IMAGES.repeat(1000, 1, 1, 1))
    assert entropy - 0.05 < found < entropy + 0.25
    drawn = model.prior(None).sample((2000,)).detach()
    assert ((drawn[:, 0] < 120).float().mean() - 0.5).abs() < 0.06  # each cluster has its share
    assert (
        ((drawn - torch.tensor([100.0, -3.0])) / torch.tensor([40.0, 6.0])).round().clamp(0, 1).unique(dim=0)
    ).shape == (4, 2)


def correlated() -> tuple[VAE, Tensor, Tensor]:
    """A linear-Gaussian VAE with exact posteriors, images whose latents are correlated, and the covariance of these
    latents given the images: their aggregate posterior is Gaussian, too."""
    model, _, _ = linear_gaussian(optimal=True)
    likelihood: Any = model.likelihood
    weight, bias = likelihood.head.last.weight.detach(), likelihood.head.last.bias.detach()
    factor = torch.tensor([[0.5, 0.0], [0.7, 0.4]]).double()
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(4000, 2, generator=generator).double() @ factor.T + 1
    x = z @ weight.T + bias + 0.5 * torch.randn(4000, 6, generator=generator).double()
    return model, x.view(-1, 1, 2, 3), weight


def test_a_masked_prior_reaches_the_gaussian_of_the_codes_and_betters_the_bound() -> None:
    first, x, _ = correlated()
    spec = Spec((1, 2, 3), 2)
    model = SecondStage(
        spec, Frozen.of(first.float(), spec), partial(MaskedAutoregressivePrior, hidden=[8], transforms=1)
    )
    model.double()
    model.init_from_data({"image": x})
    q: Any = first.posteriors({"image": x})["z"]
    covariance = q.mean.T.cov() + torch.diag_embed(q.variance[0])
    entropy = MultivariateNormal(q.mean.mean(0), covariance).entropy().item()  # of the aggregate posterior
    before = first.trace({"image": x}).scores()
    fitted(model, x, 250, 0.05)
    torch.manual_seed(1)
    assert nll(model, x) == pytest.approx(entropy, abs=0.06)
    torch.manual_seed(1)
    assert nll(first, x) > entropy + 0.3
    after = model.trace({"image": x}).scores()
    gain = (after["elbo"] - before["elbo"]).mean().item()
    rate = kl_divergence(q, first.prior(None)).mean().item()
    own = entropy - q.entropy().mean().item()  # the least rate, the mutual information of these Gaussians
    assert gain == pytest.approx(rate - own, abs=0.1)
    assert gain > 0.2


def test_only_the_prior_is_trained() -> None:
    model = of(Clusters, PRIORS[0]).train()
    before = copy.deepcopy(model.first_stage.state_dict())
    assert not any(part.training for part in model.first_stage.modules())
    SiteNLL("z")(model, {"image": IMAGES}, 0.0).value.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(name.startswith("prior.") for name in trained)
    assert all(parameter.grad is None for parameter in model.first_stage.parameters())
    assert any(parameter.grad.any() for parameter in model.prior.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.first_stage.state_dict().items())


@pytest.mark.parametrize("prior", PRIORS, ids=NAMES)
def test_an_autoencoder_has_a_generator_and_no_bound(prior: Any) -> None:
    model = of(Points, prior).eval()
    batch = {"image": IMAGES}
    trace = model.trace(batch)
    assert not trace.has_rate
    assert model.generates(trace)
    assert not model.first_stage.generates(trace)
    evaluation = ImageEvaluation()
    assert evaluation.headline(model, batch) == ("nll_z", "min")
    assert evaluation.headline(model.first_stage, batch) == ("distortion", "min")
    evaluation.update(model, SPEC, batch, "val")
    found = evaluation.results()
    assert found["nll_z"][0] == pytest.approx(-model.prior(None).log_prob(trace.sites["z"].z).mean().item(), abs=1e-4)
    assert "elbo" not in found
    assert model.sample({}, 5).sample().shape == (5, 1, 1, 2)


def test_a_vampprior_is_the_runs_own_view_of_pseudo_inputs() -> None:
    model = of(Clusters, partial(VampPrior, components=8))
    prior: Any = model.prior
    z = Clusters()(IMAGES).sample()
    component = Clusters()(prior.inputs)
    exact = MixtureSameFamily(Categorical(logits=prior.logits), component).log_prob(z)
    torch.testing.assert_close(prior(None).log_prob(z), exact)
    assert set(dict(model.prior.named_parameters())) == {"logits", "raw"}
    with pytest.raises(ValueError, match=r"VampPrior: expected an encoder whose posteriors have a density"):
        of(Points, VampPrior)(lambda name, p, q: q.mean, {"image": IMAGES})


def test_exemplars_of_an_autoencoder_begin_at_its_codes_scale() -> None:
    model = of(Points, partial(ExemplarPrior, components=4))
    model.init_from_data({"image": IMAGES})
    prior: Any = model.prior
    codes = Points()(IMAGES).mean
    half = (codes.std(0, correction=0).mean() / 2).item()
    p = prior(None)
    assert p.component_distribution.stddev.unique().item() == pytest.approx(half, rel=1e-4)
    assert torch.equal(p.component_distribution.mean, Points()(prior.inputs).mean)


def test_what_does_not_fit_is_refused() -> None:
    frozen = Frozen.of(VAE(SPEC, lambda *_: Clusters(), latent_size=2), SPEC)
    with pytest.raises(ValueError, match=r"SecondStage.site: expected a latent of the run, z, got 'y'"):
        SecondStage(SPEC, frozen, site="y")
    with pytest.raises(ValueError, match=r"expected a run of images of shape \(1, 4, 4\) with 2 levels, got one of"):
        SecondStage(Spec((1, 4, 4), 2), frozen)
    told = Frozen.of(VAE(SPEC, lambda *_: Clusters(), prior=LabelledGaussian, latent_size=2), SPEC)
    with pytest.raises(ValueError, match=r"SecondStage.prior: expected one that is told what .* got StandardNormal"):
        SecondStage(SPEC, told, StandardNormal)
    with pytest.raises(ValueError, match="expected a run of the classes"):
        SecondStage(Spec((1, 1, 2), 2), told, LabelledGaussian)
    assert SecondStage(SPEC, told, LabelledGaussian).is_conditional
    with pytest.raises(ValueError, match="got a model whose are frozen: choose the objective SiteNLL"):
        Reconstruction().check(of(Points, PRIORS[0]), {"image": IMAGES})
    with pytest.raises(ValueError, match="expected a parameter to train"):
        parameter_groups(of(Points, StandardNormal), SiteNLL("z"))


def short(name: str, *flags: object) -> list[object]:
    return [
        "fit",
        "-c",
        EXPERIMENTS / f"{name}.yaml",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=3",
        *flags,
    ]


@pytest.mark.parametrize("first", ["digits", "digits_autoencoder", "mnist_autoencoder"])
def test_the_configurations_of_both_stages(cli: Callable, first: str) -> None:
    """The second's checkpoint alone is enough, whatever it is asked for."""
    data = generated_flags((1, 28, 28), 256) if first == "mnist_autoencoder" else []
    assert cli(*short(first, "--trainer.callbacks=null", *data)).status == 0
    second = f"{first}_second_stage"
    done = cli(*short(second, *data))
    assert done.status == 0, done.err
    shutil.rmtree(f"runs/{first}")
    run = Path("runs") / second / "1"
    assert list((run / "images").rglob("*.png"))  # samples of an autoencoder, too
    headline = "nll_z" if "autoencoder" in first else "elbo"
    assert f"val/{headline}" in (run / "metrics.csv").read_text()
    tested = cli("test", "--ckpt_path", run, "--model.evaluation.samples=2", "--model.evaluation.studies=false")
    assert tested.status == 0, tested.err
    assert ("-log p(z) of the codes" in tested.out) == ("autoencoder" in first)
    assert cli("sample", "--ckpt_path", run).status == 0
    assert load_model(str(run)).sample(3).batch_shape == (3,)
    coded = cli("compress", "test", "-o", "digits.vlz", "--ckpt_path", run)
    assert coded.status == 1
    assert "which has no codec" in coded.error
    assert cli("fit", "--ckpt_path", run, "--trainer.max_epochs=2").status == 0


def test_a_fitted_mixture_codes(cli: Callable) -> None:
    assert cli(*short("digits", "--trainer.callbacks=null")).status == 0
    mixture = REPOSITORY / "configs" / "prior" / "gaussian_mixture.yaml"
    done = cli(*short("digits_second_stage", "-c", mixture, "--trainer.callbacks=null"))
    assert done.status == 0, done.err
    text = yaml.safe_load(Path("runs/digits_second_stage/1/config.yaml").read_text())
    assert text["model"]["latent_model"]["init_args"]["prior"]["class_path"].endswith("GaussianMixture")
    coded = cli("compress", "test", "--ckpt_path", "runs/digits_second_stage", "-o", "digits.vlz")
    assert coded.status == 0, coded.err
