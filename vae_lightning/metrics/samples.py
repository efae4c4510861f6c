"""How good samples are, by distances between sets of features, and whether they are copies.

Features (N, F) come from a `Classifier` trained here, on the data at hand. So a Fréchet distance ranks models that were
measured with the same classifier and the same number of samples, and never stands beside a published Inception figure.
Legend of shapes: N, M sizes of sets; F features; images (N, C, H, W), integers 0..levels-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_lightning.metrics.representation import Accuracy, Neighbours, distances, k_nearest, share
from vae_lightning.nets import stage_sizes

FEATURES = 128


class KernelDistance(NamedTuple):
    mean: float
    standard_error: float


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    density: float
    coverage: float


class Classifier(nn.Module):
    """Images of any (C, H, W) -> logits, by strided convolutions down to 7 pixels or fewer a side."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        fan_in, height, width = image_shape
        stages = max(1, math.ceil(math.log2(max(height, width) / 7)))
        layers: list[nn.Module] = []
        for stage in range(stages):
            fan_out = min(32 * 2**stage, FEATURES)
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]
            fan_in = fan_out
        h, w = stage_sizes((height, width), stages)[-1]
        layers += [nn.Flatten(), nn.Linear(fan_in * h * w, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, (B, FEATURES), at least 0."""
        return self.body(x.float() / (self.levels - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        return self.head(self.features(x))


def train_classifier(images: Tensor, labels: Tensor, levels: int, epochs: int = 4, seed: int = 0) -> Classifier:
    """A classifier in evaluation mode, trained by Adam at a one-cycle rate on batches of 256 images, each batch
    shifted at random. No image is dropped, and the caller's random state is left as it was.

    Args:
        images: uint8, on the device that trains.
        labels: (N,), 0..classes-1.
        levels: how many a value can take.
        epochs: passes over the images.
        seed: of weights, order and shifts.

    Raises:
        ValueError: fewer than two classes, or not one label an image.
    """
    if len(images) != len(labels) or len(labels.unique()) < 2:
        raise ValueError(
            f"train_classifier: expected one label an image and two classes or more, got {len(images)} images and "
            f"{len(labels)} labels of {len(labels.unique())} classes: give labelled images."
        )
    channels, height, width = images.shape[1:]
    device, generator = images.device, torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        classifier = Classifier((channels, height, width), int(labels.max()) + 1, levels).to(device)
    reach = max(height, width) // 14  # 2 of 28 pixels
    steps = math.ceil(len(images) / 256)
    optimizer = torch.optim.Adam(classifier.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * steps)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=generator).to(device).tensor_split(steps):
                y, x = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
                padded = nn.functional.pad(images.index_select(0, chosen), (reach,) * 4)
                logits = classifier(padded[:, :, y : y + height, x : x + width])
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits, labels.index_select(0, chosen).long()).backward()
                optimizer.step()
                schedule.step()
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 500) -> Tensor:
    """function(images), such as `Classifier.features` of a whole set, some images at a time and without gradients."""
    return torch.cat([function(part) for part in images.split(batch_size)])


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> Accuracy:
    """Share of images whose largest logit is their label's."""
    return share(in_batches(classifier, images).argmax(1) == labels)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the sets' moments (Heusel et al. 2017), in float64.

    With S = R'R, the trace of the root is the sum of the singular values of R_a R_b', which needs no full rank. Of
    features of our own classifier it ranks our own models, and is no Inception figure; it is biased upwards in small
    sets, so compare equal sizes.
    """
    _require_sets("frechet_distance", a, b, 2)
    a, b = a.double(), b.double()
    roots = [torch.linalg.qr((x - x.mean(0)) / math.sqrt(len(x) - 1), mode="r").R for x in (a, b)]
    trace = sum(root.square().sum() for root in roots) - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + trace).item()


def kernel_distance(a: Tensor, b: Tensor, subsets: int = 10, size: int | None = None, seed: int = 0) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x'y / F + 1)^3 (Binkowski et al. 2018), in float64.

    Mean over disjoint random subsets of `size` (all that fit by default), so that the subsets are independent and
    their spread gives an honest standard error; nan for a single subset. Zero on average for equal distributions.
    """
    size = min(len(a), len(b)) // max(subsets, 1) if size is None else size
    if subsets < 1 or size < 2:
        raise ValueError(f"kernel_distance: expected 1 subset or more, of 2 or more features, got {subsets} of {size}.")
    _require_sets("kernel_distance", a, b, subsets * size)
    generator = torch.Generator().manual_seed(seed)
    blocks = [x[torch.randperm(len(x), generator=generator)[: subsets * size]].double().chunk(subsets) for x in (a, b)]
    values = torch.stack([_squared_mmd(x, y) for x, y in zip(*blocks, strict=True)])
    return KernelDistance(values.mean().item(), (values.std() / math.sqrt(subsets)).item() if subsets > 1 else math.nan)


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    xx, yy, xy = (((u @ v.T) / x.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y)))
    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return within[0] + within[1] - 2 * xy.mean()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Share of fakes within some real point's ball, and of reals within some fake's, a ball reaching to its centre's
    k-th nearest neighbour in its own set (Kynkäänniemi et al. 2019)."""
    _require_sets("precision_recall", real, fake, k + 1)
    precision, recall = (_balls(centres, points, k)[0] > 0 for centres, points in ((real, fake), (fake, real)))
    return PrecisionRecall(precision.double().mean().item(), recall.double().mean().item())


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Real balls around a fake, on average, over k (1 in expectation for equal distributions, and not bounded by it);
    and the share of real balls that hold a fake (Naeem et al. 2020)."""
    _require_sets("density_coverage", real, fake, k + 1)
    counts, hit = _balls(real, fake, k)
    return DensityCoverage(counts.double().mean().item() / k, hit.double().mean().item())


def _balls(centres: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each point how many balls it lies in, and for each centre whether its ball holds a point."""
    radii = k_nearest(centres, centres, k + 1).distances[:, k]  # the first is the centre itself
    inside = [(near.sum(1), near.any(0)) for near in (d <= radii for d in distances(points, centres))]
    return torch.cat([counts for counts, _ in inside]), torch.stack([hit for _, hit in inside]).any(0)


def nearest_distances(queries: Tensor, references: Tensor) -> Neighbours:
    """The nearest reference of each query, (N,), such as the training image that a sample may be a copy of."""
    indices = k_nearest(queries, references, 1).indices[:, 0]
    pairs = zip(queries.split(500), indices.split(500), strict=True)  # again and exactly: 0 for a copy
    exact = [(part.float() - references[i].float()).flatten(1).norm(dim=1) for part, i in pairs]
    return Neighbours(torch.cat(exact), indices)


def nearer(distances: Tensor, reference: Tensor) -> float:
    """Share of distances below the reference's median, equals counting half."""
    distances, median = distances.double(), reference.double().quantile(0.5)
    return ((distances < median).double() + (distances == median).double() / 2).mean().item()


def copying(samples: Tensor, train: Tensor, held_out: Tensor) -> float:
    """Share of samples nearer to a training image than the median held-out image is, ties counting half.

    One half for fresh images of the training distribution, give or take sqrt(1/4 (1/samples + 1/held_out)), and 1 for
    copies. Blurred samples lie near to everything, too: a share above one half is a reason to look at the neighbours.
    """
    return nearer(*(nearest_distances(x, train).distances for x in (samples, held_out)))


def _require_sets(name: str, a: Tensor, b: Tensor, at_least: int) -> None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < at_least:
        raise ValueError(
            f"{name}: expected two sets of {at_least} or more features (N, F), got {tuple(a.shape)} and "
            f"{tuple(b.shape)}: give features of one classifier, and enough of them."
        )
