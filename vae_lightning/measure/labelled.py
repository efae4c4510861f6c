"""What a test says of a model of images by class, p(x|y): its densities by their name, and what it knows of images
whose class is not told."""

from __future__ import annotations

from dataclasses import replace

import torch

from vae_lightning.measure.context import ModelAndData, percent
from vae_lightning.metrics import mean_error
from vae_lightning.metrics.classifier import accuracy, class_log_prob, frequencies, sum_out
from vae_lightning.report.results import Section

CLASSIFIED = 1000
"""Test images that are weighed under every class."""
SAMPLES, FEWEST = 100, 10
"""Importance samples of each image and class: as many, or where the classes are many, no fewer."""
BUDGET = 1_000_000
"""Image-samples that are decoded at most, as long as each class gets its fewest."""


def by_class(section: Section) -> Section:
    """The section with its densities called by what they are told: p(x|y), and p(z|x, y)."""

    def named(text: str) -> str:
        return text.replace("log p(x)", "log p(x|y)").replace("p(z|x)", "p(z|x, y)")

    rows = [replace(row, label=named(row.label)) for row in section.rows]
    return Section(named(section.title), rows, [named(note) for note in section.notes])


def classifier(tested: ModelAndData) -> Section:
    """The class summed out, log p(x) = log sum_y p(y) p(x|y), which compares with models that are told no class; and
    the model as a classifier by Bayes' rule (generative classifiers: Ng & Jordan 2001)."""
    section, train = Section("Bayes classifier: images whose class is not told"), tested.data.splits["train"]
    classes = tested.data.spec.require_classes("Bayes classifier")
    rows = tested.test_rows(min(CLASSIFIED, max(1, BUDGET // (FEWEST * classes))))
    k = max(FEWEST, min(SAMPLES, BUDGET // (len(rows) * classes)))
    test = tested.test[rows]
    assert train.label is not None
    assert test.label is not None
    found = torch.cat([class_log_prob(tested.model, batch, classes, k) for batch in tested.batches(test)], 1)
    label, p_y = test.label.cpu(), frequencies(train.label, classes)
    told, untold = found.gather(0, label[None])[0], sum_out(found, p_y)
    unit = "nats/image"
    section.add("bayes_nll", "-log p(x) = -log sum_y p(y) p(x|y)", mean_error(-untold), unit, "lower")
    section.add("bayes_told_nll", "-log p(x|y) of the same images", mean_error(-told), unit, "lower")
    section.add("bayes_accuracy", "accuracy of argmax_y log p(x|y)", percent(accuracy(found, label)), "%", "higher")
    section.notes.append(
        f"On {len(rows)} of {len(tested.test)} test images with {k} importance samples of each image and each of the "
        f"{classes} classes; p(y) are the frequencies of the classes among the {len(train)} training images. -log p(x) "
        "compares with that of models that are told no class, and like theirs it is an upper bound."
    )
    return section
