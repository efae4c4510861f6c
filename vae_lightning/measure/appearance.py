"""Studies of how a model's images look: as sharp as the test images or not, as varied or not, copies or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_lightning.images.pictures import grid, save_picture
from vae_lightning.measure.context import ModelAndData, percent
from vae_lightning.metrics import inception, mean_error
from vae_lightning.metrics.representation import k_nearest
from vae_lightning.metrics.samples import (
    accuracy,
    density_coverage,
    frechet_distance,
    in_batches,
    kernel_distance,
    nearer,
    nearest_distances,
    precision_recall,
    train_classifier,
)
from vae_lightning.metrics.sharpness import edge_width, high_frequency_energy
from vae_lightning.report.results import Section

SAMPLED = 10_000
"""Samples that are compared with as many test images."""
SAMPLED_SLOWLY = 1_000
"""The same for Inception's features on a processor, which take some tenths of a second an image."""
LOOKED_AT = 1_000
"""Images whose sharpness is measured, and samples whose nearest training images are sought."""
LEARNT_FROM = 60_000
"""Training images at most that the classifier learns from, and that samples are compared with as copies."""
COLUMNS, NEIGHBOURS = 8, 3
"""Samples a row of neighbours.png, and training images below each."""


def sharpness(tested: ModelAndData) -> Section:
    """How sharp test images, their reconstructions and samples are."""
    section = Section("Sharpness")
    rows = tested.test_rows(LOOKED_AT)
    count, test = len(rows), tested.test.take(rows)
    if min(test.shape[-2:]) < 2:
        return section
    back = tested.reconstructions(rows)
    kinds = {
        "original": ("test images", test),
        "reconstruction": ("reconstructions", back),
        "sample": ("samples", tested.samples(count, mean=True)),
        "aggregate_sample": ("samples through the aggregate posterior", tested.samples(count, True, aggregate=True)),
    }
    for measure, what, unit, factor in (
        (high_frequency_energy, "high-frequency energy", "%", 100),
        (edge_width, "edge width", "pixels", 1),
    ):
        for kind, (label, images) in kinds.items():
            values = factor * measure(tested.unit(images).clamp(0, 1))
            name = f"{kind}_{'high_frequency' if unit == '%' else 'edge_width'}"
            section.add(name, f"{what}, {label}", mean_error(values), unit)
            if "sample" not in kind:  # the same images in each run, for paired differences
                tested.per_image[name] = torch.full((len(tested.test),), math.nan)
                tested.per_image[name][rows] = values.float()
    section.notes.append(
        "Reconstructions and samples are means E[x|z]. As far as samples through the aggregate posterior are nearer to "
        "the test images than those from the prior, a better prior could gain."
    )
    return section


def samples(tested: ModelAndData) -> Section:
    """Samples beside test images, in the features of a classifier that is trained here."""
    section = Section("Samples, in the features of a classifier trained here (not Inception)")
    train, test = tested.train(LEARNT_FROM), tested.test
    assert train.label is not None
    assert test.label is not None
    chosen = tested.test_rows(SAMPLED)
    count = len(chosen)
    if len(train.label.unique()) < 2 or count < 50:
        return section
    classifier = train_classifier(train.image, train.label, tested.data.levels)
    right = percent(accuracy(classifier, test.image, test.label))
    section.add("classifier_accuracy", "the classifier's accuracy", right, "%")

    def features(images: Tensor) -> Tensor:
        return in_batches(classifier.features, images.float())

    drawn, asked = tested.samples(count), tested.sampled_labels(count)
    if asked is not None:
        shown = percent(accuracy(classifier, drawn, asked))
        section.add("sample_class", "samples that show the class that was asked for", shown, "%", "higher")
    real, fake = features(test.take(chosen)), features(drawn)
    seen = features(train.some(count).image)
    ideal = features(tested.samples(count, aggregate=True))
    through = "through the aggregate posterior"
    section.add("frechet", "Fréchet distance", (frechet_distance(real, fake), math.nan), "", "lower")
    section.add("aggregate_frechet", f"the same {through}", (frechet_distance(real, ideal), math.nan), "", "lower")
    section.add("frechet_train", "the same of training images", (frechet_distance(real, seen), math.nan), "")
    section.add("kernel", "kernel distance", kernel_distance(real, fake), "", "lower")
    section.add("aggregate_kernel", f"the same {through}", kernel_distance(real, ideal), "", "lower")
    near, cover = precision_recall(real, fake), density_coverage(real, fake)
    for name, value in {**near._asdict(), **cover._asdict()}.items():
        section.add(name, name, (value, math.nan), "", "higher")
    section.notes.append(
        f"Samples {through} take the latents of training images, as an ideal prior would: the rest is the decoder's."
    )
    if reason := inception.missing():
        section.notes.append(f"No FID in Inception's features: {reason}")
    return section


def in_inception(tested: ModelAndData) -> Section:
    """Samples beside test images in the features that published figures take, where the weights are on this machine."""
    section = Section("Samples, in Inception's features")
    slowly = tested.device.type == "cpu"
    chosen = tested.test_rows(SAMPLED_SLOWLY if slowly else SAMPLED)
    count = len(chosen)
    if inception.missing() or tested.data.image_shape[0] not in (1, 3) or count < 50:
        return section
    extractor, levels = inception.extractor().to(tested.device), tested.data.levels
    real, fake = (
        in_batches(lambda x: extractor(inception.rgb(x, levels).to(tested.device)).cpu(), images, 50)
        for images in (tested.test.take(chosen), tested.samples(count))
    )
    section.add("fid", "FID, Inception features", (frechet_distance(real, fake), math.nan), "", "lower")
    section.add("kid", "KID, Inception features", kernel_distance(real, fake), "", "lower")
    section.notes.append(
        f"Of {count} samples and as many test images: published figures mostly take 50 000, which makes an FID lower."
    )
    return section


def copies(tested: ModelAndData) -> Section:
    """Whether samples are copies of training images: how near they come to them, and a picture of the nearest."""
    section, levels = Section("Samples, beside their nearest training images"), tested.data.levels
    real, train = tested.test.take(tested.test_rows(LOOKED_AT)), tested.train(LEARNT_FROM).image
    count = len(real)
    fake = tested.samples(count)
    found, reference = (nearest_distances(images, train).distances for images in (fake, real))
    share = nearer(found, reference)
    section.add("copying", "nearer to a training image than most test images are", percent((share, math.nan)), "%")
    section.notes.append(
        "Fresh images of the same kind would be so for 50 %; near 100 % is copying or blur, near 0 noise."
    )
    rows = []
    for chosen in (torch.arange(min(COLUMNS, count)), found.argsort()[:COLUMNS]):
        near = k_nearest(fake[chosen], train, min(NEIGHBOURS, len(train))).indices
        between = torch.full_like(fake[chosen], (levels - 1) / 2)
        rows += [fake[chosen], *(train[column].float() for column in near.T), between]
    save_picture(grid(torch.cat(rows[:-1]), len(rows[0]), levels), tested.folder / "neighbours.png")
    section.notes.append(
        f"neighbours.png: {len(rows[0])} samples, and below each its nearest of {len(train)} training images; then the "
        "same of the samples that lie nearest to one."
    )
    return section
