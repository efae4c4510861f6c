"""Flow posteriors: densities that are ones, samples that follow them, a tighter bound, and all commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from tests.conftest import GENERATED, REPOSITORY, Generated
from tests.test_experiment import DIGITS, SHORT
from vae_lightning import load_model
from vae_lightning.conditionals import (
    FlowPosterior,
    GaussianLikelihood,
    GaussianPosterior,
    InverseAutoregressivePosterior,
    SplineFlowPosterior,
)
from vae_lightning.core import Spec, centre
from vae_lightning.data import Images
from vae_lightning.metrics import log_prob
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvEncoder
from vae_lightning.objectives import ELBO
from vae_lightning.report.results import Results

FLOWS = [SplineFlowPosterior, InverseAutoregressivePosterior]


class Unlabelled(Generated):
    def make(self, count: int, seed: int) -> Images:
        return Images(super().make(count, seed).stored, None)


def bent(kind: type[FlowPosterior], size: int) -> FlowPosterior:
    """A flow far from the identity, in float64."""
    encoder = kind(
        Spec((1, 2, 2), 2), (size,), partial(MLP, hidden=[8]), transforms=4 if kind is SplineFlowPosterior else 2
    ).double()
    for parameter in encoder.flow.parameters():
        nn.init.normal_(parameter, std=0.15 if kind is SplineFlowPosterior else 0.3)
    return encoder


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_flow_starts_as_the_gaussian_of_its_ends(kind: type[FlowPosterior], size: int) -> None:
    encoder = kind(Spec((1, 8, 8), 2), (size,), partial(ConvEncoder, channels=[4]) if size == 1 else MLP)
    q = encoder(torch.rand(6, 1, 8, 8))
    z = torch.randn(3, 6, size)
    normal = torch.distributions.Normal(q.loc, 1.0)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z).sum(-1), rtol=1e-4, atol=1e-4)
    assert (q.batch_shape, q.event_shape) == ((6,), (size,))


@pytest.mark.parametrize("kind", FLOWS)
def test_the_density_integrates_to_one_and_samples_follow_it(kind: type[FlowPosterior]) -> None:
    q = bent(kind, 2)(torch.rand(1, 1, 2, 2).double())
    edges = torch.linspace(-10, 10, 251).double()
    grid = torch.stack(torch.meshgrid(edges, edges, indexing="ij"), -1)
    with torch.no_grad():
        density = q.log_prob(grid.view(-1, 1, 2)).exp().view(251, 251)
        z = q.sample((50_000,))[:, 0]
    cell = (20 / 250) ** 2
    assert density.sum().item() * cell == pytest.approx(1, abs=0.005)
    mean = torch.stack([(density * grid[..., i]).sum() * cell for i in (0, 1)])
    product = (density * grid[..., 0] * grid[..., 1]).sum().item() * cell - mean.prod().item()
    torch.testing.assert_close(z.mean(0), mean, atol=0.05, rtol=0)
    assert torch.cov(z.T)[0, 1].item() == pytest.approx(product, abs=0.05)
    assert abs(product) > 0.002


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("size", [1, 3])
def test_a_sample_of_its_own_has_the_density_of_the_inverse(kind: type[FlowPosterior], size: int) -> None:
    encoder = bent(kind, size)
    q = encoder(torch.rand(4, 1, 2, 2).double())
    z = q.rsample((7,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-4, atol=1e-4)
    assert q.has_rsample
    wide = encoder(torch.rand(1, 1, 2, 2).double()).expand((2, 4))
    assert wide.rsample((7,)).shape == (7, 2, 4, size)
    assert wide.log_prob(torch.randn(2, 4, size).double()).shape == (2, 4)
    with pytest.raises(NotImplementedError):
        _ = q.mean
    drawn = q.sample()
    assert not drawn.requires_grad
    assert q.log_prob(drawn).requires_grad  # not the one remembered without gradients


@pytest.mark.parametrize("kind", FLOWS)
def test_gradients_through_a_flow_are_finite_differences(kind: type[FlowPosterior]) -> None:
    model = VAE(Spec((1, 2, 2), 2), encoder=lambda spec, shape: bent(kind, 2), latent_size=2).double()
    x = torch.bernoulli(torch.rand(8, 1, 2, 2)).double()

    def loss() -> Tensor:
        torch.manual_seed(3)
        return ELBO(num_samples=3)(model, {"image": x}, 0).value

    loss().backward()
    last = list(model.encoder.flow.transforms[0].hyper)[-1]
    for parameter in (last.bias, model.encoder.mu.weight, model.encoder.context[1].weight):
        index, h = int(parameter.grad.abs().argmax()), 1e-6
        ends = []
        for step in (h, -2 * h):
            with torch.no_grad():
                parameter.view(-1)[index] += step
            ends.append(loss().item())
        with torch.no_grad():
            parameter.view(-1)[index] += h
        assert parameter.grad.view(-1)[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4)
        assert parameter.grad.abs().max() > 1e-3


def correlated() -> tuple[Callable[..., VAE], Tensor, Tensor]:
    """Linear VAEs whose exact posterior is a Gaussian of strongly correlated latents, images, and their log p(x)."""
    weight = torch.tensor([[1.5, 1.4], [1.0, 1.1], [-0.7, -0.9], [0.3, 0.2]])
    scale, bias = 0.5, torch.zeros(4)
    x = torch.randn(512, 2) @ weight.T + scale * torch.randn(512, 4)
    exact = MultivariateNormal(bias, weight @ weight.T + scale**2 * torch.eye(4)).log_prob(x)

    def make(encoder: type) -> VAE:
        likelihood = partial(GaussianLikelihood, net=partial(MLP, hidden=[]), scale=scale)
        model = VAE(Spec((1, 2, 2), 2), partial(encoder, net=partial(MLP, hidden=[32])), likelihood, latent_size=2)
        with torch.no_grad():
            model.likelihood.head.last.weight.copy_(weight)
            model.likelihood.head.last.bias.copy_(bias)
        model.likelihood.requires_grad_(False)
        return model

    return make, x.view(-1, 1, 2, 2), exact


@pytest.mark.slow
def test_a_flow_comes_nearer_to_log_p_than_a_gaussian() -> None:
    make, x, exact = correlated()
    gaps = {}
    for kind in (GaussianPosterior, *FLOWS):
        torch.manual_seed(0)
        model = make(kind)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
        for step in range(400):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 400)
            optimizer.zero_grad()
            ELBO(num_samples=2)(model, {"image": x}, step).value.backward()
            optimizer.step()
        with torch.no_grad():
            trace = model.trace({"image": x}, 50)
            gaps[kind] = (exact - trace.log_weight().mean(0)).mean().item()
            if kind in FLOWS:
                torch.testing.assert_close(trace.kl(), -trace.sites["z"].log_ratio())
                found = log_prob(model, {"image": x[:50]}, 2000).float()
                torch.testing.assert_close(found, exact[:50], atol=0.1, rtol=0)  # its weights are right
    best = -0.5 * math.log(1 - correlation() ** 2)  # that of the best diagonal Gaussian
    assert gaps[GaussianPosterior] > 0.9 * best
    assert max(gaps[kind] for kind in FLOWS) < 0.2 * best


def correlation() -> float:
    """Of the exact posterior's two latents."""
    weight = torch.tensor([[1.5, 1.4], [1.0, 1.1], [-0.7, -0.9], [0.3, 0.2]])
    covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / 0.25)
    return (covariance[0, 1] / covariance.diagonal().prod().sqrt()).item()


@pytest.mark.parametrize("kind", FLOWS)
def test_the_centre_of_a_flow_is_where_the_middle_of_its_noise_goes(kind: type[FlowPosterior]) -> None:
    q = bent(kind, 1)(torch.rand(5, 1, 2, 2).double())
    below = (q.sample((100_000,)) < centre(q)).double().mean(0)  # of one latent, it is the median
    torch.testing.assert_close(below, torch.full_like(below, 0.5), atol=0.01, rtol=0)
    fresh = kind(Spec((1, 2, 2), 2), (3,))(torch.rand(5, 1, 2, 2))
    torch.testing.assert_close(centre(fresh), fresh.loc)  # as long as it is a Gaussian: its mean


def test_settings_without_sense_are_refused() -> None:
    spec = Spec((1, 2, 2), 2)
    with pytest.raises(ValueError, match=r"SplineFlowPosterior\.transforms: expected at least 1, got 0"):
        SplineFlowPosterior(spec, (2,), transforms=0)
    with pytest.raises(ValueError, match=r"SplineFlowPosterior\.bins: expected at least 2, got 1"):
        SplineFlowPosterior(spec, (2,), bins=1)
    with pytest.raises(ValueError, match=r"InverseAutoregressivePosterior\.hidden: expected 1 or more widths"):
        InverseAutoregressivePosterior(spec, (2,), hidden=[])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "iaf"])
def test_every_command_takes_a_flow_or_says_why_not(cli: Callable, name: str) -> None:
    encoder = REPOSITORY / "configs" / "encoder" / f"{name}.yaml"
    done = cli("fit", "-c", DIGITS, "-c", encoder, "--trainer.max_epochs=1", "--model.latent_model.latent_size=4")
    assert done.status == 0, done.err
    run = Path("runs/digits/1")
    assert {path.name for path in (run / "images").iterdir()} == {
        "reconstructions",
        "priorsamples",
        "traversals",
        "interpolations",
    }
    few = [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17", "--data.val_size=16"]
    tested = cli("test", "--ckpt_path", run, "--model.evaluation.samples=20", *few)
    assert tested.status == 0, tested.err
    assert "No refined posteriors and no parts of the gap: they are sought among diagonal" in tested.out
    rows = Results.read(run).rows
    assert "No active units and no rate of each latent: the posterior has no mean in closed form." in tested.out
    assert "active_units" not in rows
    assert abs(rows["checked_difference"].mean) < 4 * rows["checked_difference"].error + 0.5  # of two estimators
    assert rows["nll"].mean < -rows["elbo"].mean
    rates = rows["sampled_rate"], rows["rate"]  # of independent samples, on 32 images
    assert abs(rates[0].mean - rates[1].mean) < 4 * math.hypot(rates[0].error, rates[1].error)
    for command in ("sample", "predict"):
        assert cli(command, "--ckpt_path", run).status == 0, command
    refined = cli("test", "--ckpt_path", run, "--model.evaluation.refinement=5")
    assert refined.status == 1
    assert "set --model.evaluation.refinement 0, or choose GaussianPosterior" in refined.error
    np.save("x.npy", np.zeros((2, 1, 8, 8), np.uint8))
    for command in ("compress", "surprise"):
        output = ["-o", "x.vlz"] if command == "compress" else []
        done = cli(command, "x.npy", *output, "--ckpt_path", run)
        assert done.status == (command == "compress"), done.err  # 0 for surprise
    assert "got Flow, which has no codec" in cli("compress", "x.npy", "-o", "x.vlz", "--ckpt_path", run).error
    assert load_model(str(run)).encode(torch.zeros(2, 1, 8, 8))["z"].batch_shape == (2,)


def test_codes_of_a_flow_are_its_centre(cli: Callable) -> None:
    encoder = REPOSITORY / "configs" / "encoder" / "iaf.yaml"
    source = ["--data.source=tests.test_flows.Unlabelled", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    short = [*SHORT, "--trainer.max_epochs=1", "--data.val_size=16"]
    assert cli("fit", "-c", DIGITS, "-c", encoder, *short, *source).status == 0
    encoded = cli("encode", "--ckpt_path=runs/digits/1")
    assert encoded.status == 0, encoded.err
    codes = np.load("runs/digits/1/codes.npz")
    assert set(codes) == {"centre"}
    assert codes["centre"].shape == (32, 10)
    assert cli("encode", "--ckpt_path=runs/digits/1", "--output=again.npz").status == 0
    assert np.array_equal(np.load("again.npz")["centre"], codes["centre"])  # no noise in them
    assert cli("reconstruct", "--ckpt_path=runs/digits/1").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOWS)
def test_a_compiled_step_of_a_flow_is_the_same_step(kind: type[FlowPosterior]) -> None:
    """Loss and gradient of what torch.compile makes of it, with the same noise, without the C++ compiler behind it."""
    torch._dynamo.reset()
    encoder, likelihood = partial(kind, net=partial(MLP, hidden=[8])), partial(GaussianLikelihood, net=MLP)
    model = VAE(Spec((1, 4, 4), 16), encoder=encoder, likelihood=likelihood, latent_size=3)
    objective, image = ELBO(), torch.randint(0, 16, (8, 1, 4, 4)).float()
    found = []
    for step in (objective.forward, torch.compile(objective.forward, backend="eager")):
        model.zero_grad()
        torch.manual_seed(0)
        loss = step(model, {"image": image}, torch.tensor(0.5)).value
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 5
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
