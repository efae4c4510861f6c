"""Text -> embedding -> latent -> image: who is told what, who is trained by what, and what the sites' losses are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals import (
    AutoregressivePrior,
    Diffusion,
    DiscretizedLogisticLikelihood,
    LabelledGaussian,
    SiteDensity,
)
from vae_lightning.core import Batch, FromPrior, Given, ImageTextModel, PosteriorMean, Shape, Spec, TextSpec
from vae_lightning.metrics import SiteEvaluation
from vae_lightning.models import VAE, Frozen, FrozenImageText, UnCLIP
from vae_lightning.models.build import build, record_of
from vae_lightning.nets import PatchDenoiser, PerChannel, ResidualDenoiser
from vae_lightning.objectives import SiteNLL

SPEC = Spec((1, 4, 4), 17, text=TextSpec(9, 5, "{}"))
E, D = 6, 3


class Towers(ImageTextModel):
    """Two linear towers, for tests."""

    def __init__(self, spec: Spec = SPEC) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(16, E), nn.Embedding(9, E)

    def embed_image(self, image: Tensor) -> Tensor:
        return F.normalize(self.image(image.flatten(1) / 16), dim=-1)

    def embed_text(self, text: Tensor) -> Tensor:
        return F.normalize(self.text(text).mean(1), dim=-1)

    def inverse_temperature(self) -> Tensor:
        return torch.ones(())


class Linear(SiteDensity):
    """N(W conditions, 0.5^2), which keeps what it was told and fitted to."""

    def __init__(self, event_shape: Shape, conditions: Mapping[str, int]) -> None:
        super().__init__(event_shape, conditions)
        self.layers = nn.ModuleDict({name: nn.Linear(size, event_shape[0]) for name, size in conditions.items()})
        self.seen: list[Mapping[str, Tensor]] = []
        self.fitted: tuple[Tensor, Mapping[str, Tensor]] | None = None

    def forward(self, context: Mapping[str, Tensor] | None = None) -> Distribution:
        self.seen.append(context or {})
        told = [self.layers[name](value) for name, value in (context or {}).items()]
        loc = sum(told, start=torch.zeros(self.event_shape))
        return Independent(Normal(loc, 0.5), 1)

    def fit(self, value: Tensor, context: Mapping[str, Tensor]) -> None:
        self.fitted = value, dict(context)


def vae(**settings: object) -> VAE:
    return VAE(SPEC, likelihood=DiscretizedLogisticLikelihood, latent_size=D, **settings)


def unclip(prior: type = Linear, decoder: type | None = Linear) -> UnCLIP:
    torch.manual_seed(0)
    return UnCLIP(SPEC, FrozenImageText.of(Towers(), SPEC), Frozen.of(vae(), SPEC), prior, decoder)


def batch(count: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(17, (count, 1, 4, 4), generator=generator).float(),
        "text": torch.randint(3, 9, (count, 5), generator=generator),
    }


def test_sites_have_the_frozen_parts_posteriors() -> None:
    model, given = unclip(), batch()
    trace = model.trace(given, 4)
    assert list(trace.sites) == ["embedding", "z"]
    assert torch.equal(trace.sites["embedding"].z, model.clip.embed_image(given["image"]).expand(4, 5, E))
    of_vae = model.vae.trace(given).sites["z"].q
    torch.testing.assert_close(trace.sites["z"].q.mean, of_vae.mean)
    torch.testing.assert_close(model.vae.model.likelihood(trace.sites["z"].z).mean, trace.px.mean)
    assert trace.log_likelihood().shape == (4, 5)
    assert not trace.has_rate


def test_the_decoder_is_told_the_images_own_embedding_and_the_text() -> None:
    model, given = unclip(), batch()
    model.trace(given)
    (told,) = model.decoder.seen
    assert torch.equal(told["embedding"], model.clip.embed_image(given["image"]))
    assert torch.equal(told["text"], model.clip.embed_text(given["text"]))
    assert list(model.prior.seen[0]) == ["text"]
    model.sample({"text": given["text"]}, 3)
    assert told["embedding"].shape == (5, E)
    assert model.decoder.seen[1]["embedding"].shape == (3, 5, E)


@pytest.mark.parametrize("prior", [Linear, Diffusion, AutoregressivePrior])
@pytest.mark.parametrize("decoder", [Linear, Diffusion, None])
def test_it_draws_with_and_without_text_and_from_a_given_embedding(prior: type, decoder: type | None) -> None:
    model = unclip(prior, decoder).eval()
    text = {"text": batch()["text"]}
    assert model.sample(text, 3).batch_shape == (3, 5)
    assert model.sample(text).batch_shape == (5,)
    assert model.sample({}, 3).batch_shape == (3,)
    embedding = model.clip.embed_image(batch(7)["image"])
    lead = () if decoder is not None else (7,)
    assert model(Given({"embedding": embedding}, FromPrior(lead)), {}).batch_shape == (7,)


@pytest.mark.parametrize("site", ["embedding", "z"])
def test_each_site_trains_its_own_density_and_nothing_that_is_frozen(site: str) -> None:
    model = unclip(Diffusion, Diffusion).train()
    model.init_from_data(batch(50))
    loss = SiteNLL(site)(model, batch(), 0.0)
    loss.value.backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert moved == {"embedding": {"prior"}, "z": {"decoder"}}[site]
    assert not any(part.training for part in (*model.clip.modules(), *model.vae.modules()))
    assert {p.requires_grad for p in model.vae.parameters()} == {False}
    with pytest.raises(ValueError, match="expected a latent of this story, got 'w'"):
        SiteNLL("w").check(model, batch())


def test_the_loss_is_minus_the_exact_log_density() -> None:
    model, given = unclip().double(), {**batch(), "image": batch()["image"].double()}
    e = model.clip.embed_image(given["image"])
    p = Normal(model.prior.layers["text"](model.clip.embed_text(given["text"])), 0.5)
    found = SiteNLL("embedding")(model, given, 0.0)
    torch.testing.assert_close(found.value, -p.log_prob(e).sum(1).mean())
    assert found.logs["nll_embedding"] == found.value
    evaluation = SiteEvaluation(["embedding", "z"])
    evaluation.start(torch.device("cpu"))
    torch.manual_seed(3)
    evaluation.update(model, SPEC, given, "val")
    torch.manual_seed(3)
    nll = SiteNLL("z")(model, given, 0.0).value
    assert evaluation.results()["nll_z"][0] == pytest.approx(nll.item(), rel=1e-5)
    assert evaluation.results()["nll_embedding"][0] == pytest.approx(found.value.item(), rel=1e-5)
    assert evaluation.headline(model, given) == ("nll_z", "min")


def test_a_diffusion_is_trained_by_its_loss_and_measured_by_its_bound() -> None:
    model, given = unclip(Diffusion).eval(), batch(300)
    model.init_from_data(given)
    site = model.trace(given, until="embedding").sites["embedding"]
    with torch.no_grad():
        loss = SiteNLL("embedding")(model, given, 0.0)
    # Untrained it says 0, so that the loss is the mean square of a target of unit variance, summed over the event.
    assert loss.value.item() == pytest.approx(E, rel=0.1)
    assert set(loss.logs) == {"squared_error_embedding"}
    assert site.p.log_prob(site.z).shape == (300,)


def test_densities_are_fitted_to_the_posteriors_in_parts() -> None:
    model, given = unclip(), batch(1203)
    model.init_from_data(given)
    value, context = model.prior.fitted
    torch.testing.assert_close(value, model.clip.embed_image(given["image"]))
    torch.testing.assert_close(context["text"], model.clip.embed_text(given["text"]))
    value, context = model.decoder.fitted
    assert value.shape == (1203, D)
    torch.testing.assert_close(context["embedding"], model.clip.embed_image(given["image"]))
    assert set(context) == {"embedding", "text"}


def test_without_a_vae_the_latent_is_the_image() -> None:
    """Reconstructions are exact, and minus a uniform density's log is what an image of so many levels costs."""
    net = partial(PatchDenoiser, patch=2, width=16, depth=1, heads=2)
    clip = FrozenImageText.of(Towers(), SPEC)
    model = UnCLIP(SPEC, clip, None, Linear, lambda *shapes: Diffusion(*shapes, net=net, standardisation=PerChannel))
    given = batch(200)
    model.init_from_data(given)
    site = model.trace(given).sites["z"]
    assert torch.equal(model.eval()(PosteriorMean(), given).mean, given["image"])
    assert torch.equal(model.trace(given).px.mean, given["image"])
    assert (site.z - given["image"]).abs().max() <= 0.5
    drawn = model.sample({"text": given["text"]}, 2).mean
    assert drawn.shape == (2, 200, 1, 4, 4)
    assert torch.equal(drawn, drawn.round().clamp(0, 16))
    alone = UnCLIP(SPEC, clip, None, Linear, None)
    cost = -alone.trace(given).sites["z"].p.log_prob(site.z)
    torch.testing.assert_close(cost, torch.full((200,), 16 * math.log(17)))


def test_what_does_not_fit_is_refused() -> None:
    clip, other = FrozenImageText.of(Towers(), SPEC), Spec((1, 4, 4), 2, text=SPEC.text)
    with pytest.raises(ValueError, match=r"UnCLIP.vae: expected a run of images of shape .* with 17 levels, got"):
        UnCLIP(SPEC, clip, Frozen.of(vae(), other))
    words = Spec((1, 4, 4), 17, text=TextSpec(8, 5, "{}"))
    with pytest.raises(ValueError, match="expected data whose captions have the tokens that it was trained with"):
        UnCLIP(words, clip, Frozen.of(vae(), SPEC))
    classes = Spec((1, 4, 4), 17, ("a", "b"), SPEC.text)
    labelled = VAE(classes, likelihood=DiscretizedLogisticLikelihood, prior=LabelledGaussian, latent_size=D)
    with pytest.raises(ValueError, match="expected one that is told nothing, got one told labels"):
        UnCLIP(SPEC, clip, Frozen.of(labelled, SPEC))


def test_the_chain_learns_what_the_text_says() -> None:
    """Images of two kinds, named by their text: the sampled embeddings are the kind's own, and spread as those."""
    torch.manual_seed(0)
    towers, small = Towers(), partial(ResidualDenoiser, width=64, depth=2)
    model = UnCLIP(
        SPEC,
        FrozenImageText.of(towers, SPEC),
        Frozen.of(vae(), SPEC),
        lambda *shapes: Diffusion(*shapes, net=small, drop={"text": 0.1}),
        None,
    )
    kinds = torch.rand(2, 1, 4, 4) * 12

    def some(count: int) -> tuple[Batch, Tensor]:
        which = torch.randint(2, (count,))
        image = (kinds[which] + 2.5 * torch.randn(count, 1, 4, 4)).round().clamp(0, 16)
        return {"image": image, "text": torch.full((count, 5), 3) + 4 * which[:, None]}, which

    model.init_from_data(some(2000)[0])
    optimizer = torch.optim.Adam(model.prior.parameters(), lr=3e-3)
    objective = SiteNLL("embedding")
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 600)
        loss = objective(model, some(256)[0], 0.0).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    given, which = some(4000)
    real = model.clip.embed_image(given["image"])
    drawn = model.prior(model.told(given)).sample()
    for kind in (0, 1):
        mine, theirs = drawn[which == kind], real[which == kind]
        assert (mine.mean(0) - theirs.mean(0)).norm() < 0.1 * (
            real[which == 0].mean(0) - real[which == 1].mean(0)
        ).norm()
        assert mine.std(0).norm() / theirs.std(0).norm() == pytest.approx(1, abs=0.1)


# -- from a record, as a checkpoint alone rebuilds it ------------------------------------------------------------------

FLOW = """
class_path: Diffusion
init_args:
  net: {class_path: ResidualDenoiser, init_args: {width: 32, depth: 2}}
  standardisation: {class_path: PrincipalComponents, init_args: {components: 2}}
  path: StraightPath
  prediction: PredictVelocity
  times: {class_path: LogitNormalTimes, init_args: {mean: -0.2}}
  sampler: {steps: 4, heun: false}
  drop: {text: 0.1}
  guidance: 1.5
"""
AUTOREGRESSIVE = "{class_path: AutoregressivePrior, init_args: {components: 3, bins: 8, width: 16, heads: 2, depth: 1}}"
MAP = """
class_path: Diffusion
init_args:
  net: {class_path: PatchDenoiser, init_args: {map_shape: [3, 1, 1], width: 16, depth: 1, heads: 2}}
  standardisation: {class_path: PerChannel, init_args: {channels: 3}}
"""
VAE_OF_RECORD = {"likelihood": "DiscretizedLogisticLikelihood", "latent_size": D}


def record(kind: str, **settings: object) -> dict:
    model = {"class_path": kind, "init_args": settings}
    return {"config": {"model": {"latent_model": model}}, **record_of(SPEC)}


def rebuilt(prior: object, decoder: object) -> UnCLIP:
    parts = {
        "clip": ("FrozenImageText", record("tests.test_unclip.Towers")),
        "vae": ("Frozen", record("VAE", **VAE_OF_RECORD)),
    }
    frozen = {
        name: {"class_path": kind, "init_args": {"run": "gone", "record": json.dumps(said)}}
        for name, (kind, said) in parts.items()
    }
    made = build(record("UnCLIP", **frozen, prior=prior, decoder=decoder))
    assert isinstance(made, UnCLIP)
    return made


@pytest.mark.parametrize("prior", [FLOW, AUTOREGRESSIVE])
@pytest.mark.parametrize("decoder", [FLOW, MAP, "null"])
def test_a_record_rebuilds_the_whole_chain(prior: str, decoder: str) -> None:
    settings = yaml.safe_load(prior), yaml.safe_load(decoder)
    first = rebuilt(*settings)
    with pytest.raises(ValueError, match="expected its weights from the checkpoint that it is a part of"):
        first.trace(batch())
    first.clip.has_weights = first.vae.has_weights = True
    first.init_from_data(batch(50))
    second = rebuilt(*settings)
    second.load_state_dict(first.state_dict())
    drawn = []
    for model in (first.eval(), second.eval()):
        torch.manual_seed(0)
        drawn.append(model.sample({"text": batch()["text"]}, 2).mean)
    assert torch.equal(*drawn)


def test_the_prior_of_an_earlier_run_is_a_part_of_the_next() -> None:
    flow = yaml.safe_load(FLOW)
    first = rebuilt(flow, None)
    clip = {"class_path": "FrozenImageText", "init_args": {"run": "gone"}}
    clip["init_args"]["record"] = json.dumps(record("tests.test_unclip.Towers"))
    of_vae = {"class_path": "Frozen", "init_args": {"run": "gone"}}
    of_vae["init_args"]["record"] = json.dumps(record("VAE", **VAE_OF_RECORD))
    said = json.dumps(record("UnCLIP", clip=clip, vae=of_vae, prior=flow, decoder=None))
    second = rebuilt({"class_path": "FrozenSite", "init_args": {"run": "gone", "record": said}}, flow)
    second.prior.part.load_state_dict(first.prior.state_dict())
    second.prior.has_weights = True
    second.train()
    assert not any(part.training for part in second.prior.modules())
    noise, text = torch.randn(5, E), {"text": torch.randn(5, E)}
    assert torch.equal(second.prior(text).from_noise(noise), first.prior.eval()(text).from_noise(noise))
    with pytest.raises(ValueError, match=r"expected a density of a value of shape \(3,\) given .*, got \(6,\) given"):
        rebuilt(flow, {"class_path": "FrozenSite", "init_args": {"run": "gone", "record": said}})
