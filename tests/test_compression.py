"""decode(encode(x)) == x bit for bit, and its length is -ELBO, of whole models."""

from __future__ import annotations

import copy
import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Normal

from tests.stories import TwoLatents
from tests.test_codecs import bits
from vae_lightning.compression import (
    Coded,
    Search,
    Settings,
    decode,
    encode,
    latent_codec,
    require_codable,
)
from vae_lightning.conditionals import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    GaussianLikelihood,
    GaussianMixture,
    GaussianPosterior,
    LinkedLogisticLikelihood,
    PointMass,
)
from vae_lightning.core import LatentModel, Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvDecoder, ConvEncoder
from vae_lightning.objectives import ELBO

GREY = [CategoricalLikelihood, DiscretizedLogisticLikelihood, DiscretizedLogisticMixtureLikelihood]
GREY += [LinkedLogisticLikelihood]


def elbo_bits(model: LatentModel, images: Tensor, samples: int = 20) -> float:
    with torch.no_grad():
        x = images.float()
        return sum(bits(model.trace({"image": x}).log_weight()) for _ in range(samples)) / samples


def test_a_learned_prior_is_coded_with(digits: Tensor) -> None:
    torch.manual_seed(0)
    prior = partial(GaussianMixture, components=5)
    model = VAE(Spec((1, 8, 8), 17), likelihood=DiscretizedLogisticLikelihood, prior=prior, latent_size=4).eval()
    with torch.no_grad():
        model.prior.log_scale -= 1
    images = digits[:300]
    coded = encode(model, images)
    assert torch.equal(decode(model, coded, (1, 8, 8)), images)
    assert coded.net_bits == pytest.approx(elbo_bits(model, images), rel=0.005)


def random_images(count: int, shape: tuple[int, ...], levels: int) -> Tensor:
    return torch.randint(0, levels, (count, *shape), dtype=torch.uint8)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(
    ("likelihood", "shape", "levels"),
    [(BernoulliLikelihood, (1, 7, 6), 2), (BernoulliLikelihood, (3, 8, 8), 2)]
    + [(g, s, levels) for g in GREY for s, levels in (((1, 8, 8), 17), ((3, 6, 5), 256), ((1, 1, 1), 4))],
)
def test_decoding_is_the_exact_inverse(likelihood: type, shape: tuple[int, ...], levels: int, conv: bool) -> None:
    encoder, decoder = (ConvEncoder, ConvDecoder) if conv else (MLP, MLP)
    model = VAE(
        Spec(shape, levels),
        encoder=partial(GaussianPosterior, net=encoder),
        likelihood=partial(likelihood, net=decoder),
        latent_size=5,
    )
    require_codable(model, shape, levels)
    for count, settings in ((1, Settings()), (43, Settings(batch_size=10, seed=3))):
        images = random_images(count, shape, levels)
        done: list[int] = []
        coded = encode(model, images, settings, progress=lambda n, _, done=done: done.append(n))
        assert done == np.cumsum(coded.layout).tolist()
        assert max(coded.layout) <= settings.batch_size
        assert sum(coded.layout) == count
        assert coded.words.dtype == np.uint32
        decoded = decode(model, coded, shape)
        assert decoded.dtype == torch.uint8
        assert torch.equal(decoded, images)
    assert model.training  # as it was


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.from_numpy(load_digits().images).to(torch.uint8).unsqueeze(1)


@pytest.fixture(scope="module")
def trained(digits: Tensor) -> VAE:
    torch.manual_seed(0)
    model = VAE(Spec((1, 8, 8), 17), likelihood=DiscretizedLogisticLikelihood, latent_size=6)
    model.init_from_data({"image": digits})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        ELBO()(model, {"image": digits[torch.randint(0, len(digits), (128,))].float()}, 0).value.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def coded_digits(trained: VAE, digits: Tensor) -> Coded:
    return encode(trained, digits)


def test_the_length_is_the_elbo(trained: VAE, digits: Tensor, coded_digits: Coded) -> None:
    assert coded_digits.net_bits == pytest.approx(elbo_bits(trained, digits), rel=5e-3)
    assert coded_digits.initial_bits < 0.005 * coded_digits.gross_bits
    assert coded_digits.gross_bits == 32 * len(coded_digits.words)
    assert torch.equal(decode(trained, coded_digits, (1, 8, 8)), digits)


@pytest.mark.parametrize("value", [0, 1])
def test_the_length_is_the_elbo_for_images_that_the_model_does_not_expect(value: int) -> None:
    """Their bits on the stack are no fair coins: the latents of the next images must not be drawn with them as is."""
    torch.manual_seed(3)
    model, images = VAE(Spec((1, 8, 8), 2), latent_size=4).eval(), torch.full((2000, 1, 8, 8), value, dtype=torch.uint8)
    with torch.no_grad():
        model.likelihood.head.last.weight *= 4  # so that it matters where the latents are
    coded = encode(model, images)
    assert coded.net_bits == pytest.approx(elbo_bits(model, images), rel=0.02)
    assert torch.equal(decode(model, coded, (1, 8, 8)), images)


def test_a_constant_image_of_a_trained_model(trained: VAE) -> None:
    images = torch.full((700, 1, 8, 8), 16, dtype=torch.uint8)
    assert torch.equal(decode(trained, encode(trained, images), (1, 8, 8)), images)


@pytest.mark.parametrize(("exponent", "reach"), [(0, 1), (3, 2), (4, 8), (7, 32), (10, 4)])
def test_any_grid_decodes(trained: VAE, digits: Tensor, exponent: int, reach: int) -> None:
    settings = Settings(exponent, reach)
    codec = latent_codec(Normal(torch.zeros(1), torch.ones(1)), settings.grid)
    assert isinstance(codec, Search)
    assert math.prod(parts for _, parts in codec.decisions) == codec.levels  # none is empty: what is popped is a cell
    assert torch.equal(decode(trained, encode(trained, digits[:40], settings), (1, 8, 8)), digits[:40])


def test_coding_is_reproducible(trained: VAE, digits: Tensor, coded_digits: Coded) -> None:
    again = encode(trained, digits)
    assert again.layout == coded_digits.layout
    np.testing.assert_array_equal(again.words, coded_digits.words)
    other = encode(trained, digits[:50], Settings(seed=1))
    assert not np.array_equal(other.words, encode(trained, digits[:50]).words)


def test_words_that_were_changed_do_not_decode(trained: VAE, digits: Tensor) -> None:
    """Coding is one to one, stack to stack, so that other words end in another stack than the seeded one, but for a
    chance of 2^-initial_bits; a stack that ends too early is found at once."""
    coded = encode(trained, digits[:60])
    generator = np.random.default_rng(0)
    for _ in range(20):
        words = coded.words.copy()
        words[generator.integers(len(words) - 1)] ^= np.uint32(1 << generator.integers(32))
        with pytest.raises(ValueError, match="do not decode"):
            decode(trained, dataclasses.replace(coded, words=words), (1, 8, 8))
    for changed in (
        dataclasses.replace(coded, words=coded.words[len(coded.words) // 2 :]),
        dataclasses.replace(coded, words=coded.words[:-1]),
        dataclasses.replace(coded, layout=coded.layout[:-1]),
        dataclasses.replace(coded, settings=Settings(exponent=7)),
        dataclasses.replace(coded, settings=Settings(seed=5)),
    ):
        with pytest.raises(ValueError, match="do not decode"):
            decode(trained, changed, (1, 8, 8))
    for changed in (dataclasses.replace(coded, layout=(0, 60)), dataclasses.replace(coded, initial_bits=0)):
        with pytest.raises(ValueError, match="as they were coded"):
            decode(trained, changed, (1, 8, 8))
    with pytest.raises(ValueError, match="do not decode"):
        decode(VAE(Spec((1, 8, 8), 17), likelihood=DiscretizedLogisticLikelihood, latent_size=6), coded, (1, 8, 8))


def test_the_order_of_pixels_in_memory_does_not_matter() -> None:
    """An array of (N, H, W, C) seen as (N, C, H, W): convolutions follow the order, and their last bits with it."""
    torch.manual_seed(0)
    encoder = partial(GaussianPosterior, net=partial(ConvEncoder, channels=[8, 16]))
    likelihood = partial(DiscretizedLogisticLikelihood, net=partial(ConvDecoder, channels=[16, 8]))
    model = VAE(Spec((3, 32, 32), 256), encoder, likelihood, latent_size=8).eval()
    images = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    coded = encode(model, images)
    assert torch.equal(decode(model, coded, (3, 32, 32)), images)
    assert coded.words.tolist() == encode(model, images.contiguous()).words.tolist()


def test_weights_of_half_precision_are_refused(digits: Tensor, trained: VAE) -> None:
    half = copy.deepcopy(trained).bfloat16()
    with pytest.raises(ValueError, match=r"weights of float32 or float64, got torch\.bfloat16: give it by"):
        encode(half, digits)
    wide = copy.deepcopy(trained).double()
    assert torch.equal(decode(wide, encode(wide, digits[:50]), (1, 8, 8)), digits[:50])


def test_a_story_of_two_latents(digits: Tensor) -> None:
    torch.manual_seed(2)
    model = TwoLatents(Spec((1, 8, 8), 17)).eval()
    require_codable(model, (1, 8, 8), 17)
    coded = encode(model, digits)
    assert torch.equal(decode(model, coded, (1, 8, 8)), digits)
    assert coded.net_bits == pytest.approx(elbo_bits(model, digits), rel=5e-3)
    assert coded.initial_bits < 0.005 * coded.gross_bits


def test_a_batch_that_the_stack_cannot_pay_for_is_halved(trained: VAE, digits: Tensor, monkeypatch) -> None:
    monkeypatch.setattr("vae_lightning.compression.bits_back.SAFETY", 0.02)
    coded = encode(trained, digits[:300])
    assert torch.equal(decode(trained, coded, (1, 8, 8)), digits[:300])
    assert len(coded.layout) > 2


# -- what is refused --------------------------------------------------------------------------------------------------


def test_models_without_a_code_length_are_refused() -> None:
    gaussian = VAE(Spec((1, 4, 4), 256), likelihood=GaussianLikelihood, latent_size=2)
    with pytest.raises(ValueError, match=r"probability of levels .*got Normal.*no code length"):
        require_codable(gaussian, (1, 4, 4), 256)
    with pytest.raises(ValueError, match="got Normal"):
        encode(gaussian, random_images(3, (1, 4, 4), 256))
    autoencoder = VAE(Spec((1, 4, 4), 2), encoder=PointMass, latent_size=2)
    with pytest.raises(ValueError, match=r"the posterior of the latent 'z': .*got Delta"):
        require_codable(autoencoder, (1, 4, 4), 2)
    binary = VAE(Spec((1, 4, 4), 2), latent_size=2)
    with pytest.raises(ValueError, match=r"256 levels, got one over .* with 2"):
        require_codable(binary, (1, 4, 4), 256)
    with pytest.raises(ValueError, match=r"levels, 0\.\.1, got 3"):
        encode(binary, torch.full((2, 1, 4, 4), 3, dtype=torch.uint8))
    for images in (torch.zeros(2, 1, 4, 4), torch.zeros(0, 1, 4, 4).byte(), torch.zeros(1, 4, 4).byte()):
        with pytest.raises(ValueError, match="expected images"):
            encode(binary, images)


@pytest.mark.parametrize("part", ["encoder.mu.weight", "likelihood.head.last.bias"])
@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, *GREY])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_never_coded(likelihood: type, part: str, value: float) -> None:
    model = VAE(Spec((1, 4, 4), 2), likelihood=likelihood, latent_size=2)
    images = random_images(3, (1, 4, 4), 2)
    coded = encode(model, images)
    model.get_parameter(part).data.view(-1)[0] = value
    with pytest.raises(ValueError, match="finite parameters"):
        encode(model, images)
    with pytest.raises(ValueError, match="finite parameters"):
        require_codable(model, (1, 4, 4), 2)
    with pytest.raises(ValueError, match=r"finite parameters|do not decode"):
        decode(model, coded, (1, 4, 4))


def test_settings_are_validated() -> None:
    for wrong in ({"exponent": -1}, {"reach": 0}, {"batch_size": 0}, {"seed": -1}, {"batch_size": 2.5}, {"seed": True}):
        with pytest.raises(ValueError, match="Settings"):
            Settings(**wrong)
    with pytest.raises(ValueError, match="power of two"):
        Settings(reach=10)
    with pytest.raises(ValueError, match="finer grid"):
        Settings(exponent=20, reach=1024)
