"""What `test` measures beyond the one pass: studies of whole sets, each a section of its own.

Every study draws from a generator of its own seed, so that leaving one out changes no other's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.core import Batch, FromPrior, LatentModel, PosteriorMean
from vae_lightning.data import ImageData, Images
from vae_lightning.experiment.results import Section
from vae_lightning.metrics import importance
from vae_lightning.metrics.annealing import annealed_log_prob
from vae_lightning.metrics.gap import inference_gap, prior_log_prob
from vae_lightning.metrics.information import active_units, decompose_rate, diagnose, shuffled_distortion
from vae_lightning.metrics.ppca import ppca_log_prob
from vae_lightning.metrics.representation import knn_accuracy, label_efficiency, linear_probe
from vae_lightning.metrics.samples import (
    accuracy,
    copying,
    density_coverage,
    frechet_distance,
    in_batches,
    kernel_distance,
    precision_recall,
    train_classifier,
)
from vae_lightning.metrics.sharpness import edge_width, high_frequency_energy
from vae_lightning.objectives.elbo import kl_per_latent

CHECKED = 50
"""Test images on which the costly checks of log p(x) are made."""
TEMPERATURES, LEAPFROG_STEPS = 50, 5
"""Of annealed importance sampling: a minute for a small net, and some tenths of a nat of standard error an image."""
CHECK_SAMPLES = 5000
"""Importance samples, and samples from the prior, of these checks."""
SAMPLED = 10_000
"""Samples that are compared with as many test images, and codes that are probed with."""
LEARNT_FROM = 60_000
"""Training images at most that the classifier learns from, and that samples are compared with as copies."""
LARGEST = 4096
"""Values an image above which what takes their square is left out."""
NATS = "nats/image"


class Subject(NamedTuple):
    """What is studied: a model in evaluation mode, its data, and where both are."""

    model: LatentModel
    data: ImageData
    device: torch.device

    @property
    def test(self) -> Images:
        return self.data.fixed("test")

    def codes(self, images: Images) -> Tensor:
        """The posterior's means, (N, d), on the CPU."""
        parts = [self.model.trace(self.batch(x)).sites[0].q.mean.flatten(1).cpu() for x in images.chunks(500)]
        return torch.cat(parts)

    def batch(self, image: Tensor) -> Batch:
        return {"image": image.to(self.device).float()}

    def unit(self, image: Tensor) -> Tensor:
        """Integers to [0, 1]."""
        return image.float() / (self.data.levels - 1)


def studies(model: LatentModel, data: ImageData, device: torch.device) -> list[Section]:
    """All sections that this model and these data admit."""
    subject, sections = Subject(model, data, device), list[Section]()
    with torch.no_grad():
        probe = model.trace(subject.batch(data.splits["test"].take(torch.arange(1))))
        codes: list[Callable[[Subject], Section]] = [representation] if data.splits["test"].label is not None else []
        latent = [information, checks, sharpness, *([samples] if codes else [])]
        for study in [*([] if probe.is_point_mass or len(probe.sites) > 1 else latent), *codes, gaussian]:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(1)
                sections.append(study(subject))
    return [section for section in sections if section.rows]


def _mean(values: Tensor) -> tuple[float, float]:
    values = values[~values.isnan()].double()
    return values.mean().item(), (values.std() / max(len(values), 1) ** 0.5).item()


def information(subject: Subject) -> Section:
    """What the rate is made of, and whether the decoder uses the latents."""
    section, model = Section("What the latents carry"), subject.model
    chunks = lambda: (x.to(subject.device) for x in subject.test.chunks(500))  # noqa: E731 (read several times)
    found = decompose_rate(model, chunks())
    labels = {
        "rate": "the rate by samples, sum of the next two",
        "mutual_information": "mutual information of image and latent",
        "prior_hole": "KL of the aggregate posterior to the prior",
        "total_correlation": "of it: total correlation of the latents",
        "dimension_wise_kl": "of it: dimension-wise KL",
    }
    for name, label in labels.items():
        if (value := getattr(found, name)) is not None:
            section.add("sampled_rate" if name == "rate" else name, label, value, NATS)
    limit = math.log(min(len(subject.test), SAMPLED))
    if found.mutual_information[0] > 0.9 * limit:
        section.notes.append(
            f"The mutual information is near its ceiling here, log N = {limit:.2f} nats: it tells of N."
        )
    matched, shuffled = shuffled_distortion(model, chunks())
    section.add("shuffled_distortion", "distortion with another image's latents", shuffled, NATS)
    active = active_units(subject.codes(subject.test))
    section.add("active_units", f"active of the {len(active)} latents", (int(active.sum()), math.nan), "latents")
    try:
        parts = [kl_per_latent(model.trace(subject.batch(x)).sites[0]).flatten(1).sum(0) for x in chunks()]
    except (ValueError, NotImplementedError):
        return section  # no rate of each latent: nothing to tell them apart by
    section.notes.append(diagnose(sum(parts).cpu() / len(subject.test), active, matched[0], shuffled[0]))  # type: ignore[union-attr]
    return section


def checks(subject: Subject) -> Section:
    """log p(x) of some images by independent estimators, and the gap's two parts."""
    image = subject.test.take(torch.arange(min(CHECKED, len(subject.test))))
    given, section = subject.batch(image), Section(f"log p(x) of {len(image)} test images, checked")
    found = importance(subject.model, given, [CHECK_SAMPLES])
    section.add(
        "checked_nll", f"-log p(x), {CHECK_SAMPLES} importance samples", _mean(-found.log_prob[0]), NATS, "lower"
    )
    annealed = annealed_log_prob(subject.model, given, 16, TEMPERATURES, LEAPFROG_STEPS, steepness=0.0)
    section.add("annealed_nll", "-log p(x), annealed importance sampling", _mean(-annealed.log_prob), NATS, "lower")
    difference = found.log_prob[0] - annealed.log_prob
    section.add("annealed_difference", "the first less the second, paired", _mean(-difference), NATS)
    prior = prior_log_prob(subject.model, given, CHECK_SAMPLES)
    section.add("prior_nll", f"-log p(x), {CHECK_SAMPLES} samples from the prior", _mean(-prior), NATS)
    if (missed := (found.log_prob[0] - prior).mean().item()) > 1:
        section.notes.append(
            f"Samples from the prior miss the latents that matter: {CHECK_SAMPLES} say {missed:.1f} nats too much."
        )
    try:
        gap = inference_gap(subject.model, given, annealed.log_prob)
    except ValueError:
        return section  # another posterior than a diagonal Gaussian
    section.add(
        "amortisation_gap", "what the encoder loses to the best Gaussian", _mean(gap.amortisation), NATS, "lower"
    )
    section.add("approximation_gap", "what the best Gaussian loses", _mean(gap.approximation), NATS, "lower")
    return section


def sharpness(subject: Subject) -> Section:
    """How sharp test images, their reconstructions and samples are."""
    section, model = Section("Sharpness"), subject.model
    test = subject.test.take(torch.arange(min(1000, len(subject.test))))
    if min(test.shape[-2:]) < 2:
        return section
    kinds = {
        "original": ("test images", test),
        "reconstruction": ("reconstructions", model(PosteriorMean(), subject.batch(test)).mean.cpu()),
        "sample": ("samples", model(FromPrior(len(test)), {}).mean.cpu()),
    }
    for name, (label, images) in kinds.items():
        energy = high_frequency_energy(subject.unit(images).clamp(0, 1))
        section.add(f"{name}_high_frequency", f"high-frequency energy, {label}", _mean(100 * energy), "%")
    for name, (label, images) in kinds.items():
        section.add(
            f"{name}_edge_width", f"edge width, {label}", _mean(edge_width(subject.unit(images).clamp(0, 1))), "pixels"
        )
    return section


def gaussian(subject: Subject) -> Section:
    """Probabilistic PCA with as many components as the model has latents: the linear model to beat."""
    section = Section("Probabilistic PCA")
    size = subject.codes(subject.test[torch.arange(1)]).shape[1]
    values = math.prod(subject.data.image_shape)
    if subject.data.levels > 2 and size < values <= LARGEST:
        log_prob = ppca_log_prob(subject.data.fixed("train").chunks(), subject.test.chunks(), subject.data.levels, size)
        section.add("ppca_nll", f"-log density, {size} components", _mean(-log_prob), NATS)
        section.notes.append(
            "A density over the integer image: compare it with densities, not with a discrete -log p(x)."
        )
    return section


def representation(subject: Subject) -> Section:
    """What a linear map and neighbours read of the class from codes, pixels and principal components."""
    section = Section("Representation: accuracy on the test labels")
    train, test = subject.data.fixed("train"), subject.test
    train = train[torch.arange(min(SAMPLED, len(train)))]
    assert train.label is not None
    assert test.label is not None
    codes = subject.codes(train), subject.codes(test)
    pixels = subject.unit(train.image).flatten(1), subject.unit(test.image).flatten(1)
    _, _, components = torch.pca_lowrank(pixels[0], min(codes[0].shape[1], *pixels[0].shape))
    pca = pixels[0] @ components, pixels[1] @ components
    for name, label, (x, y) in (("codes", "codes", codes), ("pixels", "pixels", pixels), ("pca", "PCA", pca)):
        if name != "pixels" or x.shape[1] <= LARGEST:
            probe = linear_probe(x, train.label, y, test.label)
            section.add(f"probe_{name}", f"linear probe, {label}", _percent(probe), "%", "higher")
        near = knn_accuracy(x, train.label, y, test.label, min(5, len(x)))
        section.add(f"knn_{name}", f"5 nearest neighbours, {label}", _percent(near), "%", "higher")
    counts = train.label.unique(return_counts=True)[1]
    wanted = [n for n in (100, 1000) if n <= len(counts) * int(counts.min())]
    for name, label, (x, y) in (("codes", "codes", codes), ("pixels", "pixels", pixels)):
        for number, value in label_efficiency(x, train.label, y, test.label, wanted).items():
            section.add(
                f"probe_{number}_{name}", f"linear probe, {number} labels, {label}", _percent(value), "%", "higher"
            )
    section.notes.append(f"Trained on {len(train)} training images.")
    return section


def _percent(value: tuple[float, float]) -> tuple[float, float]:
    return 100 * value[0], 100 * value[1]


def samples(subject: Subject) -> Section:
    """Samples beside test images, in the features of a classifier that is trained here."""
    section = Section("Samples, in the features of a classifier trained here (not Inception)")
    train, test = subject.data.fixed("train"), subject.test
    train = train[torch.arange(min(LEARNT_FROM, len(train)))]
    assert train.label is not None
    assert test.label is not None
    count = min(SAMPLED, len(test))
    if len(train.label.unique()) < 2 or count < 50:
        return section
    classifier = train_classifier(train.image, train.label, subject.data.levels)
    right = accuracy(classifier, test.image, test.label)
    error = math.sqrt(right * (1 - right) / len(test))
    section.add("classifier_accuracy", "the classifier's accuracy", _percent((right, error)), "%")
    parts = [subject.model(FromPrior(min(500, count - i)), {}).sample().cpu() for i in range(0, count, 500)]
    fake = torch.cat(parts).round().clamp(0, subject.data.levels - 1)
    real = test.take(torch.arange(count)).float()
    a, b = (in_batches(classifier.features, images) for images in (real, fake))
    seen = in_batches(classifier.features, train.take(torch.arange(min(count, len(train)))).float())
    near, cover = precision_recall(a, b), density_coverage(a, b)
    section.add("frechet", "Fréchet distance", (frechet_distance(a, b), math.nan), "", "lower")
    section.add("frechet_train", "the same of training images", (frechet_distance(a, seen), math.nan), "")
    section.add("kernel", "kernel distance", kernel_distance(a, b), "", "lower")
    for name, value in {**near._asdict(), **cover._asdict()}.items():
        section.add(name, name, (value, math.nan), "", "higher")
    few = min(1000, count)
    copied = copying(fake[:few], train.image, real[:few])
    section.add("copying", "nearer to a training image than most test images are", _percent((copied, math.nan)), "%")
    section.notes.append(
        "Fresh images of the same kind would be so for 50 %; near 100 % is copying or blur, near 0 noise."
    )
    return section
