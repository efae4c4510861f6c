"""Latents that are maps or names, and priors that are told the label late: stories as users write them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    StudentT,
)

from tests.conftest import Generated
from tests.stories import normal
from vae_lightning import TrainedModel
from vae_lightning.core import Batch, Draw, LatentModel, Shape, Spec, Story, centre
from vae_lightning.data import ImageData
from vae_lightning.measure.context import ModelAndData
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.information import decompose_rate
from vae_lightning.objectives import ELBO, IWAE
from vae_lightning.train.pictures import Interpolations, PriorSamples, Reconstructions, Traversals

SPEC = Spec((1, 4, 4), 2, ("a", "b", "c"))


def images(count: int = 6) -> dict[str, Tensor]:
    return {"image": torch.bernoulli(torch.full((count, 1, 4, 4), 0.5)), "label": torch.arange(count) % 3}


class Map(LatentModel):
    """The same twelve latents, in any shape."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.q, self.px = shape, nn.Linear(16, 12), nn.Linear(12, 16)

    def about(self, given: Batch) -> Story:
        of = len(self.shape)
        q = None
        if "image" in given:
            mu = self.q(given["image"].flatten(1)).reshape(-1, *self.shape)
            q = Independent(torch.distributions.Normal(mu, 0.5), of)

        def story(draw: Draw) -> Distribution:
            z = draw("z", Independent(torch.distributions.Normal(torch.zeros(self.shape), 1.0), of), q)
            return pixels(self.px(z.flatten(-of)))

        return story


class Named(LatentModel):
    """c is one of five names, z2 hangs on it: the codes are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.qc, self.qz, self.px = nn.Linear(16, 5), nn.Linear(21, 2), nn.Linear(7, 16)

    def about(self, given: Batch) -> Story:
        x = given["image"].flatten(1) if "image" in given else None

        def story(draw: Draw) -> Distribution:
            q = None if x is None else Independent(Categorical(logits=self.qc(x)[:, None].detach()), 1)
            c = draw("c", Independent(Categorical(logits=torch.zeros(1, 5)), 1), q)
            told = F.one_hot(c[..., 0], 5).float()  # which refuses what is no integer
            q = None
            if x is not None:
                q = normal(self.qz(torch.cat([x.expand(*told.shape[:-1], -1), told], -1)), 0.5)
            z = draw("z", normal(torch.zeros(2), 1.0), q)
            return pixels(self.px(torch.cat([z, told.expand(*z.shape[:-1], -1)], -1)))

        return story


class Late(LatentModel):
    """A second latent whose prior alone is told the label; posteriors are the priors."""

    needs = ("label",)  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(2.0))

    def about(self, given: Batch) -> Story:
        mean = self.step * given["label"][:, None]

        def story(draw: Draw) -> Distribution:
            z1 = draw("z1", normal(torch.zeros(1), 1.0), normal(torch.zeros(len(mean), 1), 1.0))
            p = normal(mean + z1, 1.0)
            return pixels(draw("z2", p, p).expand(*z1.shape[:-1], 16))

        return story


class OneHot(LatentModel):
    """A code of two that says whether the image is white."""

    def __init__(self, kind: type[OneHotCategorical]) -> None:
        super().__init__()
        self.kind, self.q, self.px = kind, nn.Linear(16, 2), nn.Linear(2, 16)

    def about(self, given: Batch) -> Story:
        q = self.kind(logits=self.q(given["image"].flatten(1))) if "image" in given else None
        return lambda draw: pixels(self.px(draw("c", self.kind(logits=torch.zeros(2)), q)))


def pixels(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits.unflatten(-1, (1, 4, 4))), 3)


# -- maps --------------------------------------------------------------------------------------------------------------


def test_free_bits_are_the_same_whatever_shape_the_latents_have() -> None:
    batch, found = images(), []
    for shape in ((12,), (3, 2, 2)):
        torch.manual_seed(0)
        model = Map(shape)
        for several in (1, 4):
            torch.manual_seed(1)
            found.append(ELBO(free_bits=0.5, num_samples=several)(model, batch, 0.0).value.item())
    assert found[:2] == pytest.approx(found[2:])
    with torch.no_grad():
        trace = model.trace(batch)
        kl = torch.distributions.kl_divergence(trace.sites["z"].q.base_dist, trace.sites["z"].p.base_dist)
    punished = kl.mean(0).clamp_min(0.5).sum()
    assert punished > trace.kl().mean() + 0.1  # the floor does something
    torch.manual_seed(1)
    distortion = -model.trace(batch).log_likelihood().mean()
    assert found[2] == pytest.approx((distortion + punished).item(), abs=1e-4)


@torch.no_grad()
def test_pictures_of_maps_go_between_images() -> None:
    batch, model = images(6), Map((3, 2, 2))
    lines = Interpolations(columns=4).draw(model, batch)
    assert lines is not None
    for place, ends in ((1, slice(0, 3)), (-2, slice(3, 6))):
        mean = model.q(batch["image"][ends].flatten(1))
        torch.testing.assert_close(lines[0].unflatten(0, (3, 6))[:, place], pixels(model.px(mean)).mean)
    assert Traversals().draw(model, batch) is None


# -- names -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_codes_stay_integers_in_estimates_pictures_and_decoding() -> None:
    batch, model = {"image": images()["image"]}, Named()
    rate = decompose_rate(model, [batch], samples_per_image=200)
    parts = rate.mutual_information[0] + rate.prior_hole[0]
    assert rate.rate[0] == pytest.approx(parts, abs=1e-3)
    kl = sum(model.trace(batch, 4000).sites[name].kl().mean() for name in ("c", "z"))
    assert rate.rate[0] == pytest.approx(float(kl), abs=0.1)
    assert log_prob(model, batch, 50).isfinite().all()
    trained = TrainedModel(model, SPEC).eval()
    c = torch.tensor([[0], [4], [4]])
    assert trained.decode({"c": c, "z": torch.zeros(3, 2)}).mean.shape == (3, 1, 4, 4)
    for picture in (Traversals(), Interpolations()):
        assert picture.draw(model, batch) is None
    for picture in (Reconstructions(), PriorSamples()):
        assert picture.draw(model, batch) is not None


def test_a_code_without_a_gradient_is_refused_and_a_straight_through_one_learns() -> None:
    torch.manual_seed(0)
    white = torch.arange(64) % 2
    batch = {"image": white.float()[:, None, None, None].expand(64, 1, 4, 4)}
    for objective in (ELBO(), IWAE(2)):
        with pytest.raises(ValueError, match="pass gradients on, got OneHotCategorical at 'c'"):
            objective.check(OneHot(OneHotCategorical), batch)
    model = OneHot(OneHotCategoricalStraightThrough)
    ELBO().check(model, batch)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(600):
        optimizer.zero_grad()
        loss = ELBO()(model, batch, 0.0).value
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-100:]) / 100 < 4 * math.log(2)  # a few bits, where 16 are spent without the code


def test_a_mean_that_is_nan_in_part_is_no_centre() -> None:
    d = Independent(StudentT(torch.tensor([1.0, 3.0]), loc=1.0), 1)
    assert torch.equal(centre(d), torch.ones(2))


# -- labels ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_prior_that_is_told_the_label_late_is_found(tmp_path: Path) -> None:
    data = ImageData(Generated((1, 4, 4), 2, 96), batch_size=16, val_size=16)
    data.setup()
    assert data.spec.classes is not None
    model = Late()
    tested = ModelAndData(model, data, torch.device("cpu"), tmp_path)
    assert tested.prior_knows_labels
    model.step.zero_()
    assert not tested.prior_knows_labels


def test_labels_that_are_none_are_refused_in_a_sentence() -> None:
    trained = TrainedModel(Late(), SPEC).eval()
    for label in (7, torch.tensor(1), "a", [0.5], [[1]], [-1], [3]):
        with pytest.raises(ValueError, match="label: expected"):
            trained.sample(4, label=label)  # type: ignore[arg-type]


@torch.no_grad()
def test_one_label_of_many_latents_gives_each_draws_of_its_own() -> None:
    trained = TrainedModel(Late(), SPEC).eval()
    px = trained.decode({"z1": torch.zeros(50, 1)}, label=torch.tensor([1]))
    assert px.batch_shape == (50,)
    assert px.mean[:, 0, 0, 0].std() > 0.05
