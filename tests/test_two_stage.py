"""A VAE of the codes of a trained one: its densities against exact Gaussians, with classes, and as a user."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from tests.conftest import REPOSITORY, generated_flags
from tests.test_linear_gaussian import linear_gaussian
from vae_lightning import load_model
from vae_lightning.conditionals import (
    ClassPosterior,
    CodePrior,
    ExemplarPrior,
    GaussianPosterior,
    GumbelPosterior,
    LabelledEncoder,
    LabelledGaussian,
    PointMass,
    VampPrior,
)
from vae_lightning.core import Spec
from vae_lightning.metrics import log_prob
from vae_lightning.models import VAE, Frozen, SemiSupervisedVAE, TwoStageVAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO, SemiSupervised

EXPERIMENTS = REPOSITORY / "configs" / "experiment"
CLASSES = ("a", "b", "c")
SPEC = Spec((1, 2, 3), 2, CLASSES)
LINEAR = partial(GaussianPosterior, net=partial(MLP, hidden=[]))
TOLD = partial(LabelledEncoder, planes=False, encoder=LINEAR)


def two_stage(labels: bool = False) -> tuple[TwoStageVAE, Tensor, list[MultivariateNormal]]:
    """Both stages linear and Gaussian, the first's posterior exact under its own prior; images, and the exact p(x), or
    p(x|y) of each class."""
    first, images, _ = linear_gaussian(optimal=True)
    part = TOLD if labels else LINEAR
    model = TwoStageVAE(SPEC, Frozen.of(first.float(), SPEC), 2, part, part).double().eval()
    decoder: Any = model.decoder.encoder if labels else model.decoder
    encoder: Any = model.encoder.encoder if labels else model.encoder
    with torch.no_grad():
        encoder.mu.weight.zero_()  # q(u|z) = p(u), which is wide enough for importance samples
        decoder.mu.weight.copy_(0.7 * torch.randn(decoder.mu.weight.shape))
        decoder.log_scale.bias.fill_(-0.3)
        mix, inner = decoder.mu.weight[:, :2], (2 * (7 * torch.tanh(torch.tensor(-0.3 / 7))).double()).exp()
        shifts = decoder.mu.weight[:, 2:].T if labels else torch.zeros(1, 2).double()
        of_z = mix @ mix.T + inner * torch.eye(2).double()
        last = first.likelihood.head.last  # type: ignore[union-attr, operator]
        weight, bias = last.weight, last.bias
        of_x = weight @ of_z @ weight.T + 0.25 * torch.eye(6).double()
        return model, images, [MultivariateNormal(weight @ shift + bias, of_x) for shift in shifts]


def test_its_log_p_is_that_of_both_stages() -> None:
    """And its bound is below it, by one KL of each latent."""
    model, images, (exact,) = two_stage()
    log_p = exact.log_prob(images.flatten(1))
    torch.testing.assert_close(log_prob(model, {"image": images}, 40_000), log_p, atol=0.15, rtol=0)
    scores = model.trace({"image": images}, 4000).scores()
    assert (scores["elbo"].mean(0) < log_p + 0.1).all()
    trace = model.trace({"image": images})
    assert list(trace.sites) == ["u", "z"]
    assert model.sample({}, 5).batch_shape == (5,)


def test_samples_have_its_mean_and_covariance() -> None:
    model, _, (exact,) = two_stage()
    torch.manual_seed(0)
    drawn = model.sample({}, 100_000).base_dist.loc.flatten(1)  # type: ignore[attr-defined]
    torch.testing.assert_close(drawn.mean(0), exact.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), exact.covariance_matrix - 0.25 * torch.eye(6).double(), atol=0.06, rtol=0)


def test_by_class_it_is_m1_followed_by_m2() -> None:
    """log p(x) sums over the classes; each class's story is that class's alone; every label has its shapes."""
    conditional, images, exact = two_stage(labels=True)
    given = {"image": images}
    model = SemiSupervisedVAE(SPEC, lambda _: conditional, partial(ClassPosterior, net=partial(MLP, hidden=[]))).eval()
    model = model.double()
    assert model.classifier.net.in_shape == (1, 1, 2)  # type: ignore[union-attr]
    of_each = torch.stack([p.log_prob(images.flatten(1)) for p in exact], 1)
    for y in range(3):
        told = {**given, "label": torch.full((len(images),), y)}
        torch.testing.assert_close(log_prob(conditional, told, 40_000), of_each[:, y], atol=0.15, rtol=0)
    log_p = of_each.logsumexp(1) - math.log(3)
    torch.testing.assert_close(log_prob(model, given, 80_000), log_p, atol=0.15, rtol=0)
    trace = model.by_class(given)
    assert trace.scores()["elbo"].shape == (3, 40)
    assert trace.sites["z"].z.shape == (40, 2)  # one draw of the code, decoded once
    assert model.sample({"label": torch.tensor([0, 2])}, 4).batch_shape == (4, 2)
    assert model.sample({}, 4).batch_shape == (4,)
    assert model.generates_by_class
    assert not model.is_conditional
    assert conditional.is_conditional


def test_the_first_stage_stays_as_it_is_and_all_else_learns() -> None:
    conditional, images, _ = two_stage(labels=True)
    model = SemiSupervisedVAE(SPEC, lambda _: conditional, ClassPosterior).double().train()
    SemiSupervised()(model, {"image": images, "label": torch.arange(40) % 4 - 1}, 0.0).value.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("first_stage" not in name), name
    assert not conditional.first_stage.training


def test_codes_are_drawn_in_training_and_their_means_in_evaluation() -> None:
    model, images, _ = two_stage()
    given = {"image": images}
    q = model.first_stage.posteriors(given)["z"]
    assert torch.equal(model.code(given)[:, 0, 0], q.mean)
    drawn = torch.stack([model.train().code(given)[:, 0, 0] for _ in range(1000)])
    torch.testing.assert_close(drawn.mean(0), q.mean, atol=0.08, rtol=0)
    torch.testing.assert_close(drawn.var(0), q.variance, atol=0.06, rtol=0)
    assert ELBO()(model, given, 0.0).value.isfinite()


def test_what_does_not_fit_is_refused() -> None:
    def frozen(**parts: Any) -> Frozen:
        return Frozen.of(VAE(SPEC, **parts), SPEC)

    codes = {"encoder": partial(GumbelPosterior, classes=6), "prior": CodePrior, "latent_size": 12}
    for first in (frozen(encoder=PointMass), frozen(prior=LabelledGaussian), frozen(**codes)):
        with pytest.raises(
            ValueError, match="expected a run without labels whose latent z is a vector with a continuous"
        ):
            TwoStageVAE(SPEC, first)
    with pytest.raises(ValueError, match=r"TwoStageVAE.site: expected a latent of the run, z, got 'y'"):
        TwoStageVAE(SPEC, frozen(), site="y")
    with pytest.raises(ValueError, match=r"TwoStageVAE.first_stage: expected a run of images of shape \(1, 4, 4\)"):
        TwoStageVAE(Spec((1, 4, 4), 2), frozen())
    with pytest.raises(ValueError, match=r"TwoStageVAE.latent_size: expected at least 1, got 0"):
        TwoStageVAE(SPEC, frozen(), 0)
    for prior in (VampPrior, partial(ExemplarPrior, components=4)):
        with pytest.raises(ValueError, match=r"TwoStageVAE.prior: .* made of encoded images"):
            TwoStageVAE(SPEC, frozen(), prior=prior)
    for decoder in (PointMass, partial(LabelledEncoder, encoder=PointMass)):
        with pytest.raises(ValueError, match=r"TwoStageVAE.decoder: expected a density p\(z\|u\), got PointMass"):
            TwoStageVAE(SPEC, frozen(), decoder=decoder)
    with pytest.raises(ValueError, match="expected a model of images by class, got TwoStageVAE"):
        SemiSupervisedVAE(SPEC, lambda spec: TwoStageVAE(spec, frozen()))


SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.callbacks=null", "--run.name=a"]


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_m1_followed_by_m2(cli: Callable, data: str) -> None:
    """The second's checkpoint alone is enough: it samples by class, codes without loss, and goes on."""
    flags = [] if data == "digits" else generated_flags((1, 28, 28), 256)
    assert cli("fit", "-c", EXPERIMENTS / f"{data}.yaml", *flags, *SHORT).status == 0
    few = [] if data == "digits" else ["--data.few_labels.labels=20", "--data.few_labels.per_batch=4"]
    done = cli("fit", "-c", EXPERIMENTS / f"{data}_m1_m2.yaml", *flags, *few, *SHORT)
    assert done.status == 0, done.err
    shutil.rmtree(f"runs/{data}")
    run = Path("runs") / f"{data}_m1_m2" / "a"
    tested = cli("test", "--ckpt_path", run, "--model.evaluation.samples=2", "--model.evaluation.studies=false")
    assert tested.status == 0, tested.err
    assert "misclassified" in json.dumps(json.loads((run / "results.json").read_text()))
    assert load_model(str(run)).sample(3).batch_shape == (3,)
    assert cli("sample", "--ckpt_path", run, "--label=1").status == 0
    if data == "digits":
        coded = cli("compress", "test", "-o", "a.vlz", "--ckpt_path", run)
        assert coded.status == 0, coded.err
        assert cli("decompress", "a.vlz", "-o", "back", "--ckpt_path", run).status == 0
        assert cli("fit", "--ckpt_path", run, "--trainer.max_epochs=2").status == 0
