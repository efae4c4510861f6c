"""Discrete latents are compressed exactly, and trained, tested and sampled by the commands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY, generated_flags
from vae_lightning import load_model
from vae_lightning.compression import decode, encode, require_codable
from vae_lightning.compression.codecs import Grid
from vae_lightning.compression.densities import latent_points
from vae_lightning.compression.exactness import probe
from vae_lightning.conditionals import (
    BernoulliLikelihood,
    CodePosterior,
    CodePrior,
    CodeTransformer,
    GaussianPosterior,
    GumbelPosterior,
    LabelledEncoder,
    LabelledGaussian,
    LabelledLikelihood,
    StandardNormal,
    class_distribution,
)
from vae_lightning.core import LatentModel, Spec
from vae_lightning.models import VAE, Frozen, SemiSupervisedVAE, TwoStageVAE
from vae_lightning.nets import FiniteScalarQuantiser

SPEC = Spec((1, 4, 4), 2, ("a", "b", "c"))
FINITE = partial(CodePosterior, quantiser=partial(FiniteScalarQuantiser, [5, 4, 3]))
SMALL = partial(CodeTransformer, width=16, depth=1, heads=2)


@pytest.mark.parametrize(
    ("encoder", "prior"),
    [
        (FINITE, CodePrior),
        (FINITE, SMALL),
        (FINITE, partial(SMALL, labels=True)),
        (partial(GumbelPosterior, classes=6), CodePrior),
    ],
    ids=["independent", "transformer", "labelled", "gumbel"],
)
def test_images_come_back_and_cost_the_bound(encoder: partial, prior: type) -> None:
    torch.manual_seed(0)
    model = VAE(SPEC, encoder, BernoulliLikelihood, prior, 12).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    net, bound = bits_and_bound(model)
    assert net == pytest.approx(bound, rel=0.03 if model.prior.needs or encoder is FINITE else 0.05)
    if encoder is FINITE:  # points bring no bits back, so that their code is exact
        assert net == pytest.approx(bound, abs=40)


def test_the_probe_sees_the_transformer() -> None:
    """Other numbers in it decode other codes, so that such a file must be refused before it is read."""
    torch.manual_seed(0)
    model, cpu = VAE(SPEC, FINITE, BernoulliLikelihood, SMALL, 12).eval(), torch.device("cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    before = probe(model, SPEC.image_shape, 2, [4], cpu)
    assert probe(model, SPEC.image_shape, 2, [4], cpu) == before
    with torch.no_grad():
        next(parameter for parameter in model.prior.parameters() if parameter.ndim == 2).mul_(1.001)
    assert probe(model, SPEC.image_shape, 2, [4], cpu) != before


@pytest.mark.parametrize("prior", [StandardNormal, LabelledGaussian])
@pytest.mark.parametrize("two_stages", [False, True], ids=["M2", "M1 and M2"])
def test_a_class_is_coded_and_told(prior: type, two_stages: bool) -> None:
    """The class is coded as a latent, and what is told it must be told the one that was coded: a likelihood (or p(z|u))
    that hangs on it costs many bits if not."""
    torch.manual_seed(0)
    told = partial(LabelledEncoder, planes=False, encoder=GaussianPosterior)

    def conditional(spec: Spec) -> LatentModel:
        if two_stages:
            return TwoStageVAE(spec, Frozen.of(VAE(spec, latent_size=3).eval(), spec), 2, told, told, prior)
        return VAE(spec, told, partial(LabelledLikelihood, likelihood=BernoulliLikelihood), prior, 2)

    model = SemiSupervisedVAE(SPEC, conditional).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0 if "log_scale" in name else 1.0 if "head" in name else 0.05
            parameter.add_(noise * torch.randn_like(parameter))
    net, bound = bits_and_bound(model, 800)
    assert net == pytest.approx(bound, rel=0.03)


def test_the_latents_of_a_class_are_its_numbers() -> None:
    found = latent_points(class_distribution(torch.zeros(4, 3)), Grid(8, 32), np.array([0, 1, 2, 1], np.int32))
    assert torch.equal(found, torch.tensor([[0], [1], [2], [1]]))


def bits_and_bound(model: LatentModel, count: int = 80) -> tuple[float, float]:
    """Net bits of the code of some images that come back, and their -ELBO in bits."""
    require_codable(model, SPEC.image_shape, 2)
    image = (torch.rand(count, 1, 4, 4) < 0.5).to(torch.uint8)
    others = {"label": torch.arange(count) % 3} if model.needs else {}
    coded = encode(model, image, others=others)
    assert torch.equal(decode(model, coded, SPEC.image_shape, others=others), image)
    with torch.no_grad():
        elbo = (
            sum(model.trace({"image": image.float(), **others}).scores()["elbo"].sum().item() for _ in range(20)) / 20
        )
    return coded.gross_bits - coded.initial_bits, -elbo / math.log(2)


FLAGS = {
    "finite": (["encoder/codes_finite_scalar", "prior/code_transformer"], 16),
    "gumbel": (["encoder/gumbel", "prior/codes"], 20),
    "vector": (["encoder/codes_vector", "prior/code_transformer", "objective/vq"], 16),
}


@pytest.mark.parametrize("kind", FLAGS)
def test_by_the_commands(cli: Callable, kind: str) -> None:
    if kind == "vector":
        pytest.importorskip("vector_quantize_pytorch", reason="pip install 'vae-lightning[vq]'")
    parts, size = FLAGS[kind]
    configs = REPOSITORY / "configs"
    files = [word for part in ("experiment/digits", *parts) for word in ("-c", configs / f"{part}.yaml")]
    small = ["--model.latent_model.prior.width=16", "--model.latent_model.prior.depth=1"]
    done = cli(
        "fit",
        *files,
        *generated_flags((1, 8, 8), 16),
        *(small if "prior/code_transformer" in parts else []),
        f"--model.latent_model.latent_size={size}",
        *("--trainer.max_epochs=2", "--trainer.callbacks=[Progress]", "--run.name=a"),
    )
    assert done.status == 0, done.err
    assert "val/codes_used" in done.out
    run = Path("runs/digits/a")
    assert (
        cli("test", "--ckpt_path", run, "--model.evaluation.studies=false", "--model.evaluation.samples=2").status == 0
    )
    rows = {
        row["name"]: row for part in json.loads((run / "results.json").read_text())["sections"] for row in part["rows"]
    }
    assert 1 <= rows["codes_perplexity"]["mean"] <= rows["codes_used"]["mean"]
    assert ("nll" in rows) == (kind == "gumbel")
    colder = ["--temperature=0.5", "--top_k=5"]
    drawn = cli("sample", "--ckpt_path", run, "--num_samples", 4, *colder)
    if kind == "gumbel":
        assert "expected a model whose prior is a CodeTransformer" in drawn.err
    else:
        assert drawn.status == 0, drawn.err
    images = load_model(str(run)).sample(3).mean.round().clamp(0, 15).to(torch.uint8)
    np.save("images.npy", images.numpy())
    done = cli("compress", "images.npy", "-o", "a.vlz", "--ckpt_path", run)
    assert done.status == 0, done.err
    assert cli("decompress", "a.vlz", "-o", "back", "--ckpt_path", run).status == 0
    assert np.array_equal(np.load("back/images.npy"), images.numpy())
