"""The stack, and the codecs of one density: what is popped is what was pushed, and its length is -log p."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Laplace, MixtureSameFamily, Normal

from vae_lightning.compression import (
    Codec,
    Grid,
    Search,
    Settings,
    Stack,
    Table,
    image_codec,
    latent_codec,
    logistic_tails,
    normal_tails,
)
from vae_lightning.compression.draws import PopPosterior
from vae_lightning.compression.stack import StackExhaustedError, seeded
from vae_lightning.distributions import (
    BinaryImage,
    CategoricalLevels,
    DiscretizedLogistic,
    LinkedChannels,
    LinkedMixtures,
)


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
