"""The parts of the rate against closed forms, bounds and identities; what a collapse looks like, and its absence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vae_lightning.conditionals import GaussianLikelihood, PointMass
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story
from vae_lightning.metrics.estimators import aggregate
from vae_lightning.metrics.information import Rate, active_units, decompose_rate, diagnose, shuffled_distortion
from vae_lightning.models import VAE

GREY = partial(GaussianLikelihood, scale=1.0)


class Channel(LatentModel):
    """An image holds its own posterior's mean: z ~ N(0, I), q(z|x) = N(x, scale^2), p(x|z) = N(gain z, 1).

    The same densities may come as `full_rank` distributions: the "posterior" or the "prior".
    """

    def __init__(
        self, scale: Tensor | float, d: int = 1, gain: float = 1.0, full_rank: str = "", sites: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64).expand(d).clone())
        self.gain, self.full_rank, self.sites = gain, full_rank, sites

    def about(self, given: Batch) -> Story:
        return lambda draw: self.tell(draw, given)

    def tell(self, draw: Draw, given: Batch) -> Distribution:
        q = self.normal("posterior", given["image"].flatten(1), self.scale) if "image" in given else None
        p = self.normal("prior", torch.zeros_like(self.scale), torch.ones_like(self.scale))
        z, *_ = [draw(f"z{i}", p=p, q=q) for i in range(self.sites)]
        return Independent(Normal(self.gain * z[..., None, None, :], 1.0), 3)

    def normal(self, name: str, mean: Tensor, scale: Tensor) -> Distribution:
        if name == self.full_rank:
            return MultivariateNormal(mean, scale_tril=scale.diag())
        return Independent(Normal(mean, scale.expand_as(mean)), 1)


def as_batches(chunks: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
    return ({"image": chunk} for chunk in chunks)


def parts(mu: Tensor, scale: Tensor | float, samples: int = 1, full_rank: str = "", double: bool = True) -> Rate:
    """The parts for posteriors N(mu (N, d), scale^2), in three uneven chunks."""
    model = Channel(scale, mu.shape[1], full_rank=full_rank).eval()
    torch.manual_seed(1)
    images = mu.view(len(mu), 1, 1, -1).tensor_split([100, 101])
    return decompose_rate(model if double else model.float(), as_batches(images), samples)


def spread(n: int, d: int, by: float = 1.0) -> Tensor:
    return by * torch.randn(n, d, dtype=torch.float64)


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "scale"), [(1.0, 1.0), (0.8, 0.4), (2.0, 1.0)])
def test_parts_of_a_gaussian_channel_are_closed_forms(by: float, scale: float) -> None:
    """With means spread as N(0, by^2), q(z) is N(0, by^2 + scale^2) in each dimension."""
    d, total = 2, by**2 + scale**2
    mu = spread(2000, d)
    mu = by * (mu - mu.mean(0)) / mu.std(0)
    found = parts(mu, scale, samples=4)
    rate = 0.5 * (mu.square().sum(1) + d * (scale**2 - 1 - math.log(scale**2))).mean().item()
    assert found.rate[0] == pytest.approx(rate, abs=0.12)
    assert found.mutual_information[0] == pytest.approx(d / 2 * math.log(1 + by**2 / scale**2), abs=0.06)
    assert found.prior_hole[0] == pytest.approx(d / 2 * (total - 1 - math.log(total)), abs=0.12)
    assert found.total_correlation[0] == pytest.approx(0, abs=0.02)


def test_total_correlation_is_that_of_the_correlations() -> None:
    covariance = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.5, 0.0], [0.3, 0.0, 0.7]], dtype=torch.float64)
    noise = torch.tensor([0.5, 0.7, 0.4], dtype=torch.float64)
    mu = MultivariateNormal(torch.zeros(3).double(), covariance).sample((2000,))
    total = covariance + noise.square().diag()
    correlation = total / total.diag().sqrt().outer(total.diag().sqrt())
    closed = -0.5 * torch.logdet(correlation).item()
    assert closed > 0.15
    found = parts(mu, noise, samples=2)
    assert found.total_correlation[0] == pytest.approx(closed, abs=0.03)
    shuffled = torch.stack([mu[torch.randperm(2000), d] for d in range(3)], 1)
    independent = parts(shuffled, noise, samples=2)
    assert independent.total_correlation[0] == pytest.approx(0, abs=0.03)
    assert independent.dimension_wise_kl[0] == pytest.approx(found.dimension_wise_kl[0], abs=0.06)  # same marginals


# -- nulls, bounds and identities -------------------------------------------------------------------------------------


def test_a_posterior_that_ignores_the_image_has_only_a_dimension_wise_kl() -> None:
    mu = torch.tensor([[0.7, -0.2]], dtype=torch.float64).expand(300, 2)
    found = parts(mu, 0.5, samples=200)
    for part in (found.mutual_information, found.total_correlation):
        assert part == pytest.approx((0, 0), abs=1e-12)
    closed = 0.5 * (0.7**2 + 0.2**2 + 2 * (0.25 - 1 - math.log(0.25)))
    assert found.dimension_wise_kl[0] == pytest.approx(closed, abs=4 * found.dimension_wise_kl[1])
    assert found.dimension_wise_kl[1] < 0.01


def test_information_is_at_most_log_n_and_meets_it_where_posteriors_are_apart() -> None:
    for scale in (3.0, 1.0, 0.3, 0.05):
        assert parts(spread(150, 3), scale).mutual_information[0] <= math.log(150) + 1e-9
    apart = parts(100 * torch.arange(300.0).double().view(-1, 1), 0.1)
    assert apart.mutual_information == pytest.approx((math.log(300), 0), abs=1e-9)
    pairs = parts(100 * torch.arange(150.0).double().repeat(2).view(-1, 1), 0.1)  # each image twice
    assert pairs.mutual_information[0] == pytest.approx(math.log(150), abs=1e-9)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("samples", [1, 3])
def test_parts_add_up(samples: int, double: bool) -> None:
    found = parts(spread(400, 5) @ spread(5, 5), 0.3, samples, double=double)
    hole = found.total_correlation[0] + found.dimension_wise_kl[0]
    assert found.rate[0] == pytest.approx(found.mutual_information[0] + found.prior_hole[0], abs=1e-9)
    assert found.prior_hole[0] == pytest.approx(hole, abs=1e-9)


def test_rate_is_that_of_the_trace() -> None:
    images = torch.randint(0, 2, (50, 1, 4, 4), dtype=torch.uint8)
    model = VAE(Spec((1, 4, 4), 2), latent_size=3).eval()
    nn.init.normal_(model.encoder.log_scale.bias)
    nn.init.normal_(model.encoder.mu.weight)
    found = decompose_rate(model, as_batches([images[:30], images[30:]]), samples_per_image=2000)
    kl = model.trace({"image": images.float()}).kl()
    assert found.rate[0] == pytest.approx(kl.mean().item(), rel=0.01)
    assert found.rate[1] == pytest.approx((kl.std() / 50**0.5).item(), rel=0.1)


def test_errors_are_the_spread_over_data_sets() -> None:
    """Only the rate's terms are independent over images; its error is that of its mean over sets of images."""
    found = [parts_of_seed(seed).rate for seed in range(60)]
    means, errors = torch.tensor(found).T
    assert errors.mean().item() == pytest.approx(means.std().item(), rel=0.25)


def parts_of_seed(seed: int) -> Rate:
    model = Channel(0.5).eval()
    torch.manual_seed(seed)
    return decompose_rate(model, as_batches([spread(200, 1).view(-1, 1, 1, 1)]))


# -- the two ways to the same numbers ---------------------------------------------------------------------------------


def test_fast_way_is_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    mu = spread(250, 4) @ spread(4, 4)
    fast = parts(mu, 0.3, 2)
    monkeypatch.setattr(aggregate, "PAIRS", 1000)  # four samples at a time
    monkeypatch.setattr(aggregate, "PAIR_VALUES", 3000)
    for full_rank in ("", "prior", "posterior"):
        again = parts(mu, 0.3, 2, full_rank)
        for value, expected in zip(again[:3], fast[:3], strict=True):
            assert value == pytest.approx(expected, abs=1e-9)
        assert (again[3:] == (None, None)) == bool(full_rank)


def test_single_precision_is_enough() -> None:
    mu = spread(1000, 30)
    mu[:, 10:] *= 0.01
    scale = torch.cat([torch.full((10,), 0.05), torch.full((20,), 1.0)])
    torch.manual_seed(1)
    z = mu.float() + scale * torch.randn(1000, 30)
    narrow = [Independent(Normal(mu.float(), scale.expand(1000, 30)), 1)]
    wide = [Independent(Normal(mu.float().double(), scale.double().expand(1000, 30)), 1)]
    for single, double in zip(
        aggregate._log_aggregate(narrow, z), aggregate._log_aggregate(wide, z.double()), strict=True
    ):
        torch.testing.assert_close(single, double, atol=2e-4, rtol=0)
    by_hand = torch.logsumexp(Normal(wide[0].mean, wide[0].stddev).log_prob(z[:20, None].double()), 1) - math.log(1000)
    torch.testing.assert_close(double[:20], by_hand.sum(1))


def test_only_the_first_images_count() -> None:
    mu, model = spread(300, 1).view(-1, 1, 1, 1), Channel(1e-6).eval()
    for chunks, most, images in ((mu.split(70), 150, 150), (mu.split(70), 70, 70), ([mu], 1000, 300), ([mu], 7, 7)):
        found = decompose_rate(model, as_batches(chunks), max_images=most)
        assert found.mutual_information[0] == pytest.approx(math.log(images), abs=0.05)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda x: decompose_rate(VAE(Spec((1, 2, 2), 16), PointMass, GREY, latent_size=1), as_batches([x])),
            "have a density, got .*Delta",
        ),
        (lambda x: decompose_rate(Channel(1.0), []), "expected at least 1, got 0"),
        (lambda x: decompose_rate(Channel(1.0), as_batches([x]), samples_per_image=0), "samples_per_image"),
        (lambda x: shuffled_distortion(Channel(1.0), as_batches([x[:1, :, :1, :1]])), "expected at least 2, got 1"),
    ],
)
def test_what_has_no_parts_is_refused(call: Callable[[Tensor], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(torch.zeros(3, 1, 2, 2))


# -- units, the decoder, the verdict ----------------------------------------------------------------------------------


def test_active_units_are_those_whose_mean_moves() -> None:
    means = torch.randn(4000, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + torch.tensor([0.0, 5.0, 5.0, 100.0])
    assert active_units(means).tolist() == [True, True, False, False]
    assert active_units(means, threshold=0.1).tolist() == [True, False, False, False]
    assert active_units(torch.tensor([[-0.1], [0.1]]), threshold=0.0101).tolist() == [False]  # a variance of 0.01


@pytest.mark.parametrize("chunk", [1, 7, 10, 100, 1000])
def test_latents_of_another_image_cost_what_they_tell(chunk: int) -> None:
    """With p(x|z) = N(z, 1) and a narrow posterior: half the squared distance to the image before, mod N."""
    x = spread(101, 1, 2.0).view(-1, 1, 1, 1)
    matched, shuffled = shuffled_distortion(Channel(1e-9).eval(), as_batches(x.split(chunk)))
    constant = 0.5 * math.log(2 * math.pi)
    distance = 0.5 * (x - x.roll(1, 0)).square().flatten()
    assert matched == pytest.approx((constant, 0), abs=1e-6)
    assert shuffled[0] == pytest.approx(constant + distance.mean().item(), rel=1e-6)
    deviation = distance - distance.mean()  # each image stands in its own term and in the one behind it
    variance = distance.var() + 2 * (deviation * deviation.roll(1)).mean().clamp_min(0)
    assert shuffled[1] == pytest.approx((variance / 101).sqrt().item(), rel=1e-6)


def test_a_decoder_that_ignores_its_latents_does_not_mind() -> None:
    x = spread(101, 1, 2.0).view(-1, 1, 1, 1)
    matched, shuffled = shuffled_distortion(Channel(0.5, gain=0.0).eval(), as_batches(x.split(20)))
    assert shuffled[0] == pytest.approx(matched[0], rel=1e-9)
    assert matched[1] * (1 - 1e-9) <= shuffled[1] < 1.3 * matched[1]
    images = torch.randint(0, 2, (64, 1, 4, 4), dtype=torch.uint8)
    model = VAE(Spec((1, 4, 4), 2), latent_size=3).eval()
    assert shuffled_distortion(model, [{"image": images}])[0][0] > 0
    nn.init.zeros_(model.likelihood.head.last.weight)
    matched, shuffled = shuffled_distortion(model, [{"image": images}])
    assert shuffled[0] == pytest.approx(matched[0], rel=1e-6)


def test_spare_latents_are_no_collapse() -> None:
    """A model that began as PCA has as many latents as there could be, and uses those that pay."""
    rates, active = torch.tensor([2.0] + 9 * [0.0]), torch.tensor([True] + 9 * [False])
    sentence = diagnose(rates, active, 80.0, 89.0, spare=True)
    assert sentence.startswith("No collapse: 1 of 10 latents carry information")
    assert sentence.endswith("the others are spare.")
    assert diagnose(torch.zeros(2), torch.zeros(2).bool(), 80.0, 80.0, spare=True).startswith("Full collapse")
    assert diagnose(torch.ones(2), torch.ones(2).bool(), 80.0, 89.0, spare=True).endswith("its own.")


@pytest.mark.parametrize(
    ("rates", "active", "cost", "verdict", "holds", "lacks"),
    [
        ([2.0, 3.0], [1, 1], 9.0, "No collapse: 2 of 2 latents", ["5.0 of 5.0 nats", "9.0 nats worse"], ["--model"]),
        ([2.0, 3.0, 0.001], [1, 1, 0], 9.0, "No collapse: 2 of 3", ["5.0 of 5.0 nats"], ["--model"]),
        ([2.0] + 9 * [0.001], [1] + 9 * [0], 9.0, "Partial collapse: 1 of 10", ["latent_size (1)"], ["weaker"]),
        ([2.0, 0.005], [1, 1], 9.0, "Partial collapse: 1 of 2", ["2.0 of 2.0 nats"], []),
        ([1e-3, 1e-3], [0, 0], 0.0, "Full collapse: 0 of 2", ["beta", "free_bits", "weaker decoder"], ["latent_size"]),
        ([2.0, 3.0], [1, 1], 0.01, "Full collapse: 2 of 2", ["as well as its own", "weaker decoder"], []),
    ],
)
def test_diagnosis(
    rates: list[float], active: list[int], cost: float, verdict: str, holds: list[str], lacks: list[str]
) -> None:
    sentence = diagnose(torch.tensor(rates), torch.tensor(active).bool(), 80.0, 80.0 + cost)
    assert sentence.startswith(verdict)
    assert sentence.endswith(".")
    assert all(part in sentence for part in holds), sentence
    assert not any(part in sentence for part in lacks), sentence
