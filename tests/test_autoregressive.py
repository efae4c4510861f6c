"""The autoregressive prior is a density, sampled as it says, and by its cache as without."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from vae_lightning.conditionals import AutoregressivePrior
from vae_lightning.distributions import Bins
from vae_lightning.nets import Transformer


def prior(size: int, components: int | None = None, bins: int = 6) -> AutoregressivePrior:
    """With random weights that say much, fitted to correlated data that are no Gaussian."""
    torch.manual_seed(0)
    made = AutoregressivePrior((size,), {"a": 2}, components, bins, width=16, depth=2, heads=2).double().eval()
    data = torch.randn(4000, size).double().sinh() @ torch.randn(size, size).double() + 1
    made.fit(data, {"a": torch.randn(4000, 2).double()})
    torch.nn.init.normal_(made.logits.weight, std=0.3)
    torch.nn.init.normal_(made.logits.bias, std=0.3)
    return made


def told(*lead: int) -> dict[str, Tensor]:
    return {"a": torch.randn(*lead, 2, generator=torch.Generator().manual_seed(1)).double()}


def grid(made: AutoregressivePrior, number: int, points: int = 40) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points and weights over a component's line, bin for bin, with the tails mapped to (0, 1)."""
    import numpy as np

    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(points))
    share, weights = (nodes + 1) / 2, weights / 2
    edges, (left, right) = made.edges[number], made.tails[number]
    at = [edges[0] + 40 * left * (share - 1), edges[-1] + 40 * right * share]
    of = [40 * left * weights, 40 * right * weights]
    for low, high in pairwise(edges):
        at.append(low + (high - low) * share)
        of.append((high - low) * weights)
    return torch.cat(at), torch.cat(of)


@pytest.mark.parametrize(("size", "components"), [(1, None), (2, None), (2, 1)])
def test_it_integrates_to_one(size: int, components: int | None) -> None:
    made = prior(size, components)
    kept = made.standardisation.inner_shape[0]
    axes = [grid(made, i) for i in range(kept)]
    if kept < size:  # the rest is N(0, 1)
        nodes = torch.linspace(-9, 9, 301).double()
        axes.append((nodes, torch.full((301,), 18 / 300).double()))
    y = torch.cartesian_prod(*(at for at, _ in axes)).reshape(-1, size)
    weight = torch.cartesian_prod(*(of for _, of in axes)).reshape(-1, size).prod(1)
    x = made.standardisation.inverse(y[:, :kept], y[:, kept:])
    with torch.no_grad():
        log_prob = made({"a": told(1)["a"].expand(len(x), 2)}).log_prob(x)
    mass = (log_prob - made.standardisation.log_det).exp() @ weight
    assert mass.item() == pytest.approx(1, abs=1e-6)


def test_samples_follow_the_density() -> None:
    """E over samples of w(x) / p(x) is 1 for any density w, here a Gaussian whose tails are lighter than p's."""
    made = prior(3, 2)
    p = made(told(4))
    torch.manual_seed(0)
    x = p.sample((20_000,))
    y = torch.cat(made.standardisation(x), -1)
    assert y.std(0).isfinite().all()
    w = Normal(0, 0.5).log_prob(y).sum(-1) + made.standardisation.log_det
    ratio = (w - p.log_prob(x)).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert error.max() < 0.12
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()


def test_bins_of_samples_are_as_frequent_as_their_probabilities() -> None:
    made = prior(2)
    p = made(told(1))
    torch.manual_seed(0)
    bins = p.bins.of(made.standardisation(p.sample((40_000,)))[0])[:, 0]
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    expected = p.teach(pairs[:, None]).log_softmax(-1).gather(-1, pairs[:, None, :, None]).sum((-1, -2)).exp()[:, 0]
    assert expected.sum().item() == pytest.approx(1)
    found = torch.bincount(bins[:, 0] * 6 + bins[:, 1], minlength=36) / len(bins)
    assert ((found - expected).abs() < 4.5 * (expected / len(bins)).sqrt() + 1e-4).all()


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
def test_the_loop_with_the_cache_says_what_one_pass_says(lead: tuple[int, ...]) -> None:
    made = prior(7)
    p = made(told(*lead))
    bins = torch.randint(6, (*lead, 7))
    step = p.begin(torch.Size(lead))
    loop = [step(None), *(step(bins[..., i]) for i in range(6))]
    torch.testing.assert_close(torch.stack(loop, -2), p.teach(bins), rtol=0, atol=1e-8)


def test_sampling_with_the_cache_equals_sampling_without(monkeypatch: pytest.MonkeyPatch) -> None:
    made = prior(5)
    torch.manual_seed(2)
    cached = made(told(6)).sample((3,))
    whole, seen = Transformer.forward, []

    def uncached(net: Transformer, x: Tensor, cache: object = None, padding: object = None, prefix: int = 0) -> Tensor:
        if cache is None:
            return whole(net, x)
        cache.keys = [x.new_zeros(1, 1, sum(part.shape[1] for part in (*seen, x)), 1)]  # only its length is asked for
        seen.append(x)
        return whole(net, torch.cat(seen, 1), prefix=1)[:, -x.shape[1] :]

    monkeypatch.setattr(Transformer, "forward", uncached)
    torch.manual_seed(2)
    torch.testing.assert_close(made(told(6)).sample((3,)), cached, rtol=0, atol=1e-5)
    assert len(seen) == 5


def test_a_number_hangs_on_those_before_it_and_on_the_conditions() -> None:
    made = prior(6)
    bins = torch.randint(6, (1, 6))
    base = made(told(1)).teach(bins)
    for i in range(6):
        other = bins.clone()
        other[0, i] = (other[0, i] + 1) % 6
        changed = (made(told(1)).teach(other) != base).any(-1)[0]
        assert changed.tolist() == [j > i for j in range(6)]
    assert (made({"a": told(1)["a"] + 1}).teach(bins) != base).any(-1).all()
    assert (made().teach(bins) != base).any(-1).all()
    with pytest.raises(ValueError, match=r"bins: expected at least 4, got 3"):
        AutoregressivePrior((2,), {}, bins=3)


def test_untrained_it_is_each_components_own_histogram() -> None:
    torch.manual_seed(0)
    made = AutoregressivePrior((3,), {}, bins=10)
    data = torch.randn(5000, 3) @ torch.randn(3, 3)
    made.fit(data, {})
    bins = made().bins.of(made.standardisation(data)[0])
    assert (torch.nn.functional.one_hot(bins).sum(0) - 500).abs().max() <= 1
    truth = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov()).log_prob(data).mean()
    assert truth - 0.3 < made().log_prob(data).mean() < truth


def test_ties_of_the_data_make_no_infinite_density() -> None:
    made = AutoregressivePrior((2,), {}, bins=8)
    data = torch.randint(0, 2, (300, 2)).float()
    made.fit(data, {})
    assert made().log_prob(data).isfinite().all()
    assert (made.edges.diff() > 0).all()


def test_tails_are_exponential() -> None:
    bins = Bins(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5, 3.0]]))
    y = torch.tensor([[-1.0], [0.5], [1.5], [4.0]])
    assert bins.of(y).flatten().tolist() == [0, 1, 2, 3]
    expected = [math.log(2) - 2, 0.0, 0.0, -math.log(3) - 2 / 3]
    torch.testing.assert_close(bins.log_density(y, bins.of(y)).flatten(), torch.tensor(expected))
    torch.manual_seed(0)
    drawn = bins.draw(torch.tensor([0, 3]).repeat(50_000)[:, None]).view(-1, 2)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([-0.5, 5.0]), rtol=0.02, atol=0)
