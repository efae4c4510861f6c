"""What `test` measures beyond the one pass: studies of whole sets, each a section of its own.

Every study draws from a generator of its own seed, so that leaving one out changes no other's numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch

from vae_lightning.core import seeded
from vae_lightning.measure.appearance import copies, in_inception, samples, sharpness
from vae_lightning.measure.context import ModelAndData, percent
from vae_lightning.measure.labelled import by_class, classifier
from vae_lightning.metrics import importance, mean_error
from vae_lightning.metrics.baselines import ppca_log_prob
from vae_lightning.metrics.estimators.annealing import annealed_log_prob
from vae_lightning.metrics.estimators.gap import inference_gap, prior_log_prob
from vae_lightning.metrics.estimators.refinement import Gaussians, refined
from vae_lightning.metrics.information import (
    active_units,
    decompose_rate,
    decompose_rate_by_class,
    diagnose,
    shuffled_distortion,
)
from vae_lightning.metrics.representation import knn_accuracy, label_efficiency, linear_probe
from vae_lightning.objectives.elbo import kl_per_latent
from vae_lightning.report.results import Section

CHECKED = 50
"""Test images on which the costly checks of log p(x) are made."""
TEMPERATURES, LEAPFROG_STEPS = 50, 5
"""Of annealed importance sampling: a minute for a small net, and some tenths of a nat of standard error an image."""
CHECK_SAMPLES = 5000
"""Importance samples, and samples from the prior, of these checks."""
PROBED = 10_000
"""Images whose codes the aggregate posterior is made of, and training images whose codes are probed with."""
LARGEST = 4096
"""Values an image above which what takes their square is left out."""
NATS = "nats/image"


def studies(tested: ModelAndData) -> list[Section]:
    """All sections that this model and these data admit."""
    sections = list[Section]()
    with torch.no_grad():
        probe = tested.model.trace(next(tested.batches(tested.test[torch.arange(1)])))
        conditional = tested.model.is_conditional
        labelled = tested.data.splits["test"].label is not None
        codes: list[Callable[[ModelAndData], Section]] = [representation] if labelled else []
        alone = [information, checks] if len(probe.sites) == 1 else [several]
        alone += [classifier] if conditional else []
        latent = [*alone, sharpness, *([samples] if labelled else []), in_inception, copies]
        for study in [*(latent if probe.has_rate else []), *codes, gaussian]:
            with seeded(1, tested.device):
                try:
                    section = study(tested)
                    sections.append(by_class(section) if conditional and study is checks else section)
                except ValueError as error:  # of one study, which is not to lose the others
                    sections.append(Section(f"Left out: {study.__name__}", notes=[str(error)]))
    return [section for section in sections if section.rows or section.notes]


def information(tested: ModelAndData) -> Section:
    """What the rate is made of, and whether the decoder uses the latents."""
    section, model = Section("What the latents carry"), tested.model
    by_prior = tested.prior_knows_labels
    found = (decompose_rate_by_class if by_prior else decompose_rate)(model, tested.mixed())
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
    if by_prior:
        section.notes.append("The prior knows the class: the rate's parts are taken within each class and averaged.")
    limit = math.log(
        max(1, min(len(tested.test), PROBED) / (len(tested.data.source.classes or "y") if by_prior else 1))
    )
    if found.mutual_information[0] > 0.9 * limit:
        section.notes.append(
            f"The mutual information is near its ceiling here, log N = {limit:.2f} nats: it tells of N."
        )
    matched, shuffled = shuffled_distortion(model, tested.mixed())
    section.add("shuffled_distortion", "distortion with another image's latents", shuffled, NATS)
    active = active_units(tested.codes(tested.test))
    section.add("active_units", f"active of the {len(active)} latents", (int(active.sum()), math.nan), "latents")
    try:
        sites = (next(iter(model.trace(batch).sites.values())) for batch in tested.batches(tested.test))
        parts = [kl_per_latent(site).flatten(1).sum(0) for site in sites]
    except (ValueError, NotImplementedError):
        section.notes.append("No rate of each latent, by which to tell collapsed ones: the prior does not factorise.")
        return section
    section.notes.append(diagnose(sum(parts).cpu() / len(tested.test), active, matched[0], shuffled[0]))  # type: ignore[union-attr]
    return section


def several(tested: ModelAndData) -> Section:
    """Of a story with more latents than one: whether the decoder uses them."""
    section = Section("What the latents carry")
    _, shuffled = shuffled_distortion(tested.model, tested.mixed())
    section.add("shuffled_distortion", "distortion with another image's latents", shuffled, NATS)
    section.notes.append(
        "The parts of the rate, active units and the checks of log p(x) are a single latent's, and are left out; codes "
        "are those of the story's first."
    )
    return section


def checks(tested: ModelAndData) -> Section:
    """log p(x) of some images by independent estimators, and the gap's two parts."""
    given = next(tested.batches(tested.test[tested.test_rows(CHECKED)]))
    count = len(next(iter(given.values())))
    section = Section(f"log p(x) of {count} test images, checked")
    proposals: dict[str, tuple[str, Gaussians | None]] = {"checked": ("", None)}
    with contextlib.suppress(ValueError):  # another posterior than a diagonal Gaussian
        proposals["refined"] = (", refined posteriors", refined(tested.model, given).widened())
    annealed = annealed_log_prob(tested.model, given, 16, TEMPERATURES, LEAPFROG_STEPS, steepness=0.0).log_prob
    found = {}
    for name, (which, proposal) in proposals.items():
        found[name] = importance(tested.model, given, [CHECK_SAMPLES], proposal=proposal).log_prob[0]
        label = f"-log p(x), {CHECK_SAMPLES} importance samples{which}"
        section.add(f"{name}_nll", label, mean_error(-found[name]), NATS, "lower")
    section.add("annealed_nll", "-log p(x), annealed importance sampling", mean_error(-annealed), NATS, "lower")
    for name, (which, _) in proposals.items():
        label = f"importance sampling{which} less annealed, paired"
        section.add(f"{name}_difference", label, mean_error(annealed - found[name]), NATS)
    prior = prior_log_prob(tested.model, given, CHECK_SAMPLES)
    section.add("prior_nll", f"-log p(x), {CHECK_SAMPLES} samples from the prior", mean_error(-prior), NATS)
    if (missed := (found["checked"] - prior).mean().item()) > 1:
        section.notes.append(
            f"Samples from the prior miss the latents that matter: {CHECK_SAMPLES} say {missed:.1f} nats too much."
        )
    try:
        gap = inference_gap(tested.model, given, annealed)
    except ValueError:
        return section  # another posterior than a diagonal Gaussian
    section.add(
        "amortisation_gap", "what the encoder loses to the best Gaussian", mean_error(gap.amortisation), NATS, "lower"
    )
    section.add("approximation_gap", "what the best Gaussian loses", mean_error(gap.approximation), NATS, "lower")
    return section


def gaussian(tested: ModelAndData) -> Section:
    """Probabilistic PCA with as many components as the model has latents: the linear model to beat."""
    section = Section("Probabilistic PCA")
    size = tested.codes(tested.test[torch.arange(1)]).shape[1]
    values = math.prod(tested.data.image_shape)
    if tested.data.levels > 2 and size < values <= LARGEST:
        log_prob = ppca_log_prob(tested.data.fixed("train").chunks(), tested.test.chunks(), tested.data.levels, size)
        section.add("ppca_nll", f"-log density, {size} components", mean_error(-log_prob), NATS)
        section.notes.append(
            "A density over the integer image: compare it with densities, not with a discrete -log p(x)."
        )
    return section


def representation(tested: ModelAndData) -> Section:
    """What a linear map and neighbours read of the class from codes, pixels and principal components."""
    section = Section("Representation: accuracy on the test labels")
    train, test = tested.train(PROBED), tested.test[tested.test_rows(len(tested.test))]
    assert train.label is not None
    assert test.label is not None
    if len(train.label.unique()) < 2:
        return section
    codes = tested.codes(train), tested.codes(test)
    inputs = [("codes", "codes", codes)]
    if math.prod(tested.data.image_shape) <= LARGEST:
        pixels = tested.unit(train.image).flatten(1), tested.unit(test.image).flatten(1)
        _, _, components = torch.pca_lowrank(pixels[0], min(codes[0].shape[1], *pixels[0].shape))
        inputs += [("pixels", "pixels", pixels), ("pca", "PCA", (pixels[0] @ components, pixels[1] @ components))]
    for name, label, (x, y) in inputs:
        probe = linear_probe(x, train.label, y, test.label)
        section.add(f"probe_{name}", f"linear probe, {label}", percent(probe), "%", "higher")
        near = knn_accuracy(x, train.label, y, test.label, min(5, len(x)))
        section.add(f"knn_{name}", f"5 nearest neighbours, {label}", percent(near), "%", "higher")
    counts = train.label.unique(return_counts=True)[1]
    wanted = [n for n in (100, 1000) if len(counts) <= n <= len(counts) * int(counts.min())]
    for name, label, (x, y) in inputs[:2]:
        for number, value in label_efficiency(x, train.label, y, test.label, wanted).items():
            section.add(
                f"probe_{number}_{name}", f"linear probe, {number} labels, {label}", percent(value), "%", "higher"
            )
    section.notes.append(f"Trained on {len(train)} training images.")
    if "label" in tested.model.needs:
        section.notes.append("Where the encoder is told the label, codes may carry it, and tell of no representation.")
    return section
