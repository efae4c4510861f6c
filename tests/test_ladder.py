"""Stories of several latents against exact values: a linear-Gaussian ladder of three, and two that are independent."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform

from tests.conftest import REPOSITORY
from tests.stories import Beside, Ladder, TwoLatents
from tests.test_experiment import SHORT, same, weights
from vae_lightning import load_model
from vae_lightning.core import Batch, Draw, Given, PriorMean, Spec, Story
from vae_lightning.metrics import importance, information, log_prob
from vae_lightning.metrics.estimators.annealing import annealed_log_prob
from vae_lightning.metrics.estimators.gap import inference_gap
from vae_lightning.metrics.estimators.joint import Joint
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.metrics.information import decompose_rate
from vae_lightning.objectives import ELBO, IWAE
from vae_lightning.objectives.elbo import kl_per_latent
from vae_lightning.report.results import Results
from vae_lightning.train.pictures import Interpolations

SHAPE = (1, 2, 4)


def ladder(images: int = 40, untangled: bool = True, shift: float = 0.0, wider: float = 0.0) -> tuple[Ladder, Tensor]:
    """A ladder and images of it; its posteriors are exact where it is untangled, unless they are shifted or wider."""
    torch.manual_seed(1)
    model = Ladder(Spec(SHAPE, 17)).double().eval()
    if untangled:
        model.untangle()
    model.match(shift, wider)
    return model, model.truth().image.sample((images,)).view(-1, *SHAPE)


# -- the bounds and log p(x) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("untangled", [True, False])
def test_exact_log_p_is_what_samples_say(untangled: bool) -> None:
    """The mean of p(x|z) over the prior, near enough to the mean image for its samples to reach it."""
    model, _ = ladder(1, untangled)
    image = model.truth().image
    x = image.mean.view(1, *SHAPE)
    with torch.no_grad():
        log_px = model.sample({}, 400_000).log_prob(x)
    weight = (log_px - image.log_prob(image.mean)).exp()
    assert abs(weight.mean() - 1) < 4 * weight.std() / len(weight) ** 0.5 < 0.3


def test_each_weight_of_the_exact_posteriors_is_log_p() -> None:
    model, x = ladder()
    exact = model.truth().log_prob(x)
    trace = model.trace({"image": x}, 50)
    assert list(trace.sites) == ["z3", "z2", "z1"]
    torch.testing.assert_close(trace.log_weight(), exact.expand(50, 40))
    elbo = -ELBO(num_samples=20_000)(model, {"image": x}, 0).value
    assert elbo.item() == pytest.approx(exact.mean().item(), abs=0.05)
    torch.testing.assert_close(log_prob(model, {"image": x}, 1), exact)


@pytest.mark.parametrize("untangled", [True, False])
def test_bounds_are_ordered_and_meet_the_exact_value(untangled: bool) -> None:
    model, x = ladder(20, untangled, shift=0.1, wider=0.1)
    exact, batch = model.truth().log_prob(x), {"image": x}
    with torch.no_grad():
        elbo = -ELBO(num_samples=20_000)(model, batch, 0).value.item()
        log_weight = model.trace(batch, 50_000).log_weight()
        bounds = [(log_weight.view(-1, k, 20).logsumexp(1) - math.log(k)).mean().item() for k in (1, 5, 50, 1000)]
    assert elbo == pytest.approx(bounds[0], abs=0.05)
    assert elbo < bounds[1] < bounds[2] < bounds[3] < exact.mean().item() + 0.002
    assert elbo < exact.mean().item() - 0.2
    found = importance(model, batch, [50_000])
    assert ((found.log_prob[0] - exact) / found.variance([50_000])[0].sqrt()).abs().max() < 4.5
    torch.testing.assert_close(found.log_prob[0], exact, atol=0.15, rtol=0)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_meets_the_exact_value(start: str) -> None:
    model, x = ladder(untangled=False, shift=0.2, wider=-0.2)
    found = annealed_log_prob(model, {"image": x}, 32, temperatures=150, leapfrog_steps=6, start=start)
    z = (found.log_prob - model.truth().log_prob(x)) / found.standard_error
    assert (z.abs() < 1.96).float().mean() >= 0.8
    assert z.abs().max() < 4.5
    assert abs(z.mean()) < 3 / math.sqrt(40) + 0.1
    assert found.standard_error.median() < 0.4


def test_annealing_of_the_exact_posteriors_has_no_error() -> None:
    model, x = ladder()
    found = annealed_log_prob(model, {"image": x}, chains=3, temperatures=5, leapfrog_steps=2)
    torch.testing.assert_close(found.log_prob, model.truth().log_prob(x))


class Flowing(Ladder):
    """With a middle posterior that has samples and densities, but neither a mean nor a standard deviation."""

    def about(self, given: Batch) -> Story:
        story = super().about(given)

        def told(draw: Draw) -> Distribution:
            def drawn(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
                flow = TransformedDistribution(q, [AffineTransform(0.05, 1.1)]) if name == "z2" and q else q
                return draw(name, p, flow)

            return story(drawn)

        return told


def test_a_flow_is_annealed_and_not_refined() -> None:
    model, x = ladder(20)
    flowing = Flowing(Spec(SHAPE, 17)).double().eval()
    flowing.load_state_dict(model.state_dict())
    exact = model.truth().log_prob(x)
    assert (log_prob(flowing, {"image": x}, 1) - exact).abs().min() > 1e-4
    found = annealed_log_prob(flowing, {"image": x}, 32, temperatures=40, leapfrog_steps=5)
    assert ((found.log_prob - exact) / found.standard_error).abs().max() < 4.5
    assert found.standard_error.median() < 0.2
    with pytest.raises(ValueError, match="among diagonal Gaussians, got an encoder's of TransformedDistribution: set"):
        refined(flowing, {"image": x})
    assert decompose_rate(flowing, [{"image": x}])[3:] == (None, None)


def test_a_chain_that_diverges_is_refused_and_no_error() -> None:
    """Also by distributions that check their arguments, as those of this story do."""
    model, x = ladder(4)
    joint, far = Joint(model.float(), {"image": x.float()}), torch.full((1, 4, 9), 1e38)
    Distribution.set_default_validate_args(True)  # torch.compile, where an earlier test ran it, has switched it off
    assert not any(value.isfinite().any() for value in joint.log_densities(10 * far))
    assert Normal(0.0, 1.0)._validate_args
    with pytest.raises(ValueError, match="scale"):
        Normal(0.0, -1.0)


# -- each image's own posterior, and the gap --------------------------------------------------------------------------


def mean_field(model: Ladder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, (B, 9), and scale, (9,), of the diagonal Gaussian with the least KL to p(z|x), and that KL."""
    truth = model.truth()
    precision = torch.linalg.inv(truth.covariance)
    kl = 0.5 * (precision.diag().log().sum() - precision.logdet())
    return x.flatten(1) @ truth.gain.T + truth.offset, precision.diag().rsqrt(), kl


@pytest.mark.parametrize("untangled", [True, False])
def test_refinement_finds_the_best_gaussian_over_all_latents(untangled: bool) -> None:
    model, x = ladder(20, untangled, shift=0.3, wider=-0.3)
    mean, scale, kl = mean_field(model, x)
    assert kl > 0.3
    best = refined(model, {"image": x}, steps=400, step_samples=16)
    torch.testing.assert_close(best.mean, mean, atol=0.15, rtol=0)
    torch.testing.assert_close(best.scale.mean(0), scale, rtol=0.05, atol=0)
    own = best.posteriors(slice(3, 5))
    assert {name: q.mean.shape for name, q in own.items()} == {"z3": (2, 2), "z2": (2, 3), "z1": (2, 4)}
    torch.testing.assert_close(own["z2"].stddev, best.scale[3:5, 2:5])
    exact, ks = model.truth().log_prob(x), [4000]
    found = importance(model, {"image": x}, ks, proposal=best.widened(1.5))
    assert ((found.log_prob[0] - exact) / found.variance(ks)[0].sqrt()).abs().max() < 4.5
    elbo = model.trace({"image": x}, 4000, best.posteriors(slice(None))).log_weight().mean(0)
    torch.testing.assert_close(exact - elbo, kl.expand(20), atol=0.15, rtol=0)


def test_gap_of_a_spoilt_encoder() -> None:
    model, x = ladder(20, untangled=False, shift=0.3, wider=0.2)
    exact, (_, _, kl) = model.truth().log_prob(x), mean_field(model, x)
    gap = inference_gap(model, {"image": x}, exact, num_samples=4000, steps=400)
    with torch.no_grad():
        weight = model.trace({"image": x}, 20_000).log_weight()
    z = (gap.elbo - weight.mean(0)) / (weight.std(0) * math.sqrt(1 / 4000 + 1 / 20_000))
    assert z.abs().max() < 4.5
    assert (weight.mean(0) < exact - kl - 1).all()
    torch.testing.assert_close(gap.elbo + gap.amortisation + gap.approximation, exact)
    torch.testing.assert_close(gap.approximation, kl.expand(20), atol=0.15, rtol=0)
    assert gap.amortisation.min() > 1


def test_an_encoder_that_joins_its_latents_better_than_a_gaussian_loses_nothing() -> None:
    model, x = ladder(20)
    assert mean_field(model, x)[2] > 0.3
    gap = inference_gap(model, {"image": x}, model.truth().log_prob(x), num_samples=1000)
    for part in (gap.amortisation, gap.approximation):
        torch.testing.assert_close(part, torch.zeros_like(part), atol=1e-8, rtol=0)


# -- the parts of the rate --------------------------------------------------------------------------------------------


def test_parts_of_the_rate_are_closed_forms() -> None:
    """Of exact posteriors, whose aggregate is the prior: the rate is the mutual information of image and latents, which
    is that of two Gaussians, and the total correlation the prior's."""
    model, x = ladder(1000)
    truth = model.truth()
    noise = (model.px.scale * 16) ** 2
    information = 0.5 * (truth.image.covariance_matrix.logdet() - 8 * math.log(noise)).item()
    prior = truth.prior.covariance_matrix
    correlation = 0.5 * (prior.diag().log().sum() - prior.logdet()).item()
    assert correlation > 1
    found = decompose_rate(model, [{"image": part} for part in x.split(300)], samples_per_image=2)
    assert found.rate[0] == pytest.approx(information, abs=4 * found.rate[1])
    assert found.mutual_information[0] == pytest.approx(information, abs=0.25)
    assert found.total_correlation[0] == pytest.approx(correlation, abs=0.25)
    assert found.prior_hole[0] == pytest.approx(0, abs=0.25)
    assert found.rate[0] == pytest.approx(found.mutual_information[0] + found.prior_hole[0], abs=1e-9)
    assert found.prior_hole[0] == pytest.approx(found.total_correlation[0] + found.dimension_wise_kl[0], abs=1e-9)


def test_rate_is_that_of_the_trace_and_images_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ladder(30, untangled=False, shift=0.3)
    batches = [{"image": part} for part in x.split(7)]
    with torch.no_grad():
        kl = model.trace({"image": x[:20]}, 2000).kl().mean(0)
    monkeypatch.setattr(information, "MOST_OF_SEVERAL", 20)
    monkeypatch.setattr("vae_lightning.metrics.estimators.aggregate.TOLD_VALUES", 7 * 17 * 100)  # 100 samples at a time
    found = decompose_rate(model, batches, samples_per_image=500)
    assert found.rate[0] == pytest.approx(kl.mean().item(), rel=0.01)
    assert found.rate[1] == pytest.approx((kl.std() / 20**0.5).item(), rel=0.1)
    assert found.mutual_information[0] <= math.log(20) + 1e-9
    assert decompose_rate(model, batches, max_images=1).mutual_information[0] == pytest.approx(0, abs=1e-9)


def test_latents_beside_each_other_have_the_parts_of_one_of_two_dimensions() -> None:
    """Of the same draws: q(z) of a pair of pairs is the same product, told again or not."""
    from tests.test_information import Channel

    x = 1.3 * torch.randn(200, 1, 1, 2).double()
    found = []
    for model in (Beside(gain=1.0, scale=0.5), Channel(0.5, 2).eval()):
        torch.manual_seed(0)
        found.append(decompose_rate(model, [{"image": part} for part in x.split(90)], samples_per_image=20))
    for value, expected in zip(*found, strict=True):
        assert value[0] == pytest.approx(expected[0], abs=4 * expected[1] / 20**0.5 + 0.02)


# -- two faults of old ------------------------------------------------------------------------------------------------


def test_latents_beside_each_other_are_each_drawn_k_times() -> None:
    """Both posteriors depend on the image alone; x ~ N(0, 2) in both dimensions."""
    model, x = Beside(gain=0.3, scale=0.9), 1.4 * torch.randn(10, 1, 1, 2).double()
    exact = Normal(0.0, math.sqrt(2)).log_prob(x).flatten(1).sum(1)
    trace = model.trace({"image": x}, 1000)
    assert [site.z.shape for site in trace.sites.values()] == [(1000, 10, 1)] * 2
    for site in trace.sites.values():
        assert site.z.std(0) == pytest.approx(0.9 * torch.ones(10, 1).numpy(), rel=0.15)
    found = importance(model, {"image": x}, [1000])
    z = (found.log_prob[0] - exact) / found.variance([1000])[0].sqrt()
    assert z.abs().max() < 4
    torch.testing.assert_close(importance(model, {"image": x}, [100_000]).log_prob[0], exact, atol=0.02, rtol=0)
    torch.testing.assert_close(importance(Beside(), {"image": x}, [1]).log_prob[0], exact)


@pytest.mark.parametrize("which", ["two", "three"])
def test_free_bits_are_of_the_mean_over_samples_and_images(which: str) -> None:
    if which == "two":
        torch.manual_seed(3)
        model, x = TwoLatents(Spec(SHAPE, 17)), torch.randint(0, 17, (16, *SHAPE)).float()
    else:
        model, x = ladder(16, untangled=False, shift=0.3)

    def loss(free_bits: float) -> tuple[float, float]:
        """Punished and rate, nats."""
        torch.manual_seed(7)
        found = ELBO(free_bits=free_bits, num_samples=4)(model, {"image": x}, 0)
        return (found.value - found.logs["distortion"]).item(), found.logs["rate"].item()

    torch.manual_seed(7)
    sites = model.trace({"image": x}, 4).sites.values()
    means = [kl_per_latent(site)[..., d].mean().item() for site in sites for d in range(site.z.shape[-1])]
    free = sorted(means)[len(means) // 2]
    by_hand = sum(max(mean, free) for mean in means)
    punished, rate = loss(1e-9)
    assert punished == pytest.approx(rate, rel=1e-5)
    assert rate == pytest.approx(sum(site.kl().mean().item() for site in sites), rel=1e-5)
    assert loss(free)[0] == pytest.approx(by_hand, rel=1e-5)
    assert by_hand > 1.001 * rate


def test_iwae_of_several_latents_is_its_bound() -> None:
    model, x = ladder(10, untangled=False, shift=0.2)
    torch.manual_seed(1)
    loss = IWAE(16)(model, {"image": x}, 0)
    torch.manual_seed(1)
    weight = model.trace({"image": x}, 16).log_weight()
    assert -loss.value.item() == pytest.approx(weight.exp().mean(0).log().mean().item(), rel=1e-9)


# -- through the command line -----------------------------------------------------------------------------------------


def story(name: str) -> list[str]:
    parts = (f"-c={REPOSITORY}/configs/{part}.yaml" for part in ("base", "data/digits", "objective/elbo"))
    return [*parts, *SHORT, f"--model.latent_model=tests.stories.{name}"]


def test_every_study_and_the_codes_of_a_ladder(cli: Callable) -> None:
    assert cli("fit", *story("Ladder"), "--trainer.max_epochs=20", "--model.optimizer.lr=0.01").status == 0
    done = cli("test", "--ckpt_path=runs/default", "--model.evaluation.samples=50", "--model.evaluation.refinement=5")
    assert done.status == 0, done.err
    assert "Left out" not in done.out
    rows = {name: row.mean for name, row in Results.read(Path("runs/default/1")).rows.items()}
    there = {"nll", "checked_nll", "refined_nll", "annealed_nll", "amortisation_gap", "approximation_gap", "copying"}
    there |= {"sampled_rate", "rate_z3", "rate_z2", "rate_z1", "active_units", "shuffled_distortion", "probe_codes"}
    assert there < set(rows)
    assert rows["rate"] > 1
    assert rows["rate_z3"] + rows["rate_z2"] + rows["rate_z1"] == pytest.approx(rows["rate"], rel=0.1)
    assert rows["sampled_rate"] == pytest.approx(rows["rate"], rel=0.15)
    assert rows["sampled_rate"] == pytest.approx(rows["mutual_information"] + rows["prior_hole"], abs=1e-3)
    assert rows["prior_hole"] == pytest.approx(rows["total_correlation"] + rows["dimension_wise_kl"], abs=1e-3)
    assert rows["amortisation_gap"] >= 0
    assert 0 < rows["active_units"] <= 9
    assert "The 3 latents are taken as one, of 360 of 360 test images" in done.out
    trained = load_model("runs/default/1")
    images = torch.from_numpy(np.load(Path("runs/default/1/results.npz"))["nll"])
    exact = -trained.latent_model.double().truth().log_prob(digits().double())
    assert images.mean().item() == pytest.approx(exact.mean().item(), abs=1)
    assert rows["annealed_nll"] == pytest.approx(rows["refined_nll"], abs=0.5)

    assert cli("sample", "--ckpt_path=runs/default", "--num_samples=4", "--output=s.npy").status == 0
    assert np.load("s.npy").shape == (4, 1, 8, 8)
    encoded = cli("encode", "--ckpt_path=runs/default")
    assert encoded.status == 0, encoded.err
    codes = np.load("runs/default/1/codes.npz")
    sizes = {"z3": 2, "z2": 3, "z1": 4}
    assert set(codes) == {f"{name}_{what}" for name in sizes for what in ("mean", "scale")} | {"label"}
    assert all(codes[f"{name}_mean"].shape == (360, size) for name, size in sizes.items())


def digits() -> Tensor:
    """The test split, in its order."""
    from vae_lightning.data import Digits, ImageData

    data = ImageData(Digits(), batch_size=64, val_size=200)
    data.prepare_data()
    data.setup("test")
    return torch.cat(list(data.fixed("test").chunks()))


def test_a_discrete_ladder_is_compressed_and_comes_back(cli: Callable) -> None:
    assert cli("fit", *story("DiscreteLadder"), "--trainer.max_epochs=3").status == 0
    some = digits()[:50].to(torch.uint8).numpy()
    np.save("in.npy", some)
    done = cli("compress", "in.npy", "-o", "out.vlz", "--ckpt_path=runs/default")
    assert done.status == 0, done.err
    assert "round trip ver" in done.out
    assert cli("decompress", "out.vlz", "-o", "back", "--ckpt_path=runs/default").status == 0
    np.testing.assert_array_equal(np.load("back/images.npy"), some)


def test_a_ladder_goes_on_bit_for_bit(cli: Callable) -> None:
    flags = ["fit", *story("Ladder"), "--checkpoint.every_n_epochs=1", "--checkpoint.save_top_k=-1"]
    flags += ["--checkpoint.monitor=null", "--checkpoint.filename={epoch}"]
    assert cli(*flags, "--trainer.max_epochs=4", "--run.name=whole").status == 0
    middle = "--ckpt_path=runs/default/whole/checkpoints/epoch=1.ckpt"
    resumed = cli(*flags, middle, "--trainer.max_epochs=4", "--run.name=parts")
    assert resumed.status == 0, resumed.err
    whole, parts = (weights(Path(f"runs/default/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts"))
    assert same(whole, parts)
    assert not same(whole, weights(Path("runs/default/whole/checkpoints/epoch=1.ckpt")))


def test_codes_are_the_exact_means_of_all_latents() -> None:
    """Not those of latents that hang on a draw of the ones above them."""
    model = Ladder(Spec((1, 2, 3), 17)).double()
    model.untangle()
    model.match()
    x = torch.randint(17, (50, 1, 2, 3)).double()
    codes = model.posteriors({"image": x})
    truth = model.truth()
    wanted = x.flatten(1) @ truth.gain.T + truth.offset
    torch.testing.assert_close(torch.cat([q.mean for q in codes.values()], 1), wanted)
    assert list(codes) == ["z3", "z2", "z1"]


def test_a_way_from_an_image_to_itself_does_not_move() -> None:
    model = Ladder(Spec((1, 8, 8), 17))
    x = torch.randint(17, (2, 1, 8, 8)).float()[[0, 0]]
    rows, columns = Interpolations(columns=5).draw(model, {"image": x})
    middle = rows[1:-1]
    assert columns == 7
    assert torch.equal(middle, middle[:1].expand_as(middle))
    apart = Beside()(Given({"a": torch.linspace(-1, 1, 5)[:, None].double()}, PriorMean((5,))), {}).mean
    torch.testing.assert_close(apart[:, 0, 0], torch.stack((torch.linspace(-1, 1, 5), torch.zeros(5)), 1).double())
