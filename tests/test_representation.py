"""Probes of codes and scores of out-of-distribution images against scikit-learn, closed forms and repeated draws."""

from __future__ import annotations

import io
import math
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from vae_lightning.core import Spec
from vae_lightning.data import Images
from vae_lightning.images.given import fit_in
from vae_lightning.metrics import representation
from vae_lightning.metrics.anomaly import auroc, complexity, likelihood_ratio
from vae_lightning.metrics.representation import k_nearest, knn_accuracy, label_efficiency, linear_probe

Split = tuple[Tensor, Tensor, Tensor, Tensor]


def digits(classes: int = 10) -> Split:
    data = load_digits(n_class=classes)
    x, y = torch.tensor(data.data).float(), torch.tensor(data.target)
    cut = len(x) * 2 // 3
    return x[:cut], y[:cut], x[cut:], y[cut:]


def noise(train: int = 600, test: int = 2000, classes: int = 4) -> Split:
    """Codes that tell nothing of their labels."""
    labels = [torch.randint(classes, (n,)) for n in (train, test)]
    return torch.randn(train, 5), labels[0], torch.randn(test, 5), labels[1]


def separable() -> Split:
    y = torch.arange(300) % 3
    x = 10 * torch.nn.functional.one_hot(y, 3).float() + torch.randn(300, 3)
    return x[:200], y[:200], x[200:], y[200:]


@pytest.mark.parametrize(
    ("classes", "k"), [(10, 1), (2, 5), (2, 9)]
)  # no ties of votes, which scikit-learn breaks by label
def test_neighbours_vote_as_scikit_learns(classes: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train_x, train_y, test_x, test_y = digits(classes)
    test_x = test_x + 8 * torch.randn_like(test_x)  # hard enough to tell a difference
    oracle = make_pipeline(StandardScaler(), KNeighborsClassifier(k)).fit(train_x, train_y)
    expected = oracle.score(test_x, test_y)
    assert expected < 0.99
    for tile in (len(train_x), 2**24):
        monkeypatch.setattr(representation, "TILE_VALUES", tile)
        found = knn_accuracy(train_x, train_y, test_x, test_y, k)
        assert found.value == pytest.approx(expected, abs=1.5 / len(test_x))  # scikit-learn's own distances round, too
        share = found.value
        assert found.standard_error == pytest.approx(math.sqrt(share * (1 - share) / len(test_x)))


def test_ties_of_votes_go_to_the_nearest() -> None:
    train_x, train_y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([7, 2, 2, 7])
    query = torch.tensor([[0.4], [1.4], [3.5]])
    assert knn_accuracy(train_x, train_y, query, torch.tensor([7, 2, 7]), k=4) == (1, 0)
    assert knn_accuracy(train_x, train_y, query, torch.tensor([7, 2, 2]), k=3).value == pytest.approx(
        2 / 3
    )  # all three are 2


def test_nearest_come_first() -> None:
    found = k_nearest(torch.zeros(1, 1, 2, 2), torch.tensor([3.0, 1.0, 2.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2), 3)
    assert found.indices.tolist() == [[1, 2, 0]]
    assert found.distances.tolist() == [[2, 4, 6]]


def test_linear_probe_is_scikit_learns() -> None:
    train_x, train_y, test_x, test_y = digits()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train_x.double(), train_y)
    expected = pipeline.score(test_x.double(), test_y)
    assert linear_probe(train_x, train_y, test_x, test_y).value == pytest.approx(expected, abs=1.5 / len(test_x))


@pytest.mark.parametrize("measure", [knn_accuracy, linear_probe])
def test_separable_codes_are_told_apart_and_noise_is_not(measure: type) -> None:
    assert measure(*separable()) == (1, 0)
    found = measure(*noise())
    assert abs(found.value - 0.25) < 3.5 * found.standard_error
    assert found.standard_error == pytest.approx(math.sqrt(0.25 * 0.75 / 2000), rel=0.05)


@pytest.mark.parametrize("measure", [knn_accuracy, linear_probe])
def test_scale_and_constants_of_the_codes_do_not_matter(measure: type) -> None:
    train_x, train_y, test_x, test_y = digits()
    plain = measure(train_x, train_y, test_x, test_y)
    scale, offset = 10 ** torch.linspace(-3, 3, 64).double(), torch.linspace(-2, 2, 64).double()
    changed = [torch.nn.functional.pad(x * scale + scale * offset, (0, 3), value=0.1) for x in (train_x, test_x)]
    assert measure(changed[0], train_y, changed[1], test_y).value == pytest.approx(plain.value, abs=1.5 / len(test_x))


def test_label_efficiency_is_balanced_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    train_x, train_y, test_x, test_y = digits()
    train_x, train_y = (
        train_x[train_y.argsort()],
        train_y.sort().values,
    )  # sorted by label: an order that must not matter
    seen: list[tuple[int, list[int]]] = []

    def spy(x: Tensor, y: Tensor, *test: Tensor) -> representation.Accuracy:
        seen.append((len(y), y.bincount(minlength=10).tolist()))
        return linear_probe(x, y, *test)

    monkeypatch.setattr(representation, "linear_probe", spy)
    found = label_efficiency(train_x, train_y, test_x, test_y, labels=(10, 105, 1000), seed=1)
    assert [size for size, _ in seen] == [10, 105, 1000] * 3
    assert all(max(counts) - min(counts) <= 1 for _, counts in seen)
    full = linear_probe(train_x, train_y, test_x, test_y).value
    assert 0.4 < found[10].value < found[105].value < found[1000].value
    assert found[1000].value == pytest.approx(full, abs=0.02)
    assert found == label_efficiency(train_x, train_y, test_x, test_y, labels=(10, 105, 1000), seed=1)
    assert found[10] != label_efficiency(train_x, train_y, test_x, test_y, labels=(10,), seed=2)[10]


def test_label_efficiency_joins_both_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.6, 0.7])
    monkeypatch.setattr(representation, "linear_probe", lambda *_: representation.Accuracy(next(values), 0.0))
    found = label_efficiency(*noise(test=400), labels=(40,))[40]
    assert found.value == pytest.approx(0.6)
    assert found.standard_error == pytest.approx(math.sqrt(0.1**2 / 3 + 0.6 * 0.4 / 400))


def test_codes_without_sense_are_refused() -> None:
    train_x, train_y, test_x, test_y = noise()
    for measure in (knn_accuracy, linear_probe, label_efficiency):
        with pytest.raises(ValueError, match=rf"{measure.__name__}.*got \(600, 5\), \(600,\), \(2000, 4\), \(2000,\)"):
            measure(train_x, train_y, test_x[:, 1:], test_y)
    with pytest.raises(ValueError, match="k from 1 to 600, the training codes, got 601"):
        knn_accuracy(train_x, train_y, test_x, test_y, k=601)
    with pytest.raises(ValueError, match=r"two classes or more in train_y, got \[0\]"):
        linear_probe(train_x, torch.zeros(600).long(), test_x, test_y)
    for count in (3, 601):
        with pytest.raises(ValueError, match=rf"from 4 labels.*got {count}"):
            label_efficiency(train_x, train_y, test_x, test_y, labels=(count,))


# -- out-of-distribution images ----------------------------------------------------------------------------------------


def test_auroc_is_scikit_learns() -> None:
    for scale in (0.3, 3.0, 1000.0):  # with many ties, with some, with next to none
        normal, ood = (scale * torch.randn(300)).round(), (scale * (torch.randn(200) + 0.7)).round()
        truth = np.r_[np.zeros(300), np.ones(200)]
        assert auroc(normal, ood).value == pytest.approx(roc_auc_score(truth, torch.cat([normal, ood])), abs=1e-12)
    assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([2.0, torch.inf]))[:2] == (1, 0)
    assert auroc(torch.zeros(5), torch.zeros(3))[:2] == (0.5, 0)
    alone = auroc(torch.zeros(5), torch.ones(1))
    assert math.isnan(alone.standard_error)
    assert 0.1 < alone.low < 0.9 < alone.high == 1


@pytest.mark.parametrize(("shift", "images"), [(1.0, (10, 10)), (2.5, (30, 8)), (0.0, (5, 40))])
def test_the_interval_of_an_area_holds_it(shift: float, images: tuple[int, int]) -> None:
    """In some 95 % of draws from two Gaussians, and never without a width, as DeLong's error is where all are apart."""
    truth, inside = norm.cdf(shift / math.sqrt(2)), 0
    for _ in range(600):
        found = auroc(torch.randn(images[0]), torch.randn(images[1]) + shift)
        inside += found.low <= truth <= found.high
        assert found.low < found.high
    assert 0.92 < inside / 600 < 0.995


def test_auroc_knows_its_error() -> None:
    """Over repeated draws from two Gaussians: the closed form Phi(shift / sqrt 2), and DeLong's error as the spread."""
    draws = [auroc(torch.randn(60), torch.randn(40) + 1) for _ in range(1500)]
    values, errors = (torch.tensor(column) for column in list(zip(*draws, strict=True))[:2])
    assert values.mean().item() == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=4 * values.std().item() / 1500**0.5)
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.08)


@pytest.mark.parametrize("scores", [torch.zeros(0), torch.tensor([1.0, torch.nan]), torch.zeros(2, 1)])
def test_scores_that_are_none_are_refused(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="ood_scores: expected one number an image"):
        auroc(torch.zeros(3), scores)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_complexity_is_the_size_of_the_smallest_file(channels: int) -> None:
    """Constant < slope < noise, and noise costs its entropy: 8 bits of each value, or 1 of binary ones."""
    shape = (channels, 32, 32)
    slope = (torch.arange(32) * torch.arange(32)[:, None] // 4).expand(shape)  # smooth: PNG's kind of image
    images = torch.stack([torch.full(shape, 7), slope, torch.randint(0, 256, shape)])
    bits = complexity(images.float(), 256)
    assert bits.dtype == torch.float64
    assert bits[0] < bits[1] < bits[2]
    values = channels * 32 * 32
    assert 8 * values <= bits[2] < 8 * values * 1.01 + 8 * 60
    binary = complexity(torch.randint(0, 2, (1, channels, 64, 64)), 2).item() / (channels * 64 * 64)
    assert 1 < binary < 1.5
    for image, size in zip(images.to(torch.uint8), bits.tolist(), strict=True):
        zipped = 8 * len(zlib.compress(image.numpy().tobytes(), 9))
        if channels == 2:
            assert size == zipped
        else:  # another writer of PNG comes near
            file = io.BytesIO()
            Image.fromarray(image.movedim(0, 2).squeeze(2).numpy()).save(file, "png", compress_level=9)
            assert size == pytest.approx(min(zipped, 8 * file.tell()), rel=0.05)
    assert (bits[1] < 0.9 * 8 * len(zlib.compress(images[1].to(torch.uint8).numpy().tobytes(), 9))) == (channels != 2)


def test_complexity_needs_grey_levels() -> None:
    with pytest.raises(ValueError, match="2 to 256 levels, one byte a value, got 257"):
        complexity(torch.zeros(1, 1, 4, 4), 257)
    for wrong in (torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 4, 4), -1.0)):
        with pytest.raises(ValueError, match=r"integers 0\.\.1"):
            complexity(wrong, 2)


def test_likelihood_ratio_undoes_what_simple_images_gain() -> None:
    """A model of uniform pixels over `levels` finds all images alike; against the coder, it is odd for the constant."""
    images = torch.stack([torch.full((1, 16, 16), 3), torch.randint(0, 16, (1, 16, 16))])
    log_prob = torch.full((2,), -256 * math.log(16))
    score = likelihood_ratio(log_prob, complexity(images, 16))
    torch.testing.assert_close(score, 1024 - complexity(images, 16))
    assert score[0] > score[1]


def test_ood_images_come_as_a_models_own() -> None:
    """As Pillow converts: colours by their luma, grey as equal channels; sizes and levels are the model's."""
    colours = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in colours]
    luma = torch.stack([torch.from_numpy(np.array(picture.convert("L"))) for picture in pictures])[:, None]
    grey_model = Spec((1, 8, 8), 256)
    assert (fit_in(Images(colours), 256, grey_model, 0) - luma).abs().max() <= 1
    colour_model = Spec((3, 8, 8), 256)
    torch.testing.assert_close(fit_in(Images(luma), 256, colour_model, 0), luma.float().expand(-1, 3, -1, -1))
    small = Spec((3, 4, 2), 16)
    assert fit_in(Images(colours), 256, small, 0).shape == (5, 3, 4, 2)
    assert fit_in(Images(colours), 256, small, 0).max() <= 15
    binary = Spec((1, 8, 8), 2)
    assert set(fit_in(Images(colours), 256, binary, 0).unique().tolist()) == {0, 1}
