"""A rate that is asked for is reached, a capacity is followed, free bits are those of a number or of a site."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.stories import Ladder
from tests.test_experiment import DIGITS, SHORT, history, same, weights
from tests.test_ladder import SHAPE
from vae_lightning.conditionals import GaussianLikelihood, GaussianPosterior, PointMass
from vae_lightning.core import Objective, Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO, Capacity, Linear, TargetRate

FRAGMENTS = REPOSITORY / "configs" / "objective"


def linear_vae() -> tuple[VAE, dict[str, torch.Tensor]]:
    """A linear VAE and images whose variances differ, so that the rate-distortion curve has every slope."""
    torch.manual_seed(0)
    linear = partial(MLP, hidden=[])
    model = VAE(
        Spec((1, 2, 3), 2),
        encoder=partial(GaussianPosterior, net=linear),
        likelihood=partial(GaussianLikelihood, net=linear, scale=0.1),
        latent_size=6,
    )
    return model, {"image": torch.randn(64, 1, 2, 3) * torch.tensor([[1.0, 0.6, 0.4], [0.3, 0.2, 0.1]])}


def trained(objective: Objective, steps: int = 1000) -> list[dict[str, float]]:
    """What each step logged, of a training with a constant rate."""
    model, batch = linear_vae()
    optimizer, logs = torch.optim.Adam(model.parameters(), lr=0.01, fused=True), []
    for step in range(steps):
        optimizer.zero_grad()
        loss = objective(model, batch, step / steps)
        loss.value.backward()
        optimizer.step()
        objective.observe(loss.statistics)
        logs.append({name: value.item() for name, value in loss.logs.items()})
    return logs


@pytest.mark.parametrize(("rate", "start"), [(5.0, 1.0), (2.0, 0.01)])
def test_the_asked_rate_is_reached(rate: float, start: float) -> None:
    logs = trained(TargetRate(rate, beta=start))[-100:]
    assert sum(it["rate"] for it in logs) / 100 == pytest.approx(rate, rel=0.01)
    assert all(it["elbo"] == pytest.approx(-it["rate"] - it["distortion"], rel=1e-5) for it in logs)
    if rate == 5.0:  # the multiplier is minus the curve's slope: a fixed weight of that size ends there, too
        fixed = trained(ELBO(sum(it["beta"] for it in logs) / 100))[-100:]
        assert sum(it["rate"] for it in fixed) / 100 == pytest.approx(rate, rel=0.03)


def test_the_weight_follows_the_rate_and_stays_within_bounds() -> None:
    model, batch = linear_vae()
    objective = TargetRate(4.0, gain=0.1, proportional=0.5, beta=2.0)
    torch.manual_seed(1)
    loss = objective(model, batch, 0.0)
    logs = {name: value.item() for name, value in loss.logs.items()}
    assert loss.value.item() == pytest.approx(logs["distortion"] + 2.0 * (logs["rate"] - 4.0), rel=1e-5)
    assert objective.beta.item() == pytest.approx(2.0)  # pure: nothing moves without being told
    for rate, integral, mean in ((6.0, 0.05, 0.05), (100.0, 0.15, 0.145), (0.0, 0.05, 0.0305)):
        objective.observe({"rate": torch.tensor(rate)})
        assert objective.beta.log().item() == pytest.approx(torch.tensor(2.0).log().item() + integral + 0.5 * mean)
    for rate, bound in ((50.0, 1e4), (0.0, 1e-4)):
        for _ in range(300):
            objective.observe({"rate": torch.tensor(rate)})
        assert objective.log_beta.exp().item() == pytest.approx(bound, rel=1e-4)


def test_a_capacity_is_followed() -> None:
    logs = trained(Capacity(Linear(until=0.5, start=1.0, end=4.0), weight=100.0))
    for step in (300, 450, 900):
        assert logs[step]["capacity"] == pytest.approx(min(1 + 3 * step / 500, 4.0), rel=1e-5)
        mean = sum(it["rate"] - it["capacity"] for it in logs[step - 20 : step + 20]) / 40
        assert mean == pytest.approx(0, abs=0.1)
    assert logs[-1]["elbo"] == pytest.approx(-logs[-1]["rate"] - logs[-1]["distortion"], rel=1e-5)
    model, batch = linear_vae()
    for capacity, sign in ((1e3, -1), (0.0, 1)):  # below and above
        torch.manual_seed(1)
        loss = Capacity(capacity, weight=7.0)(model, batch, 0.3)
        off = sign * (loss.logs["rate"] - capacity)
        torch.testing.assert_close(loss.value.detach(), loss.logs["distortion"] + 7.0 * off)


def test_free_bits_of_a_site() -> None:
    """A site below them is not punished at all, one above by its own KL, whatever its numbers' shares are."""
    torch.manual_seed(0)
    model = Ladder(Spec(SHAPE, 17)).double()
    batch = {"image": torch.randint(0, 17, (6, *SHAPE)).double()}

    def gradients(objective: ELBO) -> tuple[float, dict[str, torch.Tensor]]:
        torch.manual_seed(1)
        model.zero_grad()
        loss = objective(model, batch, 0.0)
        loss.value.backward()
        return loss.value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    torch.manual_seed(1)
    kl = {name: site.kl().mean().item() for name, site in model.trace(batch).sites.items()}
    between = sorted(kl.values())[1] * 0.999
    distortion, _ = gradients(ELBO(beta=0.0))
    value, found = gradients(ELBO(free_bits_site=between))
    assert value == pytest.approx(distortion + sum(max(it, between) for it in kl.values()), rel=1e-9)
    low = min(kl, key=lambda name: kl[name])
    plain = gradients(ELBO())[1]
    torch.manual_seed(1)
    (own,) = torch.autograd.grad(model.trace(batch).sites[low].kl().mean(), model.log_scale[low])
    torch.testing.assert_close(found[f"log_scale.{low}"], plain[f"log_scale.{low}"] - own)
    assert gradients(ELBO(free_bits_site=1e-9))[0] == pytest.approx(gradients(ELBO())[0], rel=1e-12)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TargetRate(0.0), "expected a rate above 0"),
        (lambda: TargetRate(5.0, beta=-1.0), "beta from 1e-4 to 1e4"),
        (lambda: TargetRate(5.0, num_samples=0), "num_samples of at least 1, got 0"),
        (lambda: Capacity(-1.0), "at least 0, got -1"),
        (lambda: Capacity(1.0, weight=0.0), "Capacity.weight: expected a number above 0"),
        (lambda: ELBO(free_bits_site=-1.0), "at least 0"),
        (lambda: ELBO(free_bits=0.1, free_bits_site=1.0), "set one of them to 0"),
    ],
)
def test_impossible_settings_are_refused(make: Callable, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_point_mass_has_no_rate_to_hold() -> None:
    model = VAE(Spec((1, 2, 3), 17), encoder=PointMass, likelihood=GaussianLikelihood, latent_size=3)
    for objective in (TargetRate(5.0), Capacity(5.0)):
        with pytest.raises(ValueError, match=r"point mass.*choose the encoder GaussianPosterior"):
            objective.check(model, {"image": torch.zeros(2, 1, 2, 3)})


def test_the_multiplier_survives_a_stop(cli: Callable) -> None:
    flags = ["fit", "-c", DIGITS, "-c", FRAGMENTS / "target_rate.yaml", *SHORT, "--model.lr_schedule=null"]
    assert cli(*flags, "--trainer.max_epochs=4", "--run.name=whole").status == 0
    assert cli(*flags, "--trainer.max_epochs=2", "--run.name=parts").status == 0
    middle = weights(Path("runs/digits/parts/checkpoints/last.ckpt"))
    assert abs(middle["objective.log_beta"]) > 0.05
    assert cli("fit", "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=4").status == 0
    whole, parts = (weights(Path(f"runs/digits/{name}/checkpoints/last.ckpt")) for name in ("whole", "parts"))
    assert not torch.equal(whole["objective.log_beta"], middle["objective.log_beta"])
    assert same(whole, parts)
    assert history("runs/digits/whole") == history("runs/digits/parts")
    plain = ["fit", "--ckpt_path=runs/digits/parts", "--model.objective=ELBO", "--trainer.max_epochs=5"]
    done = cli(*plain)  # another objective takes nothing of this one's
    assert done.status == 0, done.err
    assert not any(name.startswith("objective.") for name in weights(Path("runs/digits/parts/checkpoints/last.ckpt")))
    assert cli(*flags, "--ckpt_path=runs/digits/parts", "--trainer.max_epochs=6").status == 0
    began = weights(Path("runs/digits/parts/checkpoints/last.ckpt"))["objective.log_beta"]
    assert abs(began) <= 20 * 0.03  # an epoch's steps of a multiplier that began at 1
