"""Diffusions against closed forms: of Gaussian data the best denoiser, the flow's samples and the bound are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from vae_lightning.conditionals import Diffusion
from vae_lightning.distributions import (
    CosinePath,
    Diffused,
    LogitNormalTimes,
    Path,
    PredictClean,
    Prediction,
    PredictVelocity,
    Sampler,
    StraightPath,
    Times,
    UniformTimes,
)
from vae_lightning.nets import Denoiser, PatchDenoiser, PerChannel, PrincipalComponents, ResidualDenoiser

PATHS = [CosinePath(), StraightPath()]
PREDICTIONS = [PredictClean(), PredictVelocity()]
BOTH = list(product(PATHS, PREDICTIONS))
MEAN, SCALE = torch.tensor([0.5, -1.0, 0.0]).double(), torch.tensor([1.3, 0.6, 0.3]).double()


class Best(Denoiser):
    """What the best denoiser of N(mean, scale^2) says, whose expected x is linear in x_t."""

    def __init__(self, path: Path, prediction: Prediction, mean: Tensor = MEAN, scale: Tensor = SCALE) -> None:
        super().__init__()
        self.path, self.prediction, self.mean, self.scale = path, prediction, mean, scale

    def forward(self, x: Tensor, time: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        mix = self.path.at(time[:, None])
        var = (mix.signal * self.scale) ** 2 + mix.noise**2
        clean = self.mean + mix.signal * self.scale**2 * (x - mix.signal * self.mean) / var
        return self.prediction.target(mix, clean, (x - mix.signal * clean) / mix.noise)


def gaussian(path: Path, prediction: Prediction, steps: int = 20, heun: bool = True) -> Diffused:
    made = Diffusion(
        (3,),
        {},
        net=lambda *_: Best(path, prediction),
        path=path,
        prediction=prediction,
        sampler=Sampler(steps, heun),
    )
    return made.double().eval()()


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "prediction"), BOTH)
def test_what_a_net_should_say_is_read_back(path: Path, prediction: Prediction) -> None:
    time, x, e = torch.rand(50, 1).double(), torch.randn(50, 3).double(), torch.randn(50, 3).double()
    mix = path.at(time)
    found = prediction.read(mix, mix.signal * x + mix.noise * e, prediction.target(mix, x, e))
    torch.testing.assert_close(found, (x, e))
    assert prediction.target(mix, torch.randn(50, 9999).double(), torch.randn(50, 9999).double()).var() == (
        pytest.approx(1, abs=0.02)
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_its_own_rate_and_time(path: Path) -> None:
    time = torch.linspace(0.02, 0.98, 30).double().requires_grad_()
    mix = path.at(time)
    for value, rate in ((mix.signal, mix.signal_rate), (mix.noise, mix.noise_rate)):
        (found,) = torch.autograd.grad(value.sum(), time, retain_graph=True)
        torch.testing.assert_close(found, rate)
    torch.testing.assert_close(path.time_of((mix.signal**2 / mix.noise**2).log()), time)
    assert 0 < path.ends()[0] < 0.01
    assert 0.99 < path.ends()[1] < 1


def test_logit_normal_times_have_the_normals_quantiles() -> None:
    share = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    logit = LogitNormalTimes(0.3, 0.8).of(share).logit()
    assert logit.mean() == pytest.approx(0.3, abs=0.01)
    assert logit.std() == pytest.approx(0.8, abs=0.01)


# -- Gaussian data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "prediction"), BOTH)
def test_samples_of_the_best_denoiser_have_the_datas_moments(path: Path, prediction: Prediction) -> None:
    """The flow of a Gaussian is linear: noise e becomes mean + scale e exactly."""
    p, noise = gaussian(path, prediction), torch.randn(1000, 3).double()
    torch.testing.assert_close(p.from_noise(noise), MEAN + SCALE * noise, rtol=0.015, atol=0.02)
    torch.manual_seed(0)
    drawn = p.sample((40_000,))
    assert (drawn.mean(0) - MEAN).abs().max() < 0.02
    assert (drawn.std(0) / SCALE - 1).abs().max() < 0.02


@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("path", PATHS)
def test_the_error_falls_with_the_steps_as_the_solvers_order_says(path: Path, heun: bool, order: int) -> None:
    noise = torch.randn(200, 3).double()
    best = gaussian(path, PredictVelocity(), 2000).from_noise(noise)
    errors = [
        (gaussian(path, PredictVelocity(), n, heun).from_noise(noise) - best).square().mean().sqrt() for n in (80, 160)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize(("path", "prediction"), BOTH)
def test_inversion_gives_the_noise_back(path: Path, prediction: Prediction) -> None:
    p, noise = gaussian(path, prediction, 50), torch.randn(500, 3).double()
    value = MEAN + SCALE * noise
    torch.testing.assert_close(p.invert(value), noise, rtol=0.01, atol=0.01)
    assert (p.from_noise(p.invert(value)) - value).abs().max() < 0.02


@pytest.mark.parametrize(("path", "prediction"), BOTH)
def test_the_bound_of_the_best_denoiser_is_the_exact_density(path: Path, prediction: Prediction) -> None:
    """Up to the noise of 0.7 % that is taken for none."""
    torch.manual_seed(0)
    value, p = torch.randn(3, 3).double() * SCALE + MEAN, gaussian(path, prediction)
    drawn = p.log_prob(value.expand(60_000, 3, 3))
    exact = Independent(Normal(MEAN, SCALE), 1).log_prob(value)
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - exact).abs() < 4 * error + 0.002).all()
    assert error.max() < 0.04


def test_a_worse_denoiser_has_a_lower_bound() -> None:
    torch.manual_seed(0)
    value, path = torch.randn(20_000, 3).double() * SCALE + MEAN, CosinePath()
    exact = Independent(Normal(MEAN, SCALE), 1).log_prob(value).mean()
    worse = Best(path, PredictVelocity(), MEAN + 0.3, 1.2 * SCALE)
    p = Diffusion((3,), {}, net=lambda *_: worse, path=path).double().eval()()
    assert p.log_prob(value).mean() < exact - 0.1


def test_data_like_the_noise_cost_no_variance() -> None:
    best = Best(CosinePath(), PredictVelocity(), torch.zeros(3).double(), torch.ones(3).double())
    p = Diffusion((3,), {}, net=lambda *_: best).double().eval()()
    value = torch.randn(50, 3).double()
    torch.testing.assert_close(p.log_prob(value), Normal(0, 1).log_prob(value).sum(-1), rtol=0, atol=1e-3)


# -- standardisation ---------------------------------------------------------------------------------------------------


def correlated(count: int) -> tuple[Tensor, MultivariateNormal]:
    factor = torch.tensor([[0.05, 0, 0], [0.02, 0.01, 0], [0.4, 0.1, 0.2]]).double()
    truth = MultivariateNormal(torch.tensor([3.0, -2.0, 0.1]).double(), factor @ factor.T)
    torch.manual_seed(0)
    return truth.sample((count,)), truth


@pytest.mark.parametrize("components", [None, 2])
def test_standardised_gaussian_data_have_their_density_and_their_moments(components: int | None) -> None:
    """Of whatever scale and correlation: the denoiser of N(0, I) is the best one then."""
    data, truth = correlated(200_000)
    one = torch.ones(components or 3).double()
    made = Diffusion(
        (3,),
        {},
        net=lambda *_: Best(CosinePath(), PredictVelocity(), 0 * one, one),
        standardisation=lambda shape: PrincipalComponents(shape, components),
    ).double()
    made.fit(data, {})
    p = made.eval()()
    assert (p.log_prob(data[:500]) - truth.log_prob(data[:500])).abs().max() < 0.1
    drawn = p.sample((100_000,))
    torch.testing.assert_close(drawn.T.cov(), truth.covariance_matrix, rtol=0.05, atol=2e-4)
    torch.testing.assert_close(drawn.mean(0), truth.mean, rtol=0.01, atol=0.01)
    torch.testing.assert_close(p.from_noise(p.invert(data[:100])), data[:100], rtol=0.01, atol=0.01)


def test_principal_components_are_uncorrelated_the_largest_first_and_come_back() -> None:
    data, _ = correlated(5000)
    part = PrincipalComponents((3,), 2).double()
    part.fit(data)
    y, rest = part(data)
    assert (y.shape, rest.shape) == ((5000, 2), (5000, 1))
    torch.testing.assert_close(torch.cat((y, rest), 1).T.cov(), torch.eye(3).double())
    assert part.scale.diff().max() < 0
    torch.testing.assert_close(part.inverse(y, rest), data)
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.cat(part(x)), data[0])
    torch.testing.assert_close(jacobian.slogdet()[1], part.log_det)


def test_channels_are_standardised_and_stay_at_their_places() -> None:
    data = torch.randn(4000, 2, 3, 1).double() * torch.tensor([5.0, 0.2]).double()[:, None, None] + 1
    for values, part in (
        (data, PerChannel((2, 3, 1)).double()),
        (data.flatten(1), PerChannel((6,), channels=2).double()),
    ):
        part.fit(values)
        y, rest = part(values)
        assert rest.shape == (4000, 0)
        assert (y.view(4000, 2, 3).std((0, 2)) - 1).abs().max() < 1e-3
        torch.testing.assert_close(part.inverse(y, rest), values)
        jacobian = torch.autograd.functional.jacobian(lambda x: part(x)[0].flatten(), values[0])  # noqa: B023
        assert jacobian.view(6, 6).count_nonzero() == 6
        torch.testing.assert_close(jacobian.view(6, 6).slogdet()[1], part.log_det)


def test_data_without_spread_in_a_direction_stay_finite() -> None:
    data = torch.randn(100, 3) * torch.tensor([1.0, 0.5, 0.0])
    part = PrincipalComponents((3,))
    part.fit(data)
    assert part(data)[0].isfinite().all()
    assert part.log_det.isfinite()


# -- trained ones ------------------------------------------------------------------------------------------------------

CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
SPREADS = torch.tensor([[0.6, 0.2], [0.25, 0.7], [0.4, 0.4]])


def labelled(count: int) -> tuple[Tensor, Tensor]:
    """Points (N, 2) of three classes, each with a spread of its own, and the classes one-hot."""
    which = torch.randint(3, (count,))
    return CENTRES[which] + SPREADS[which] * torch.randn(count, 2), torch.eye(3)[which]


def trained(path: Path, prediction: Prediction, times: Times, steps: int = 1500) -> Diffusion:
    torch.manual_seed(0)
    made = Diffusion(
        (2,),
        {"class": 3},
        net=lambda *shapes: ResidualDenoiser(*shapes, width=64, depth=2),
        path=path,
        prediction=prediction,
        times=times,
        drop={"class": 0.1},
    )
    made.fit(*as_context(*labelled(10_000)))
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    average = torch.optim.swa_utils.AveragedModel(made, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, 2 * (1 - step / steps))
        value, context = as_context(*labelled(256))
        loss = made(context).loss(value).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(made)
    return average.module.eval()


def as_context(value: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return value, {"class": label}


@pytest.mark.parametrize(
    ("path", "times"),
    [
        pytest.param(CosinePath(), UniformTimes(), id="v", marks=pytest.mark.slow),
        pytest.param(StraightPath(), LogitNormalTimes(), id="flow", marks=pytest.mark.slow),
    ],
)
def test_a_trained_one_has_the_spread_within_each_condition(path: Path, times: Times) -> None:
    made = trained(path, PredictVelocity(), times)
    drawn = made({"class": torch.eye(3)}).sample((20_000,))
    found = drawn.std(0) / SPREADS
    print(f"spread, sampled over true: {found.tolist()}")
    assert (drawn.mean(0) - CENTRES).abs().max() < 0.06
    assert (found - 1).abs().max() < 0.05
    value, label = labelled(20_000)
    which = label.argmax(1)
    exact = Normal(CENTRES[which], SPREADS[which]).log_prob(value).sum(1)
    with torch.no_grad():
        bound = made({"class": label}).log_prob(value)
    print(f"bound {bound.mean():.3f}, exact {exact.mean():.3f}")
    assert exact.mean() - 0.15 < bound.mean() < exact.mean() + 3 * bound.std() / len(bound) ** 0.5
    # Without its condition it is the mixture of all, whose moments are known.
    whole = made().sample((20_000,))
    variance = SPREADS.square().mean(0) + CENTRES.var(0, correction=0)
    assert (whole.std(0) / variance.sqrt() - 1).abs().max() < 0.12


# -- conditions --------------------------------------------------------------------------------------------------------


def small(**settings: object) -> Diffusion:
    torch.manual_seed(0)
    made = Diffusion(
        (4,), {"a": 3, "b": 2}, net=lambda *shapes: ResidualDenoiser(*shapes, width=16, depth=1), **settings
    )
    for parameter in made.net.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


def conditions() -> dict[str, Tensor]:
    return {"a": torch.randn(5, 3), "b": torch.randn(5, 2)}


def test_guidance_of_one_is_none_and_of_zero_knows_no_condition() -> None:
    made, told = small().eval(), conditions()
    noise = made(told).noise()
    plain, without = made(told).from_noise(noise), made().from_noise(noise)
    for guidance, expected in ((1.0 + 1e-12, plain), (0.0, without)):
        made.guidance = guidance
        torch.testing.assert_close(made(told).from_noise(noise), expected, rtol=1e-4, atol=1e-4)
    made.guidance = 3.0
    assert (made(told).from_noise(noise) - plain).abs().max() > 0.05
    torch.manual_seed(0)
    with_guidance = made(told).log_prob(noise)
    torch.manual_seed(0)
    made.guidance = 1.0
    assert torch.equal(made(told).log_prob(noise), with_guidance)


def test_each_condition_is_dropped_as_often_as_it_should_and_in_training_alone() -> None:
    made = small(drop={"a": 0.3})
    told = {"a": torch.randn(20_000, 3), "b": torch.randn(20_000, 2)}
    kept = made.conditions(told)
    dropped = (kept["a"] == made.conditions.missing["a"]).all(1)
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(kept["a"][~dropped], told["a"][~dropped])
    assert torch.equal(kept["b"], told["b"])
    assert torch.equal(made.eval().conditions(told)["a"], told["a"])


def test_noise_on_a_condition_has_its_scale_and_is_added_in_training_alone() -> None:
    made = small(noise={"a": 0.6})
    told = {"a": 5 * torch.randn(20_000, 3) + 1, "b": torch.randn(20_000, 2)}
    made.fit(torch.randn(20_000, 4), told)
    added = made.conditions(told)["a"] - (clean := made.eval().conditions(told))["a"]
    assert added.mean().abs() < 0.01
    assert added.square().mean() == pytest.approx(0.6**2 / 3, rel=0.05)  # of a scale uniform on [0, 0.6]
    assert torch.equal(made.train().conditions(told)["b"], clean["b"])
    with pytest.raises(ValueError, match="noise: expected conditions among a, b, got 'c'"):
        small(noise={"c": 0.1})
    with pytest.raises(ValueError, match=r"noise.a: expected a finite scale of at least 0, got -1"):
        small(noise={"a": -1})


def test_a_dropped_condition_leaves_the_noised_value() -> None:
    """The loss of a net that has no condition at all still hangs on the value."""
    made = small(drop={"a": 1.0, "b": 1.0})
    seen = []
    made.net.register_forward_pre_hook(lambda _, told: seen.append(told))
    value = 100 * torch.randn(5, 4)
    for told in (conditions(), conditions()):
        torch.manual_seed(3)
        made(told).loss(value)
    (x, _, first), (same_x, _, second) = seen
    assert torch.equal(x, same_x)
    assert x.abs().max() > 10
    assert all(torch.equal(first[name], second[name]) for name in "ab")


def test_conditions_are_standardised_by_the_training_data() -> None:
    made, told = small().eval(), {"a": 0.01 * torch.randn(1000, 3) + 4, "b": torch.randn(1000, 2)}
    made.fit(torch.randn(1000, 4), told)
    out = made.conditions(told)
    assert (out["a"].std(0) - 1).abs().max() < 0.01
    assert out["a"].mean(0).abs().max() < 0.01


def test_batch_shapes_are_those_of_the_conditions() -> None:
    made = small().eval()
    assert made().sample((7,)).shape == (7, 4)
    p = made({"a": torch.randn(6, 5, 3), "b": torch.randn(5, 2)})
    assert p.batch_shape == (6, 5)
    assert p.sample((2,)).shape == (2, 6, 5, 4)
    assert p.log_prob(torch.randn(6, 5, 4)).shape == p.loss(torch.randn(6, 5, 4)).shape == (6, 5)
    with pytest.raises(ValueError, match=r"expected a of 3 numbers, b of 2 numbers, got a of shape \(5, 4\)"):
        made({"a": torch.randn(5, 4)})
    with pytest.raises(ValueError, match="expected conditions among a, b, got 'c'"):
        small(drop={"c": 0.1})


# -- maps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event_shape", "map_shape"), [((2, 4, 6), None), ((48,), [2, 4, 6])])
def test_a_patch_denoiser_lets_every_place_see_every_other_and_all_conditions(
    event_shape: tuple[int, ...], map_shape: list[int] | None
) -> None:
    torch.manual_seed(0)
    net = PatchDenoiser(event_shape, {"a": 3}, map_shape, patch=2, width=16, depth=1, heads=2, tokens=2).double()
    torch.nn.init.normal_(net.last.weight)
    x, time, a = torch.randn(1, *event_shape).double(), torch.rand(1).double(), torch.randn(1, 3).double()
    places = torch.autograd.functional.jacobian(lambda x: net(x, time, {"a": a}), x)
    assert (places.reshape(48, 48) != 0).all()
    assert torch.autograd.functional.jacobian(lambda t: net(x, t, {"a": a}), time).flatten().count_nonzero() == 48
    assert (torch.autograd.functional.jacobian(lambda a: net(x, time, {"a": a}), a).reshape(48, 3) != 0).all()


def test_a_patch_denoiser_puts_patches_back_where_they_were() -> None:
    net = PatchDenoiser((2, 4, 6), {}, patch=2, width=8, heads=2)
    net.transformer = torch.nn.Identity()  # type: ignore[assignment]
    torch.nn.init.eye_(net.first.weight)
    torch.nn.init.eye_(net.last.weight)
    for part in (net.first.bias, net.place):
        torch.nn.init.zeros_(part)
    x = torch.randn(3, 2, 4, 6)
    torch.testing.assert_close(net(x, torch.rand(3), {}), x)
    with pytest.raises(ValueError, match=r"PatchDenoiser.patch: expected a side that divides the map's 4x6, got 4"):
        PatchDenoiser((2, 4, 6), {}, patch=4)
    with pytest.raises(ValueError, match=r"expected \(C, h, w\) of 20 numbers, got \(20,\)"):
        PatchDenoiser((20,), {})
