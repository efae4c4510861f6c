"""The autoregressive prior of mixtures: a density that hangs on what came before alone, and its code."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from tests.conftest import GENERATED, REPOSITORY
from vae_lightning.compression import Settings, Stack, decode, encode, latent_codec, require_codable
from vae_lightning.compression.exactness import probe
from vae_lightning.compression.stack import seeded
from vae_lightning.conditionals import (
    AutoregressiveMixturePrior,
    BernoulliLikelihood,
    GaussianPosterior,
    MaskedAutoregressivePrior,
)
from vae_lightning.core import LatentModel, Spec, centre
from vae_lightning.distributions import AutoregressiveMixture
from vae_lightning.models import VAE, LadderVAE
from vae_lightning.nets import MLP, MLPLadder

SPEC = Spec((1, 3, 3), 2)


def bent(size: int, components: int = 3) -> AutoregressiveMixturePrior:
    """A prior whose net says something."""
    prior = AutoregressiveMixturePrior((size,), components=components, hidden=[16, 16])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return prior


def density(prior: AutoregressiveMixturePrior) -> AutoregressiveMixture:
    p = prior(None)
    assert isinstance(p, AutoregressiveMixture)
    return p


@pytest.mark.parametrize("components", [1, 2, 10])
def test_it_starts_with_mean_0_and_variance_1_independently(components: int) -> None:
    p = density(AutoregressiveMixturePrior((4,), components=components))
    mixtures = p.parameters(torch.randn(5, 4), 2)
    one = mixtures.distribution()
    assert torch.allclose(one.mean, torch.zeros(5), atol=1e-5)
    assert torch.allclose(one.variance, torch.ones(5), atol=1e-4)
    assert len(mixtures.mean[0].unique()) == components  # else all would learn the same


def test_it_begins_at_the_draws_means_and_scales() -> None:
    prior = AutoregressiveMixturePrior((2,))
    z = torch.randn(5000, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([50.0, -2.0])
    prior.init_from_codes(z)
    p = density(prior)
    for i in range(2):
        one = p.parameters(z[:1], i).distribution()
        assert torch.allclose(one.mean, z[:, i].mean(), atol=1e-3)
        assert torch.allclose(one.stddev, z[:, i].std(), rtol=1e-3)


@pytest.mark.parametrize("size", [5, 16])
def test_a_latent_hangs_on_all_before_it_and_on_no_other(size: int) -> None:
    """Also where there are as many as units in a layer."""
    prior, z = bent(size), torch.randn(1, size, requires_grad=True)
    logits, mean, scale = density(prior).parameters(z, None)
    for i in range(size):
        said = (logits + mean + scale)[0, i].sum()
        (gradient,) = torch.autograd.grad(said, z, retain_graph=True, allow_unused=True)
        assert (gradient[0, :i] != 0).all()
        assert (gradient[0, i:] == 0).all()


def test_the_density_is_the_product_of_the_conditionals_and_integrates_to_one() -> None:
    p, z = density(bent(3)), torch.randn(40, 3)
    logits, mean, scale = p.parameters(z, None)
    by_hand = (logits.log_softmax(-1) + Normal(mean, scale).log_prob(z[..., None])).logsumexp(-1).sum(-1)
    assert torch.allclose(p.log_prob(z), by_hand, atol=1e-5)
    in_turn = [p.parameters(z, i).distribution().log_prob(z[:, i]) for i in range(3)]
    assert torch.allclose(p.log_prob(z), sum(in_turn, torch.zeros(40)), atol=1e-5)
    assert torch.equal(p.expand((40,)).log_prob(z), p.log_prob(z))
    assert p.expand((2, 1)).log_prob(z[0]).shape == (2, 1)
    side = torch.linspace(-12, 12, 1201)
    two = density(bent(2))
    mass = two.log_prob(torch.cartesian_prod(side, side)).exp() * (side[1] - side[0]) ** 2
    assert mass.sum().item() == pytest.approx(1, abs=1e-3)


def test_samples_follow_the_density() -> None:
    """Their mean -log p is the density's entropy, by a sum over a grid."""
    torch.manual_seed(0)
    p, side = density(bent(2)), torch.linspace(-12, 12, 1201)
    log_prob = p.log_prob(torch.cartesian_prod(side, side))
    entropy = -(log_prob.exp() * log_prob).sum().item() * (side[1] - side[0]).item() ** 2
    told = -p.log_prob(p.sample((20_000,)))
    assert told.mean().item() == pytest.approx(entropy, abs=4 * told.std().item() / math.sqrt(20_000))
    assert p.expand((3,)).sample((7,)).shape == (7, 3, 2)


def test_it_learns_what_neither_gaussians_nor_independent_latents_say() -> None:
    """Two latents of the same random sign: -log p in nats is that of one bit and of two narrow Gaussians."""
    torch.manual_seed(0)
    sign = torch.randint(0, 2, (2000, 1)) * 2.0 - 1
    z = sign * torch.tensor([2.0, -3.0]) + 0.2 * torch.randn(2000, 2)
    prior = AutoregressiveMixturePrior((2,), hidden=[32], components=4)
    prior.init_from_codes(z)
    optimizer = torch.optim.Adam(prior.parameters(), 0.01)
    for _ in range(400):
        optimizer.zero_grad()
        (-prior(None).log_prob(z).mean()).backward()
        optimizer.step()
    best = math.log(2) + 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.2))
    assert -prior(None).log_prob(z).mean().item() == pytest.approx(best, abs=0.1)
    drawn = prior(None).sample((500,))
    assert (drawn.prod(1) < 0).float().mean() > 0.98


def test_its_code_is_exact_and_as_long_as_the_density_says() -> None:
    torch.manual_seed(0)
    grid, p = Settings().grid, density(bent(4)).expand((300,))
    codec, stack = latent_codec(p, grid), Stack(seeded(4000, 1))
    with torch.inference_mode():
        before = stack.num_bits
        symbols = codec.pop(stack)
        z = grid.points(symbols, p.zero)
        drawn, expected = before - stack.num_bits, -p.log_prob(z).sum() / math.log(2) + grid.exponent * z.numel()
        assert drawn == pytest.approx(expected.item(), rel=0.003)
        codec.push(stack, symbols)
    assert stack.num_bits == before
    assert np.array_equal(stack.words(), seeded(4000, 1))


def noised(model: LatentModel) -> LatentModel:
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


PRIOR = partial(AutoregressiveMixturePrior, components=3, hidden=[16])
LIKELIHOOD = partial(BernoulliLikelihood, net=partial(MLP, hidden=[16]))


def model() -> LatentModel:
    torch.manual_seed(0)
    encoder = partial(GaussianPosterior, net=partial(MLP, hidden=[16]))
    return noised(VAE(SPEC, encoder, LIKELIHOOD, prior=PRIOR, latent_size=3))


def ladder() -> LatentModel:
    torch.manual_seed(0)
    return noised(LadderVAE(SPEC, partial(MLPLadder, hidden=[16, 8], latents=[2, 3]), LIKELIHOOD, prior=PRIOR))


@pytest.mark.parametrize("made", [model, ladder])
def test_images_come_back_from_their_code(made: Callable[[], LatentModel]) -> None:
    vae = made()
    images = torch.randint(2, (400, *SPEC.image_shape), dtype=torch.uint8)
    coded = encode(vae, images)
    assert torch.equal(decode(vae, coded, SPEC.image_shape), images)
    bound = -vae.trace({"image": images.float().repeat(20, 1, 1, 1)}).log_weight().mean() / math.log(2)
    assert coded.net_bits / len(images) == pytest.approx(bound.item(), rel=0.05)


def test_the_probe_sees_the_net_that_makes_the_mixtures() -> None:
    """Other numbers in a hidden layer decode other latents, so that such a file must be refused."""
    vae = model()
    before = probe(vae, SPEC.image_shape, 2, [4], torch.device("cpu"))
    assert probe(vae, SPEC.image_shape, 2, [4], torch.device("cpu")) == before
    with torch.no_grad():
        next(w for name, w in vae.named_parameters() if name.startswith("prior.net.0.")).mul_(1.001)
    assert probe(vae, SPEC.image_shape, 2, [4], torch.device("cpu")) != before


def test_settings_are_validated() -> None:
    with pytest.raises(ValueError, match=r"AutoregressiveMixturePrior.components: expected at least 1, got 0"):
        AutoregressiveMixturePrior((2,), components=0)
    with pytest.raises(ValueError, match=r"AutoregressiveMixturePrior.hidden: expected .* at least 1"):
        AutoregressiveMixturePrior((2,), hidden=[])
    for kind in (AutoregressiveMixturePrior, MaskedAutoregressivePrior):
        with pytest.raises(
            ValueError, match=r"Prior.hidden: expected widths of at least the 9 latents, .* got \[16, 8\]"
        ):
            kind((9,), hidden=[16, 8])


def test_one_latent_sees_nothing() -> None:
    p, z = density(bent(1)), torch.randn(10, 1)
    assert torch.allclose(p.log_prob(z), p.parameters(torch.zeros(1), 0).distribution().log_prob(z[:, 0]), atol=1e-6)
    assert p.sample((3,)).shape == (3, 1)


def test_its_centre_has_no_noise_and_follows_from_itself() -> None:
    p = density(bent(3)).expand((2,))
    z = centre(p)
    assert z.shape == (2, 3)
    assert torch.equal(centre(p), z)
    for i in range(3):
        assert torch.allclose(p.parameters(z, i).distribution().mean, z[:, i])


def test_half_precision_leaves_the_density_as_it_is() -> None:
    p, z = density(bent(3)), torch.randn(20, 3)
    expected = p.log_prob(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(p.log_prob(z), expected)


def test_a_diverged_prior_is_refused_before_anything_is_coded() -> None:
    vae = model()
    with torch.no_grad():
        vae.get_parameter("prior.loc")[1] = math.nan
    with pytest.raises(ValueError, match="the prior of the latent 'z': expected finite parameters"):
        require_codable(vae, SPEC.image_shape, 2)


def test_a_run_with_it_compresses_and_samples(cli: Callable) -> None:
    """By the configuration, and into a folder."""
    prior = REPOSITORY / "configs" / "prior" / "autoregressive_mixture.yaml"
    digits = REPOSITORY / "configs" / "experiment" / "digits.yaml"
    source = [f"--data.source={GENERATED}", "--data.source.shape=[1,8,8]", "--data.source.levels=17"]
    assert cli("fit", "-c", digits, "-c", prior, *source, "--data.val_size=16", "--trainer.max_epochs=1").status == 0
    images = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8), dtype=np.uint8)
    np.save("x.npy", images)
    run = "runs/digits/1"
    assert cli("compress", "x.npy", "-o", "x.vlz", "--ckpt_path", run).status == 0
    assert cli("decompress", "x.vlz", "-o", "y", "--ckpt_path", run).status == 0
    assert np.array_equal(np.load("y/images.npy"), images)
    assert cli("sample", "--ckpt_path", run).status == 0
