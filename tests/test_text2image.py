"""What a test says of models whose quality is known: a perfect one, a collapsed one, and one that is blind to captions;
and the estimates by themselves, on samples of known densities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from tests.test_diffusion import MEAN, SCALE, Best
from vae_lightning.conditionals import Diffusion, SiteDensity
from vae_lightning.core import Batch, Delta, Draw, ImageTextModel, LatentModel, Shape, Spec, Story
from vae_lightning.data import ImageData
from vae_lightning.data.captioned import Captioned, DigitGrammar
from vae_lightning.data.source import Images, ImageSource, Splits
from vae_lightning.distributions import CosinePath, PredictVelocity, StraightPath
from vae_lightning.measure.context import ModelAndData
from vae_lightning.measure.text2image.chain import Chain
from vae_lightning.measure.text2image.embeddings import prior
from vae_lightning.measure.text2image.images import captions, decoder, distance, neighbours, spread
from vae_lightning.measure.text2image.steps import STEPS, steps
from vae_lightning.measure.text2image.studies import studies
from vae_lightning.metrics.text2image import (
    cosine_to_others,
    matched,
    rank_correlation,
    spread_of_each,
    spread_ratio,
    two_sample,
    wilson_lower_bound,
)
from vae_lightning.models import Frozen, FrozenImageText, UnCLIP
from vae_lightning.report.results import Row, Section

E = 32
GENERATED = 2000


# -- estimates, on known densities -------------------------------------------------------------------------------------


def gaussians(count: int, scale: float, captions: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """N(mu_c, scale^2 I) in 5 dimensions, and the captions."""
    generator = torch.Generator().manual_seed(seed)
    caption = torch.randint(captions, (count,), generator=generator)
    mean = 3 * torch.randn(captions, 5, generator=torch.Generator().manual_seed(9))
    return mean[caption] + scale * torch.randn(count, 5, generator=generator), caption


def again(caption: Tensor, scale: float, seed: int) -> Tensor:
    mean = 3 * torch.randn(8, 5, generator=torch.Generator().manual_seed(9))
    return mean[caption] + scale * torch.randn(len(caption), 5, generator=torch.Generator().manual_seed(seed))


def test_spread_is_the_ratio_of_the_standard_deviations_within_captions() -> None:
    real, caption = gaussians(4000, 1.0)
    value, error = spread_ratio(again(caption, 0.7, 1), real, caption)
    assert abs(value - 0.7) < 4 * error
    assert 0 < error < 0.02
    each = spread_of_each(again(caption, 0.7, 1), real, caption, 100)
    assert len(each) == 8
    assert ((each[:, 0] - 0.7).abs() < 5 * each[:, 1]).all()
    assert len(spread_of_each(real, real, caption, 4000)) == 0
    assert spread_ratio(real, real, caption)[0] == 1
    collapsed = torch.zeros_like(real)
    assert spread_ratio(collapsed, real, caption) == (0, 0)
    assert math.isnan(spread_ratio(real, collapsed, caption)[0])


def test_the_error_of_a_spread_is_that_of_repeated_draws() -> None:
    caption = gaussians(400, 1.0)[1]
    found = [spread_ratio(again(caption, 0.8, 2 * i), again(caption, 1.0, 2 * i + 1), caption) for i in range(200)]
    values = torch.tensor(found)
    assert values[:, 0].std().item() == pytest.approx(values[:, 1].mean().item(), rel=0.2)
    assert values[:, 0].mean().item() == pytest.approx(0.8, abs=0.005)


def test_pairs_of_rows_have_no_bias() -> None:
    """Two rows a caption: the variance is unbiased, too."""
    rows = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    value, error = spread_ratio(rows, 2 * rows.roll(1, 0), torch.arange(20_000) // 2)
    assert abs(value - 0.5) < 4 * error


def test_wilsons_bound_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for hits, count in ((0, 10), (3, 10), (10, 10), (985, 1000)):
        right = torch.arange(count) < hits
        known = stats.binomtest(hits, count).proportion_ci(0.95, "wilson").low
        assert wilson_lower_bound(right) == pytest.approx(known, abs=1e-6)


def test_thirds_bound_the_rank_correlation() -> None:
    measured = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    thirds = torch.bucketize(measured, torch.quantile(measured, torch.tensor([1 / 3, 2 / 3])))
    assert rank_correlation(thirds, measured).value == pytest.approx(math.sqrt(8 / 9), abs=1e-3)
    value, error = rank_correlation(thirds[torch.randperm(3000)], measured)
    assert abs(value) < 4 * error


def test_cosines_to_others_are_those_of_all_pairs() -> None:
    a, caption = gaussians(60, 1.0, captions=7)
    real, _ = gaussians(60, 1.0, seed=3)
    cosines = F.normalize(a.double(), dim=1) @ F.normalize(real.double(), dim=1).T
    same = caption[:, None] == caption
    torch.testing.assert_close(cosine_to_others(a, real, caption, own=False), (cosines * same).sum(1) / same.sum(1))
    others = same & ~torch.eye(60, dtype=torch.bool)
    own = F.normalize(real.double(), dim=1)
    expected = ((own @ own.T) * others).sum(1) / others.sum(1)
    torch.testing.assert_close(cosine_to_others(real, real, caption, own=True), expected)


def test_matched_rows_share_their_caption_and_none_comes_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(12, (300,), generator=generator), torch.randint(2, 10, (200,), generator=generator)
    of_a, of_b = matched(a, b)
    assert torch.equal(a[of_a], b[of_b])
    assert len(of_a.unique()) == len(of_a)
    assert len(of_b.unique()) == len(of_b)
    assert len(of_a) == sum(min(int((a == c).sum()), int((b == c).sum())) for c in range(12))
    assert len(matched(torch.tensor([1, 2]), torch.tensor([3]))[0]) == 0


def test_two_samples_of_one_density_are_not_told_apart_and_others_are() -> None:
    real, caption = gaussians(4000, 1.0)
    given = F.one_hot(caption, 8)
    value, error = two_sample(again(caption, 1.0, 1), real, given)
    assert abs(value - 0.5) < 4 * error
    assert error == pytest.approx(math.sqrt(0.25 / 4000), rel=0.05)
    assert two_sample(again(caption, 0.6, 1), real, given).value > 0.6  # of equal means: no linear classifier sees it
    assert two_sample(real + 1, real, given).value > 0.7
    shuffled = real[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    assert two_sample(shuffled, real, given).value > 0.6  # of one density, but not given the caption
    with pytest.raises(ValueError, match="expected 20 pairs of rows or more"):
        two_sample(real[:10], real[:10], given[:10])


# -- models whose quality is known -------------------------------------------------------------------------------------


def drawn(count: int, seed: int) -> Images:
    """Digits of scikit-learn's with some noise: as many independent ones as are wanted."""
    digits, generator = load_digits(), torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(digits.images), (count,), generator=generator)
    image = torch.from_numpy(digits.images)[chosen].float()
    noisy = (image + 1.0 * torch.randn(image.shape, generator=generator)).round().clamp(0, 16)
    return Images(noisy.to(torch.uint8)[:, None], torch.from_numpy(digits.target)[chosen].long())


class ManyDigits(ImageSource):
    """Independent training and test images of one density."""

    image_shape, levels, classes = (1, 8, 8), 17, tuple("0123456789")

    def load(self, root: Path, download: bool) -> Splits:
        return Splits(train=drawn(5000, 0), test=drawn(GENERATED, 1))


class Towers(ImageTextModel):
    """Pixels and words, each by a fixed random projection."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("pixels", torch.randn(64, E, generator=generator))
        self.register_buffer("words", torch.randn(vocabulary, E, generator=generator))

    def embed_image(self, image: Tensor) -> Tensor:
        return F.normalize((image.flatten(1) - 5) @ self.pixels, dim=-1)

    def embed_text(self, text: Tensor) -> Tensor:
        return F.normalize(self.words[text].sum(1), dim=-1)

    def inverse_temperature(self) -> Tensor:
        return torch.ones(())


class Pixels(LatentModel):
    """An autoencoder whose latent is the image."""

    def about(self, given: Batch) -> Story:
        q = Delta(given["image"].flatten(1)) if "image" in given else None

        def story(draw: Draw) -> Distribution:
            z = draw("z", Independent(Normal(torch.zeros(64), 1.0), 1), q)
            return Independent(Normal(z.unflatten(-1, (1, 8, 8)), 0.1), 3)

        return story


class Pool(SiteDensity):
    """Draws from real images: for a text any image of its caption, for an embedding the image that has it.

    `text` (P, E) and `embedding` (P, E) of the pool's images, `value` (P, ...) what is drawn of them.
    """

    text: Tensor
    embedding: Tensor
    value: Tensor
    blind = False

    def forward(self, context: Mapping[str, Tensor] | None = None) -> Distribution:
        told = context or {}
        if "embedding" in told:
            chosen = (told["embedding"] @ self.embedding.T).argmax(1)
        elif self.blind:
            chosen = torch.randint(len(self.value), (len(told["text"]),))
        else:
            near = told["text"] @ self.text.T
            same = near >= near.amax(1, keepdim=True) - 1e-5
            chosen = torch.multinomial(same.float(), 1)[:, 0]
        return Delta(self.value[chosen])

    def fit(self, value: Tensor, context: Mapping[str, Tensor]) -> None:
        return


class Made:
    """The data, a pool of other images of the same density, and the judge, once for all tests."""

    def __init__(self) -> None:
        source = Captioned(ManyDigits(), DigitGrammar())
        self.data = ImageData(source, batch_size=64, val_size=500)
        self.data.setup()
        self.spec = self.data.spec
        pool = drawn(12_000, 2)
        self.images = pool.image
        assert pool.label is not None
        self.number = source.grammar.number(pool.label, source.thirds(pool.image))
        self.towers = Towers(self.data.spec.require_text("a test").vocabulary)
        tokens = self.data.splits["test"].captions.meaning_tokens
        self.text = self.towers.embed_text(tokens[self.number])
        train = self.data.splits["train"].captions
        assert train is not None
        self.said = set(train.said())

    def chain(self, folder: Path, which: Tensor | None = None, blind: bool = False) -> Chain:
        """Of a model that knows some of the pool."""
        which = torch.arange(len(self.images)) if which is None else which
        image = self.images[which].float()
        embedding = self.towers.embed_image(image)

        def pool(value: Tensor) -> object:
            def factory(shape: Shape, sizes: Mapping[str, int]) -> Pool:
                made = Pool(shape, sizes)
                made.text, made.embedding, made.value, made.blind = self.text[which], embedding, value, blind
                return made

            return factory

        clip, vae = FrozenImageText.of(self.towers, self.spec), Frozen.of(Pixels(), Spec((1, 8, 8), 17))
        model = UnCLIP(self.spec, clip, vae, pool(embedding), pool(image.flatten(1))).eval()
        chain = Chain(ModelAndData(model, self.data, torch.device("cpu"), folder), model, GENERATED)
        if "judge" in vars(self):
            vars(chain)["judge"] = self.judge
        else:
            self.judge = chain.judge
        return chain

    def one_each(self) -> Tensor:
        """One image of each caption that the judge sees rightly."""
        right = (self.judge(self.images.float()).argmax(1) == self.number // 9).nonzero()[:, 0]
        first = {int(self.number[i]): int(i) for i in right.flip(0)}
        return torch.tensor(list(first.values()))


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def rows(*sections: Section) -> dict[str, Row]:
    return {row.name: row for section in sections for row in section.rows}


def test_a_perfect_model_reaches_its_ceilings(made: Made, tmp_path: Path) -> None:
    chain = made.chain(tmp_path)
    found = rows(captions(chain), spread(chain), prior(chain), distance(chain), neighbours(chain))
    for trait in ("thickness", "slant"):
        for kind in ("chain", "reconstruction", "real"):
            assert found[f"caption_{trait}_{kind}"].mean == 100
        ours, real = found[f"rank_{trait}_chain"], found[f"rank_{trait}_real"]
        assert abs(ours.mean - real.mean) < 0.02
    judge = found["judge_accuracy"]
    assert judge.mean > 95
    assert found["caption_class_real"].mean == judge.mean
    for name in ("caption_class_chain", "caption_all_chain"):
        assert abs(found[name].mean - judge.mean) < 4 * math.hypot(judge.error, found[name].error)
    assert found["caption_class_wilson"].mean < found["caption_class_chain"].mean
    for of in ("seen", "held_out"):
        assert abs(found[f"caption_all_{of}_chain"].mean - found[f"caption_all_{of}_real"].mean) < 4
    for name in ("caption_class_shuffled", "caption_class_strange"):
        assert found[name].mean == pytest.approx(10, abs=5)
    for name in ("pixel_spread_chain", "pixel_spread_reconstructions", "embedding_spread", "embedding_spread_train"):
        assert abs(found[name].mean - 1) < 4 * found[name].error
        assert found[name].error < 0.03
    assert found["pixel_spread_reconstruction"].mean == 1
    assert found["embedding_spread_median"].mean == pytest.approx(1, abs=0.05)
    assert found["embedding_spread_smallest"].mean > 0.8
    for name in ("text", "others"):
        assert abs(found[f"cosine_{name}_gap"].mean) < 4 * found[f"cosine_{name}_gap"].error
    for name in ("two_sample", "two_sample_floor"):
        assert abs(found[name].mean - 50) < 4 * found[name].error
    assert found["chain_frechet_reconstruction"].mean == pytest.approx(0, abs=1e-6)
    assert found["chain_frechet_chain"].mean < 0.2 * found["chain_frechet_text_embedding"].mean
    assert found["nearest_chain"].mean == pytest.approx(found["nearest_real"].mean, abs=0.05)
    assert found["generation_seconds"].mean > 0


def test_the_held_out_order_of_words_asks_for_the_same(made: Made, tmp_path: Path) -> None:
    """Each image gets a sentence of its own caption in the order that no training caption has."""
    chain = made.chain(tmp_path)
    sentences, tokens = chain.captions.sentences, chain.captions.tokens
    assert chain.new_order is not None
    assert tokens is not None
    number = (chain.new_order[:, None] == tokens).all(2).int().argmax(1)
    grammar = chain.source.grammar
    assert len(number.unique()) > 300
    for row, asked in zip(number.tolist(), chain.asked.tolist(), strict=True):
        assert sentences[row] in grammar.sentences(tuple(asked), grammar.new_order)
        assert sentences[row] not in made.said
    assert {"caption_class_new_order", "caption_all_new_order"} <= rows(captions(chain)).keys()


def test_few_held_out_images_are_told_of_and_not_told_apart(made: Made, tmp_path: Path) -> None:
    chain = made.chain(tmp_path)
    few = Chain(chain.tested, chain.model, 200)
    count = int(few.held_out.sum())
    assert 0 < count < 100
    section = prior(few)
    assert "two_sample_held_out" not in rows(section)
    assert any(f"the test looked at {count}" in note for note in section.notes)


def test_a_collapsed_model_is_always_right_and_has_no_spread(made: Made, tmp_path: Path) -> None:
    made.chain(tmp_path)
    chain = made.chain(tmp_path, made.one_each())
    found = rows(captions(chain), spread(chain), prior(chain))
    assert found["caption_all_chain"].mean == 100
    assert found["caption_all_wilson"].mean > 99.5
    for name in ("pixel_spread_chain", "pixel_spread_median", "embedding_spread", "embedding_spread_largest"):
        assert found[name].mean == pytest.approx(0, abs=1e-6)
    assert found["two_sample"].mean > 80


def test_a_model_that_is_blind_to_captions_is_right_by_chance(made: Made, tmp_path: Path) -> None:
    chain = made.chain(tmp_path, blind=True)
    found = rows(captions(chain), prior(chain), spread(chain))
    shuffled = found["caption_class_shuffled"]
    assert abs(found["caption_class_chain"].mean - 10) < 4
    assert abs(found["caption_class_chain"].mean - shuffled.mean) < 4 * math.hypot(shuffled.error, shuffled.error)
    assert found["caption_thickness_chain"].mean == pytest.approx(33, abs=6)
    for trait in ("thickness", "slant"):
        assert abs(found[f"rank_{trait}_chain"].mean) < 0.1
    assert found["pixel_spread_chain"].mean > 1.2
    assert found["cosine_others_gap"].mean < -10 * found["cosine_others_gap"].error
    assert found["two_sample"].mean > 50 + 4 * found["two_sample"].error


def test_a_decoder_that_follows_the_embedding_keeps_its_class(made: Made, tmp_path: Path) -> None:
    found = rows(decoder(made.chain(tmp_path)))
    assert found["swapped_embedding"].mean > 85
    assert found["swapped_text"].mean < 10
    assert found["real_embedding"].mean == found["real_embedding_text"].mean


@pytest.mark.parametrize("path", [CosinePath(), StraightPath()], ids=["cosine", "straight"])
def test_fewer_steps_of_the_best_denoiser_raise_the_cosine_and_take_the_spread(path: Any) -> None:
    text = torch.tensor([[0.5, -1.0, 0.0]]).double().expand(2000, 3)  # in the direction of the mean

    def exact(told: Mapping[str, Tensor]) -> Distribution:
        net = lambda *_: Best(path, PredictVelocity())  # noqa: E731
        return Diffusion((3,), {"text": 3}, net, path=path).double().eval()(told)

    chain: Any = SimpleNamespace(
        text_embedding=text,
        real_embedding=MEAN + SCALE * torch.randn(2000, 3).double(),
        caption=torch.zeros(2000, dtype=torch.int64),
        model=SimpleNamespace(prior=exact),
        tested=SimpleNamespace(device=torch.device("cpu")),
    )
    found = rows(steps(chain))
    cosine, spread_of = (
        [found[f"{name}_{n}_steps"].mean for n in STEPS] for name in ("cosine_text", "embedding_spread")
    )
    assert cosine == sorted(cosine, reverse=True)
    assert spread_of == sorted(spread_of)
    assert spread_of[0] < 0.02  # one step ends in the mean
    assert 0.9 < spread_of[-1] < 1.02


def test_studies_are_of_what_there_is(made: Made, tmp_path: Path) -> None:
    chain = made.chain(tmp_path)
    chain.model.decoder = None
    (only,) = studies(chain.tested, 200)
    assert only.title.startswith("Prior")
    assert studies(ModelAndData(Pixels(), made.data, torch.device("cpu"), tmp_path), 200) == []
