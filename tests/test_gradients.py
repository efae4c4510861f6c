"""Estimators of the importance-weighted bound's gradient: equal in expectation, and as noisy as theory says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.gradient_snr import slopes, study
from tests.test_ladder import ladder
from tests.test_linear_gaussian import linear_gaussian
from vae_lightning.core import LatentModel
from vae_lightning.objectives import (
    IWAE,
    DoublyReparameterised,
    GradientEstimator,
    Reparameterised,
    StickingTheLanding,
)


def gradients(model: LatentModel, x: Tensor, gradient: GradientEstimator, k: int, draws: int) -> dict[str, Tensor]:
    """Name -> (draws, *parameter), of batches of one image each, seen many times at once."""
    objective, found = IWAE(k, gradient), []
    for _ in range(draws):
        model.zero_grad()
        objective(model, {"image": x}, 0).value.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def agree(a: Tensor, b: Tensor) -> float:
    """The largest difference of two means in their standard errors."""
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt() + 1e-9
    return ((a.mean(0) - b.mean(0)) / error).abs().max().item()


@pytest.mark.parametrize(
    ("gradient", "k"), [(StickingTheLanding(), 1), (DoublyReparameterised(), 1), (DoublyReparameterised(), 8)]
)
@pytest.mark.parametrize("several", [False, True])
def test_the_expected_gradient_is_the_plain_ones(gradient: GradientEstimator, k: int, several: bool) -> None:
    torch.manual_seed(0)
    if several:
        model, x = ladder(1, untangled=False, shift=0.3, wider=0.3)
    else:
        model, x, _ = linear_gaussian(optimal=False)
    x = x[:1].expand(200, *x.shape[1:])  # the mean over independent draws of an image's gradient
    plain = gradients(model, x, Reparameterised(), k, 60)
    found = gradients(model, x, gradient, k, 60)
    assert plain.keys() == found.keys()
    for name in plain:
        assert agree(plain[name], found[name]) < 4.5, name


def test_sticking_the_landing_has_a_bias_with_several_samples() -> None:
    torch.manual_seed(0)
    model, x, _ = linear_gaussian(optimal=False)
    x = x[:1].expand(200, *x.shape[1:])
    plain, found = (gradients(model, x, it, 8, 60) for it in (Reparameterised(), StickingTheLanding()))
    assert agree(plain["encoder.log_scale.bias"], found["encoder.log_scale.bias"]) > 8
    assert agree(plain["likelihood.head.last.bias"], found["likelihood.head.last.bias"]) < 4.5


@pytest.mark.parametrize("several", [False, True])
def test_no_noise_at_the_exact_posterior(several: bool) -> None:
    if several:
        model, x = ladder()
        encoder = ("q1", "q2", "q3", "log_scale")
    else:
        model, x, _ = linear_gaussian(optimal=True)
        encoder = ("encoder",)
    for gradient in (StickingTheLanding(), DoublyReparameterised()):
        found = gradients(model, x, gradient, 1, 2)
        plain = gradients(model, x, Reparameterised(), 1, 2)
        names = [name for name in found if name.startswith(encoder)]
        assert len(names) >= 4
        assert all(found[name].abs().max() < 1e-9 for name in names)
        assert all(plain[name].abs().max() > 1e-3 for name in names)
        assert all(found[name].abs().max() > 1e-3 for name in found if name not in names)  # p still learns


def test_double_reparameterisation_has_less_noise() -> None:
    model, x, _ = linear_gaussian(optimal=False)
    plain, found = (gradients(model, x[:4], it, 64, 100) for it in (Reparameterised(), DoublyReparameterised()))
    for name in ("encoder.mu.weight", "encoder.mu.bias", "encoder.log_scale.bias"):
        assert found[name].var(0).sum() < plain[name].var(0).sum() / 10, name


def test_the_value_and_what_is_logged_are_the_bound() -> None:
    model, x, _ = linear_gaussian(optimal=False)
    losses = []
    for gradient in (Reparameterised(), StickingTheLanding(), DoublyReparameterised()):
        torch.manual_seed(1)
        loss = IWAE(6, gradient)(model, {"image": x}, 0)
        losses.append((loss.value.item(), loss.logs["iwae"].item(), loss.logs["elbo"].item()))
        assert loss.value.item() == -loss.logs["iwae"].item()
        with torch.no_grad():
            torch.manual_seed(1)
            assert IWAE(6, gradient)(model, {"image": x}, 0).value.item() == pytest.approx(losses[-1][0], rel=1e-12)
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    assert losses[2] == pytest.approx(losses[0], rel=1e-12)


def test_signal_to_noise_over_k() -> None:
    """Of the encoder's gradient it falls as k^-1/2 with IWAE (Rainforth et al. 2018, theorem 1), and rises as k^1/2
    with DReG; of the decoder's it rises with both."""
    torch.manual_seed(0)
    found = study((4, 64), draws=8000)
    slope = slopes(found)
    assert slope["Reparameterised"]["encoder"] == pytest.approx(-0.5, abs=0.2)
    assert slope["DoublyReparameterised"]["encoder"] == pytest.approx(0.5, abs=0.2)
    assert slope["Reparameterised"]["decoder"] == pytest.approx(0.5, abs=0.2)
    assert slope["DoublyReparameterised"]["decoder"] == pytest.approx(0.5, abs=0.2)
