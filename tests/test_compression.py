"""decode(encode(x)) == x bit for bit, and its length is -ELBO: of one density first, then of whole models."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Laplace, MixtureSameFamily, Normal

from tests.stories import TwoLatents
from vae_lightning.compression import (
    Codec,
    Coded,
    Grid,
    Search,
    Settings,
    Stack,
    Table,
    decode,
    encode,
    image_codec,
    latent_codec,
    logistic_tails,
    normal_tails,
    require_codable,
)
from vae_lightning.compression.draws import PopPosterior
from vae_lightning.compression.stack import StackExhaustedError, seeded
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
from vae_lightning.distributions import (
    BinaryImage,
    CategoricalLevels,
    DiscretizedLogistic,
    LinkedChannels,
    LinkedMixtures,
)
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvDecoder, ConvEncoder
from vae_lightning.objectives import ELBO

GREY = [CategoricalLikelihood, DiscretizedLogisticLikelihood, DiscretizedLogisticMixtureLikelihood]
GREY += [LinkedLogisticLikelihood]


def bits(log_prob: Tensor) -> float:
    return -log_prob.double().sum().item() / math.log(2)


def pushed(codec: Codec, symbols: Tensor, words: int = 8) -> float:
    """Bits that the symbols take on a stack of some words, after they came back from it and left it as it was."""
    stack = Stack(seeded(words, 0))
    before, array = stack.words(), symbols.flatten().numpy().astype(np.int32)
    codec.push(stack, array)
    length = stack.num_bits - 32 * len(before)
    np.testing.assert_array_equal(codec.pop(stack), array)
    np.testing.assert_array_equal(stack.words(), before)
    return length


def elbo_bits(model: LatentModel, images: Tensor, samples: int = 20) -> float:
    with torch.no_grad():
        x = images.float()
        return sum(bits(model.trace({"image": x}).log_weight()) for _ in range(samples)) / samples


# -- the stack --------------------------------------------------------------------------------------------------------


def test_a_stack_is_never_popped_beyond_its_contents() -> None:
    codec = Table(torch.full((100, 2), 0.5))
    stack = Stack(seeded(8, 0))
    codec.pop(stack)
    assert stack.num_bits == 8 * 32 - 96  # 100 bits, in whole words
    other = stack.copy()
    with pytest.raises(StackExhaustedError):
        codec.pop(other)
    assert stack.num_bits == 8 * 32 - 96  # the copy is another one
    for words in (np.zeros(4, np.uint32), np.ones(2, np.uint32), np.ones(4), np.ones((2, 4), np.uint32)):
        with pytest.raises(ValueError, match="the words of a stack"):
            Stack(words)


def test_a_scrambled_stack_is_unscrambled_by_the_same() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        words = generator.integers(1, 2**32, generator.integers(3, 40), dtype=np.uint32)
        words[generator.integers(len(words)) : -1] = 0  # a long run of equal bits
        stack, count = Stack(words), int(generator.integers(1, 60))
        stack.scramble(count)
        assert len(stack.words()) == len(words)
        stack.scramble(count)
        np.testing.assert_array_equal(stack.words(), words)


# -- one density ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 17, 256])
@pytest.mark.parametrize(("loc", "scale"), [(0.4, 0.1), (0.0, 0.5), (1.0, 0.01), (-0.3, 0.05), (0.5, 30.0)])
def test_a_discretized_logistic_costs_its_log_probability(levels: int, loc: float, scale: float) -> None:
    shape = (3, 1, 50, 100)
    d = DiscretizedLogistic(torch.full(shape, loc * (levels - 1)), torch.full(shape, scale * (levels - 1)), levels)
    x = d.sample()
    assert pushed(image_codec(Independent(d, 3)), x) == pytest.approx(bits(d.log_prob(x)), rel=1e-3, abs=64)


def test_other_densities_cost_their_log_probability() -> None:
    torch.manual_seed(1)
    binary = BinaryImage(5 * torch.randn(20, 3, 20, 20))
    logits = Categorical(logits=torch.randn(20, 1, 30, 30, 4))
    logistics = DiscretizedLogistic(256 * torch.rand(20, 1, 30, 30, 4), 20 * torch.rand(20, 1, 30, 30, 4) + 0.02, 256)
    densities = [
        binary,
        Independent(CategoricalLevels(torch.randn(20, 1, 20, 20, 17)), 3),
        Independent(CategoricalLevels(4 * torch.randn(2, 1, 20, 20, 256)), 3),
        Independent(MixtureSameFamily(logits, logistics, False), 3, False),
    ]
    for density in densities:
        x = density.sample()
        assert pushed(image_codec(density), x) == pytest.approx(bits(density.log_prob(x)), rel=1e-3, abs=64)


@pytest.mark.parametrize("levels", [17, 256])
def test_linked_channels_cost_their_log_probability(levels: int) -> None:
    """Each under what those before it hold: told nothing of them, the same images would cost much more."""
    torch.manual_seed(2)
    shape = (12, 3, 16, 16)
    weight = torch.tensor([[0.0, 0.9, -0.5], [0.0, 0.0, 0.8]])[:, :, None, None].expand(12, 2, 3, 16, 16)
    density = LinkedChannels(levels * torch.rand(shape), (0.005 + 0.05 * torch.rand(shape)) * levels, weight, levels)
    x = density.sample()
    length = pushed(image_codec(density), x)
    assert length == pytest.approx(bits(density.log_prob(x)), rel=1e-3, abs=64)
    alone = DiscretizedLogistic(density.loc, density.scale, levels)
    assert length < 0.9 * bits(alone.log_prob(x))


def test_linked_mixtures_cost_their_log_probability() -> None:
    torch.manual_seed(2)
    shape = (6, 3, 16, 16)
    weight = torch.tensor([[0.0, 0.9, -0.5], [0.0, 0.0, 0.8]])[:, :, None, None].expand(6, 2, 3, 16, 16)
    scale = 1 + 10 * torch.rand(*shape, 3)
    density = LinkedMixtures(
        256 * torch.rand(shape), torch.randn(*shape, 3), 60 * torch.randn(*shape, 3), scale, weight, 256
    )
    x = density.sample()
    assert pushed(image_codec(density), x) == pytest.approx(bits(density.log_prob(x)), rel=1e-3, abs=64)


def test_any_level_can_be_coded_however_far_in_a_tail() -> None:
    """Narrower than a level and far from it, where the density is 0 in floating point, in both directions."""
    for levels in (2, 17, 256):
        x = torch.arange(levels).float().repeat(20)
        for loc in (-1e6, -3.0, 0.5 * levels, levels + 3.0, 1e6):
            for scale in (1e-6, 0.02, 1.0, 1e6):
                d = DiscretizedLogistic(torch.full_like(x, loc), torch.full_like(x, scale), levels)
                expected = bits(d.log_prob(x))
                assert pushed(image_codec(d), x) <= (1.001 * expected if math.isfinite(expected) else 1e9) + 64
        logits = torch.full((len(x), levels), -1e4)
        logits[:, 0] = 1e4
        pushed(image_codec(CategoricalLevels(logits)), x)
    pushed(image_codec(BinaryImage(1e4 * torch.randn(8, 1, 9, 9))), torch.randint(0, 2, (8, 1, 9, 9)))


@pytest.mark.parametrize("levels", [17, 256])
def test_an_interval_in_a_tail_keeps_its_relative_precision(levels: int) -> None:
    """A right tail by 1 - cdf alone would have no digits left here."""
    for loc in (-40.0, levels + 40.0):
        d = DiscretizedLogistic(torch.full((500,), loc).double(), torch.tensor(1.5).double(), levels)
        x = torch.arange(500) % levels
        codec = image_codec(d)
        assert isinstance(codec, Search)
        width, count = codec.decisions[0]
        first = codec._parts(np.zeros(500, np.int32), width, count, [p.double() for p in codec.parameters])[0]
        edges = np.clip(np.arange(count + 1) * width, 0, levels)
        mass = d.log_prob(torch.arange(levels).double()[:, None]).exp()[:, 0].numpy()
        expected = np.array([mass[a:b].sum() for a, b in itertools.pairwise(edges)])
        np.testing.assert_allclose(first / first.sum(), expected, rtol=1e-6, atol=1e-200)
        pushed(codec, x)


def test_latents_on_the_grid_cost_the_mass_of_their_cells() -> None:
    torch.manual_seed(0)
    grid = Grid(6, 8)
    loc, log_scale = 3 * torch.randn(2000, 5), torch.empty(2000, 5).uniform_(-3, 1)
    q = Independent(Normal(loc, log_scale.exp()), 1)
    points = grid.points(np.arange(grid.levels, dtype=np.int32), torch.empty(grid.levels))
    assert points[1] - points[0] == 1 / 64
    assert points[0] == -8 + 1 / 128
    assert points[-1] == 8 - 1 / 128
    cell = torch.bucketize(q.sample(), torch.linspace(-8, 8, grid.levels + 1)[1:-1])
    edges = torch.linspace(-8, 8, grid.levels + 1).double()
    edges[0], edges[-1] = -torch.inf, torch.inf
    cdf = scipy.stats.norm(loc.double(), log_scale.double().exp()).cdf
    expected = -np.log2(cdf(edges[cell + 1]) - cdf(edges[cell])).sum()
    assert pushed(latent_codec(q, grid), cell) == pytest.approx(expected, rel=1e-3)
    for extreme in (1e9, 1e-3, 0.0):
        far = Independent(Normal(torch.full((7, 5), -extreme), torch.full((7, 5), math.exp(-7))), 1)
        pushed(latent_codec(far, grid), torch.randint(0, grid.levels, (7, 5)))


def test_latents_under_a_mixture_cost_its_log_probability() -> None:
    """Of the joint density, whose latents are dependent: the component costs nothing in the end. And any cell can be
    coded, also where no component is near."""
    torch.manual_seed(0)
    grid = Grid(8, 8)
    mean, scale = 3 * torch.randn(4, 3), torch.empty(4, 3).uniform_(0.1, 1)
    p = MixtureSameFamily(Categorical(logits=torch.randn(4)), Independent(Normal(mean, scale), 1)).expand((2000,))
    cell = torch.bucketize(p.sample(), torch.linspace(-8, 8, grid.levels + 1)[1:-1])
    z = grid.points(cell.flatten().numpy().astype(np.int32), torch.empty(2000, 3))
    expected = bits(p.log_prob(z)) + 2000 * 3 * 8
    assert pushed(latent_codec(p, grid), cell, 500) == pytest.approx(expected, rel=1e-3)
    weight = Categorical(logits=p.mixture_distribution.logits)
    one = [MixtureSameFamily(weight, Normal(mean[:, i], scale[:, i]).expand((2000, 4))) for i in range(3)]
    alone = sum(bits(p_i.log_prob(z[:, i])) for i, p_i in enumerate(one))
    assert alone + 2000 * 3 * 8 > expected + 1000  # what the latents know of each other
    nowhere = Independent(Normal(torch.full((2, 3), -1e6), 1e-3), 1)
    far = MixtureSameFamily(Categorical(torch.ones(2)), nowhere).expand((7,))
    pushed(latent_codec(far, grid), torch.randint(0, grid.levels, (7, 3)))
    laplace = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Laplace(torch.zeros(2, 3), 1.0), 1))
    with pytest.raises(ValueError, match=r"mixture of Gaussians .* got one of Laplace"):
        latent_codec(laplace.expand((1,)), grid)


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


@pytest.mark.parametrize("words", ["random", "constant"])
def test_popped_latents_follow_the_posterior(words: str) -> None:
    """Whether the stack's bits look random or not."""
    torch.manual_seed(0)
    content = seeded(20_000, 3) if words == "random" else np.full(20_000, 2**31, np.uint32)
    q = Independent(Normal(torch.randn(5000, 4), torch.empty(5000, 4).uniform_(0.1, 1.5)), 1)
    p = Independent(Normal(torch.zeros(4), torch.ones(4)), 1)
    z = PopPosterior(Stack(content), Settings().grid)("z", p, q)
    assert z.shape == (5000, 4)
    assert z.dtype == torch.float32
    noise = ((z - q.mean) / q.stddev).double()
    assert abs(noise.mean().item()) < 5 / math.sqrt(noise.numel())
    assert noise.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / noise.numel()))
    assert scipy.stats.kstest(noise.flatten(), "norm").pvalue > 1e-4


# -- whole models -----------------------------------------------------------------------------------------------------


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


# -- what is registered, and what is refused --------------------------------------------------------------------------


class Lines(Distribution):
    loc = torch.tensor([2.0, 9.0])


def test_a_new_density_needs_one_function() -> None:
    @image_codec.register(Lines)
    def _(density: Lines) -> Codec:
        return Search(17, logistic_tails, density.loc, torch.ones(2))

    @latent_codec.register
    def _(density: Laplace, grid: Grid) -> Codec:
        def tails(edges: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            return Laplace(loc, scale).cdf(edges), Laplace(-loc, scale).cdf(-edges)

        return Search(grid.levels, tails, *grid.in_cells(density.loc, density.scale))

    pushed(image_codec(Lines(validate_args=False)), torch.tensor([3, 8]))
    q = Independent(Laplace(torch.randn(300, 4), torch.rand(300, 4) + 0.1), 1)
    grid = Grid(5, 8)
    cell = ((q.sample() + 8) * 32).floor().clamp(0, grid.levels - 1)
    assert pushed(latent_codec(q, grid), cell) == pytest.approx(
        bits(q.log_prob((cell + 0.5) / 32 - 8)) + 1200 * 5, rel=0.01
    )
    assert normal_tails(torch.zeros(1, 1), torch.zeros(1), torch.ones(1))[0].item() == 0.5


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
