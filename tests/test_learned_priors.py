"""Priors that follow the aggregate posterior: their densities, their samples, where they start and what they learn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.distributions import Independent, Normal

from tests.test_priors import TwoClusters
from vae_lightning.conditionals import (
    ExemplarPrior,
    FlowPrior,
    GaussianPosterior,
    LabelledEncoder,
    MaskedAutoregressivePrior,
    SplineFlowPosterior,
    SplineFlowPrior,
    VampPrior,
)
from vae_lightning.conditionals.flow import zuko
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.objectives import ELBO

SPEC = Spec((1, 4, 4), 2)
FLOWS = [SplineFlowPrior, MaskedAutoregressivePrior]


def bent(kind: type[FlowPrior], size: int) -> FlowPrior:
    """A flow whose nets say something."""
    prior = kind((size,), transforms=2, hidden=[8, 8]).double()  # type: ignore[call-arg]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return prior


@pytest.mark.parametrize("kind", FLOWS)
def test_a_flow_starts_at_the_standard_normal(kind: type[FlowPrior]) -> None:
    z = torch.randn(50, 6)
    assert torch.allclose(kind((6,))(None).log_prob(z), Normal(0, 1).log_prob(z).sum(1), atol=1e-4)


@pytest.mark.parametrize("kind", FLOWS)
def test_a_flow_integrates_to_one_and_its_samples_follow_it(kind: type[FlowPrior]) -> None:
    p = bent(kind, 2)(None)
    side = torch.linspace(-9, 9, 901).double()
    grid = torch.cartesian_prod(side, side)
    mass = p.log_prob(grid).exp().detach() * (side[1] - side[0]) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=1e-3)
    mean = (mass[:, None] * grid).sum(0)
    spread = (mass[:, None] * (grid - mean).square()).sum(0).sqrt()
    drawn = p.sample((20_000,))
    assert ((drawn.mean(0) - mean).abs() < 4 * spread / math.sqrt(20_000)).all()
    assert torch.allclose(drawn.std(0), spread, rtol=0.05)


@pytest.mark.parametrize("kind", FLOWS)
def test_a_flow_is_zukos(kind: type[FlowPrior]) -> None:
    """The density by the library's own class."""
    prior = bent(kind, 3)
    import zuko.distributions

    map_ = prior.flow() if prior.is_inverse else prior.flow().inv
    base = Independent(Normal(torch.zeros(3).double(), 1), 1)
    z, p = torch.randn(40, 3).double(), prior(None)
    inner = zuko.distributions.NormalizingFlow(map_, base)
    expected = inner.log_prob((z - p.loc) / p.scale) - p.scale.log().sum()
    assert torch.allclose(p.log_prob(z), expected, atol=1e-8)


@pytest.mark.parametrize("kind", FLOWS)
def test_a_sample_of_a_flow_has_the_density_of_its_value(kind: type[FlowPrior]) -> None:
    p = bent(kind, 4)(None).expand((5,))
    z = p.rsample((3,))
    assert z.shape == (3, 5, 4)
    assert torch.allclose(p.log_prob(z), p.log_prob(z.clone()), atol=1e-6)


def vamp(components: int = 3) -> VAE:
    torch.manual_seed(0)
    model = VAE(SPEC, GaussianPosterior, prior=partial(VampPrior, components=components), latent_size=2)
    model.init_from_data({"image": torch.randint(0, 2, (50, 1, 4, 4)).float()})
    return model


def test_a_vampprior_is_the_mixture_of_posteriors_at_its_pseudo_inputs() -> None:
    model, z = vamp(), torch.randn(20, 2)
    prior: Any = model.prior
    prior.logits.data = torch.tensor([0.0, 1.0, -1.0])
    q = model.encoder(prior.inputs)
    by_hand = (q.log_prob(z[:, None]) + prior.logits.log_softmax(0)).logsumexp(1)
    assert torch.allclose(prior(None).log_prob(z), by_hand, atol=1e-5)
    assert model.sample({}, 7).sample().shape == (7, 1, 4, 4)


def test_an_exemplar_prior_is_a_mixture_of_gaussians_at_training_images_codes() -> None:
    torch.manual_seed(0)
    model = VAE(SPEC, GaussianPosterior, prior=partial(ExemplarPrior, components=5), latent_size=2).eval()
    images, z = torch.randint(0, 2, (41, 1, 4, 4)).float(), torch.randn(20, 2)
    model.init_from_data({"image": images})
    prior: Any = model.prior
    assert torch.equal(prior.exemplars, images[::10])
    mean = model.encoder(images[::10]).mean
    by_hand = Normal(mean, 0.5).log_prob(z[:, None]).sum(-1).logsumexp(1) - math.log(5)
    assert torch.allclose(prior(None).log_prob(z), by_hand, atol=1e-5)
    with torch.no_grad():
        before = prior(None).log_prob(z)
        prior.log_scale += 0.5  # neither components nor their scale are kept beyond a step
        assert not torch.allclose(prior(None).log_prob(z), before)
    prior(None).log_prob(z).sum().backward()
    assert prior.log_scale.grad != 0
    assert model.encoder.mu.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    other = VAE(SPEC, GaussianPosterior, prior=partial(ExemplarPrior, components=5), latent_size=2).eval()
    other.load_state_dict(model.state_dict())
    assert torch.allclose(other.prior(None).log_prob(z), prior(None).log_prob(z))


def test_an_exemplar_prior_of_more_images_than_there_are_is_refused() -> None:
    model = VAE(SPEC, GaussianPosterior, prior=partial(ExemplarPrior, components=5), latent_size=2)
    with pytest.raises(ValueError, match=r"ExemplarPrior.components: expected at most 4, .* got 5"):
        model.init_from_data({"image": torch.zeros(4, 1, 4, 4)})


def test_an_exemplar_prior_needs_posteriors_with_a_mean() -> None:
    encoder = partial(SplineFlowPosterior, transforms=1, hidden=[8])
    model = VAE(SPEC, encoder, prior=partial(ExemplarPrior, components=2), latent_size=2)
    with pytest.raises(ValueError, match="expected an encoder whose posteriors have a mean, got Flow"):
        model.prior(None)


def test_a_vampprior_begins_with_training_images_and_learns_with_the_encoder() -> None:
    model = vamp()
    prior: Any = model.prior
    assert torch.allclose(prior.inputs.unique(), torch.tensor([0.02, 0.98]), atol=1e-3)
    prior(None).log_prob(torch.randn(4, 2)).sum().backward()
    assert (prior.raw.grad != 0).all()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_the_encoder_of_a_vampprior_is_the_models_own() -> None:
    """Once among the weights, and of a copy the copy's."""
    model, z = vamp(), torch.randn(4, 2)
    assert set(dict(model.prior.named_parameters())) == {"logits", "raw"}
    other = copy.deepcopy(model)
    before = other.prior(None).log_prob(z)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(1.0)
    assert torch.equal(other.prior(None).log_prob(z), before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.prior(None).log_prob(z), model.prior(None).log_prob(z))


def test_what_has_no_encoder_of_images_alone_has_no_vampprior() -> None:
    with pytest.raises(ValueError, match="expected the encoder of its model"):
        VampPrior((2,), SPEC)(None)
    spec = Spec((1, 4, 4), 2, classes=("a", "b"))
    with pytest.raises(ValueError, match="expected an encoder of images alone, got LabelledEncoder"):
        VAE(spec, partial(LabelledEncoder, encoder=GaussianPosterior), prior=VampPrior, latent_size=2)
    with pytest.raises(ValueError, match=r"VampPrior.components: expected at least 1, got 0"):
        VampPrior((2,), SPEC, components=0)
    with pytest.raises(ValueError, match=r"SplineFlowPrior.transforms: expected at least 1, got 0"):
        SplineFlowPrior((2,), transforms=0)


@pytest.mark.parametrize(
    ("prior", "best"),
    [
        (partial(SplineFlowPrior, hidden=[16], transforms=2), math.log(2)),
        (partial(VampPrior, components=4), math.log(2)),
        (partial(ExemplarPrior, components=4), math.log(2)),
        (partial(MaskedAutoregressivePrior, hidden=[16], transforms=2), math.log(math.hypot(3, 0.3) / 0.3)),
    ],
    ids=["spline", "vamp", "exemplar", "masked"],
)
def test_a_prior_learns_where_the_codes_are(prior: Callable[..., Any], best: float) -> None:
    """Codes at -3 and 3, by the objective of the model, where the rate of N(0, 1) is 5.5 nats: no hole is left. A
    masked autoregressive map of one latent, which is told no other, is a Gaussian."""
    torch.manual_seed(0)
    x = torch.tensor([0.0, 1.0]).repeat(100).view(-1, 1, 1, 1)
    model = VAE(Spec((1, 1, 1), 2), lambda *_: TwoClusters(), prior=prior, latent_size=1)
    model.init_from_data({"image": x})
    optimizer = torch.optim.Adam(model.prior.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        ELBO()(model, {"image": x}, 1.0).value.backward()
        optimizer.step()
    rate = model.trace({"image": x}, 100).kl().mean()
    assert rate < best + 0.25
    if best > 1:
        return
    drawn = model.prior(None).sample((500,))
    near = torch.minimum((drawn - 3).abs(), (drawn + 3).abs())
    assert (near < 1.2).float().mean() > 0.9


def test_zuko_leaves_torchs_checks_as_they_were() -> None:
    zuko()
    with pytest.raises(ValueError, match="Expected parameter scale"):
        Normal(0.0, torch.tensor(-1.0))


def test_pseudo_inputs_are_encoded_once_in_evaluation_and_anew_when_weights_change() -> None:
    model = VAE(SPEC, GaussianPosterior, prior=partial(VampPrior, components=3), latent_size=2).eval()
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    z = torch.zeros(2)
    with torch.inference_mode():
        first = model.prior(None).log_prob(z)
        assert torch.equal(model.prior(None).log_prob(z), first)
        assert len(calls) == 1
    with torch.no_grad():
        for value in model.encoder.parameters():
            value.add_(0.1)
        assert not torch.equal(model.prior(None).log_prob(z), first)
        assert len(calls) == 2
        model.prior.raw.add_(0.1)  # type: ignore[operator]
        model.prior(None)
        assert len(calls) == 3
    model.prior(None).log_prob(z).backward()
    assert model.prior.raw.grad is not None
    assert len(calls) == 4
