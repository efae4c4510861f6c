"""The top-down ladder against exact values: a linear-Gaussian one, one of a single layer, and its start."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from tests.conftest import REPOSITORY
from tests.test_compression import elbo_bits
from vae_lightning.compression import decode, encode
from vae_lightning.conditionals import (
    BernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    GaussianMixture,
    LabelledGaussian,
    LabelledLikelihood,
    TopPosterior,
    VampPrior,
)
from vae_lightning.core import Conditional, Given, Recorded, Spec, traced
from vae_lightning.data import Digits
from vae_lightning.metrics import importance
from vae_lightning.metrics.estimators.annealing import annealed_log_prob
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.models import VAE, LadderVAE
from vae_lightning.nets import MLP, ConvDecoder, ConvLadder, MLPLadder
from vae_lightning.objectives import ELBO, IWAE
from vae_lightning.report.results import Results

SHAPE, SPEC = (1, 2, 3), Spec((1, 2, 3), 17)
MAPS = Spec((1, 7, 10), 2, classes=("a", "b", "c"))
VECTORS = partial(MLPLadder, hidden=[8, 7, 6], latents=[4, 3, 2])


def maps(spec: Spec = MAPS, **settings: object) -> LadderVAE:
    """Of maps whose sizes are odd, in three stages, the first of which has no latent."""
    chosen = {"channels": [6, 5, 4], "layers": [0, 2, 1], "latent_channels": [1, 1, 2], "blocks": 1} | settings
    net = partial(ConvDecoder, channels=chosen["channels"][:1], hidden=0, spatial=True)
    return LadderVAE(spec, partial(ConvLadder, **chosen), partial(BernoulliLikelihood, net=net))


def shaken(model: LadderVAE, by: float = 0.3) -> LadderVAE:
    """With weights at random, those that start at zero too; in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(by * torch.randn_like(parameter))
    return model.eval()


def binary(count: int = 5) -> Tensor:
    return torch.randint(0, 2, (count, *MAPS.image_shape)).float()


READING = ("posterior", "join", "up.", "features_of")
"""Of the names of the nets that read the image: all others are of the generative half."""
NOISE = 0.4

# -- exact log p(x) ---------------------------------------------------------------------------------------------------


def linear() -> tuple[LadderVAE, MultivariateNormal]:
    """Three latents without a nonlinearity, whose scales given those above are fixed, and p(x) over flat images, worked
    out from the story alone: an image's mean is affine in the noise of its latents."""
    torch.manual_seed(2)
    net = partial(VECTORS, activation=nn.Identity)
    model = LadderVAE(SPEC, net, partial(GaussianLikelihood, net=partial(MLP, hidden=[]), scale=NOISE)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not any(part in name for part in READING):
                parameter.copy_(0.3 * torch.randn_like(parameter))
        for block in model.net.layers[1:]:
            block.prior[-1].weight[block.size :] = 0.0
    sizes = [block.size for block in model.net.layers]

    def mean(noise: Tensor) -> Tensor:
        parts = dict(zip(("z1", "z2", "z3"), noise.split(sizes), strict=True))
        return model(lambda name, p, q=None: p.mean + p.stddev * parts[name], {}).mean.flatten()

    zero = torch.zeros(sum(sizes)).double()
    slope = torch.autograd.functional.jacobian(mean, zero)
    torch.testing.assert_close(torch.autograd.functional.jacobian(mean, torch.randn_like(zero)), slope)
    noise = (NOISE * 16) ** 2 * torch.eye(len(slope)).double()
    return model, MultivariateNormal(mean(zero).detach(), slope @ slope.T + noise)


def test_bounds_of_a_linear_ladder_are_ordered_and_meet_the_exact_value() -> None:
    model, truth = linear()
    x = truth.sample((400,)).view(-1, *SHAPE)
    theirs = [p for name, p in model.named_parameters() if any(part in name for part in READING)]
    optimizer = torch.optim.Adam(theirs, 0.02)
    for step in range(200):  # the generative half stays
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
        optimizer.zero_grad()
        ELBO()(model, {"image": x}, 0).value.backward()
        optimizer.step()
    exact, batch = truth.log_prob(x[:10].flatten(1)), {"image": x[:10]}
    with torch.no_grad():
        elbo = -ELBO(num_samples=2000)(model, batch, 0).value.item()
        log_weight = model.trace(batch, 4000).log_weight()
        bounds = [(log_weight.view(-1, k, 10).logsumexp(1) - math.log(k)).mean().item() for k in (1, 5, 50, 1000)]
        found = importance(model, batch, [4000])
    assert elbo == pytest.approx(bounds[0], abs=0.05)
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < exact.mean().item() + 0.01
    assert bounds[0] < exact.mean().item() - 0.02
    assert ((found.log_prob[0] - exact) / found.variance([4000])[0].sqrt()).abs().max() < 4.5
    torch.testing.assert_close(found.log_prob[0], exact, atol=0.3, rtol=0)
    annealed = annealed_log_prob(model, batch, 8, temperatures=20, leapfrog_steps=3)
    assert ((annealed.log_prob - exact) / annealed.standard_error).abs().max() < 4.5
    own = importance(model, batch, [1000], proposal=refined(model, batch, steps=50).widened(1.3))
    assert ((own.log_prob[0] - exact) / own.variance([1000])[0].sqrt()).abs().max() < 4.5


# -- posteriors in relation to priors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vectors", "maps"])
def test_every_posterior_starts_as_its_prior(kind: str) -> None:
    model = LadderVAE(MAPS, VECTORS) if kind == "vectors" else maps()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # whatever the priors are
            if ".posterior." not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    trace = model.trace({"image": binary()}, 3)
    assert list(trace.sites) == ["z1", "z2", "z3"]
    for site in trace.sites.values():
        assert site.kl().abs().max() < 1e-5
        assert site.z.shape[:2] == (3, 5)
    torch.testing.assert_close(trace.log_weight(), trace.log_likelihood())


def test_the_rate_hangs_on_the_relation_alone() -> None:
    """1/2 (a^2 + b^2 - 1) - log b, a in units of the prior's scale, where the bound of the scales is far."""
    model = shaken(LadderVAE(MAPS, VECTORS, min_log_var=-1e4).double())
    block, latent = model.net.layers[1], model.latents[1]
    state, feature = torch.randn(4, 5, 7).double(), torch.randn(5, 7).double()
    p, q = latent.pair(state, feature)
    a, log_b = block.posterior_parameters(state, feature)
    wanted = (0.5 * (a.square() + (2 * log_b).exp() - 1) - log_b).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close((q.mean - p.mean) / p.stddev, a)
    torch.testing.assert_close(latent(state).mean, p.mean)


def test_scales_are_bounded_and_stay_finite() -> None:
    model, given = shaken(maps().double(), 10.0), {"image": binary().double()}
    loss = ELBO()(model, given, 0).value
    loss.backward()
    with torch.no_grad():
        sites = model.trace(given).sites.values()
    for q in [site.q for site in sites] + [site.p for site in sites]:
        assert math.exp(-5) * 0.999 <= q.stddev.min() <= q.stddev.max() <= math.exp(5) * 1.001
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match=r"LadderVAE\.min_log_var: expected a log variance below 0, got 1"):
        LadderVAE(MAPS, VECTORS, min_log_var=1.0)


# -- the story --------------------------------------------------------------------------------------------------------


class Rest(Conditional):
    """p(x|z) of a ladder with one latent: all that follows it."""

    def __init__(self, ladder: LadderVAE) -> None:
        super().__init__()
        self.ladder = ladder

    def forward(self, context: Tensor) -> Distribution:
        net = self.ladder.net
        return self.ladder.likelihood(net.finish(net.layers[0].leave(net.start, context)))


@pytest.mark.parametrize("prior", [GaussianMixture, VampPrior])
def test_a_ladder_of_one_layer_is_a_vae(prior: type) -> None:
    made = partial(prior, components=3)
    for ladder in (
        LadderVAE(MAPS, partial(MLPLadder, hidden=[6], latents=[4]), prior=made),
        LadderVAE(MAPS, partial(ConvLadder, channels=[4], layers=[1], latent_channels=[2], blocks=1), prior=made),
    ):
        shaken(ladder)
        parts: list[Conditional] = [TopPosterior(ladder.net, ladder.latents[0]), Rest(ladder), ladder.prior]
        factories = [lambda *_, part=part: part for part in parts]
        vae, x = VAE(MAPS, *factories, latent_size=ladder.net.layers[0].size), {"image": binary(9)}
        found = []
        for model in (ladder, vae):
            torch.manual_seed(3)
            found.append((model.trace(x, 7).log_weight(), IWAE(3)(model, x, 0).value))
        for own, theirs in zip(*found, strict=True):
            torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("kind", ["vectors", "maps"])
def test_k_samples_are_k_stories_and_the_image_is_read_once(kind: str) -> None:
    model = shaken(LadderVAE(MAPS, VECTORS) if kind == "vectors" else maps()).double()
    read: list[Tensor] = []
    model.net.up[0].register_forward_hook(lambda *_: read.append(_[2]))
    given = {"image": binary().double()}
    story = model.about(given)
    whole = traced(story, given["image"], 4)
    assert len(read) == 1
    for k in range(4):
        draw = Recorded(Given({name: site.z[k] for name, site in whole.sites.items()}))
        px = story(draw)
        weight = px.log_prob(given["image"]) + sum(site.log_ratio() for site in draw.sites.values())
        torch.testing.assert_close(weight, whole.log_weight()[k])
    assert len(read) == 1


def test_samples_have_the_shape_that_is_asked_for() -> None:
    model = shaken(maps())
    assert model.sample({}).sample().shape == MAPS.image_shape
    assert model.sample({}, 6).sample().shape == (6, *MAPS.image_shape)
    told = shaken(LadderVAE(MAPS, VECTORS, prior=LabelledGaussian))
    assert told.is_conditional
    label = torch.tensor([0, 2])
    assert told.sample({"label": label}, 6).batch_shape == (6, 2)
    assert told.trace({"image": binary(2), "label": label}, 3).log_weight().shape == (3, 2)


def test_samples_have_the_moments_that_the_posteriors_average_to() -> None:
    """The exact p(x) of a linear ladder is what FromPrior draws: its mean and covariance."""
    model, truth = linear()
    with torch.no_grad():
        x = model.sample({}, 40_000).sample().flatten(1)
    error = truth.covariance_matrix.diag().sqrt() / len(x) ** 0.5
    assert ((x.mean(0) - truth.mean) / error).abs().max() < 4.5
    scale = truth.covariance_matrix.diag().sqrt()
    assert ((x.T.cov() - truth.covariance_matrix) / (scale * scale[:, None])).abs().max() < 0.05


# -- coding, and what cannot work --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "steps"), [("vectors", 120), ("maps", 220)])
def test_a_trained_ladder_is_coded_layer_by_layer(kind: str, steps: int) -> None:
    splits = Digits().load(REPOSITORY, False)
    spec, train = Spec((1, 8, 8), 17), splits.train.image
    if kind == "vectors":
        model = LadderVAE(spec, partial(MLPLadder, hidden=[64, 48], latents=[10, 4]), DiscretizedLogisticLikelihood)
    else:
        net = partial(ConvDecoder, channels=[16], hidden=0, spatial=True)
        ladder = partial(ConvLadder, channels=[16, 16], layers=[1, 2], latent_channels=[1, 2], blocks=1)
        model = LadderVAE(spec, ladder, partial(DiscretizedLogisticLikelihood, net=net))
    model.init_from_data({"image": train.float()})
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        image = train[torch.randint(0, len(train), (64,))].float()
        ELBO(beta=min(1.0, step / 50))(model, {"image": image}, 0).value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    model.eval()
    test = splits.test.image[:60]
    coded = encode(model, test)
    torch.testing.assert_close(decode(model, coded, (1, 8, 8)), test, rtol=0, atol=0)
    assert coded.net_bits == pytest.approx(elbo_bits(model, test, 5), rel=0.02)
    with torch.no_grad():
        rate = model.trace({"image": test.float()}, 20).kl().mean()
    assert rate > 1  # nats that the latents tell


def test_settings_without_sense_are_one_sentence() -> None:
    for factory, said in (
        (partial(MLPLadder, hidden=[8], latents=[4, 2]), "MLPLadder: expected a width for each latent"),
        (partial(MLPLadder, hidden=[8], latents=[0]), r"MLPLadder\.latents: expected 1 or more widths"),
        (partial(MLPLadder, blocks=-1), "MLPLadder: expected no fewer than 0 blocks, got -1 and 1"),
        (partial(ConvLadder, layers=[4]), "ConvLadder: expected layers >= 0 and latent_channels of each of 2 stages"),
        (partial(ConvLadder, layers=[4, 0]), "ConvLadder: expected a latent in the last stage, the top, got none"),
    ):
        with pytest.raises(ValueError, match=said):
            factory(MAPS.image_shape)
    scrambled = partial(BernoulliLikelihood, net=partial(ConvDecoder, channels=[6, 6], hidden=0, spatial=True))
    with pytest.raises(ValueError, match=r"ConvDecoder\.channels: expected as many stages as bring the map \(32, 4, 5"):
        LadderVAE(MAPS, partial(ConvLadder, channels=[32, 6]), scrambled)
    with pytest.raises(ValueError, match=r"LabelledLikelihood: expected latents .*got maps"):
        LadderVAE(MAPS, ConvLadder, partial(LabelledLikelihood, likelihood=BernoulliLikelihood))


# -- through the command line -----------------------------------------------------------------------------------------


def test_every_command_takes_a_ladder(cli: Callable) -> None:
    """A small one of vectors."""
    config = f"{REPOSITORY}/configs/experiment/digits_ladder.yaml"
    flags = ["--trainer.callbacks=null", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=4"]
    flags += ["--model.latent_model.net=MLPLadder", "--model.latent_model.net.hidden=[24,16]"]
    flags += ["--model.latent_model.net.latents=[4,2]", "--model.latent_model.likelihood.net=MLP"]
    flags += ["--model.latent_model.likelihood.net.hidden=[]", "--model.objective.free_bits=0.01", "--run.name=one"]
    done = cli("fit", "-c", config, *flags)
    assert done.status == 0, done.err
    run = "--ckpt_path=runs/digits_ladder/one"
    done = cli("test", run, "--model.evaluation.samples=5", "--model.evaluation.refinement=2")
    assert done.status == 0, done.err
    assert "Left out" not in done.out
    rows = {name: row.mean for name, row in Results.read(Path("runs/digits_ladder/one")).rows.items()}
    assert {"nll", "refined_nll", "annealed_nll", "amortisation_gap", "mutual_information"} < set(rows)
    assert rows["rate_z1"] + rows["rate_z2"] == pytest.approx(rows["rate"], rel=0.1, abs=0.05)
    for words in (["sample", "--num_samples=4", "--output=s.npy"], ["reconstruct"], ["encode"]):
        done = cli(*words, run)
        assert done.status == 0, done.err
    assert np.load("s.npy").shape == (4, 1, 8, 8)
    codes = np.load("runs/digits_ladder/one/codes.npz")
    assert [codes[f"z{i}_mean"].shape for i in (1, 2)] == [(360, 2), (360, 4)]
    np.save("in.npy", Digits().load(Path(), False).test.image[:40].numpy())
    packed = cli("compress", "in.npy", "-o", "out.vlz", run)
    assert packed.status == 0, packed.err
    assert cli("decompress", "out.vlz", "-o", "back", run).status == 0
    np.testing.assert_array_equal(np.load("back/images.npy"), np.load("in.npy"))
