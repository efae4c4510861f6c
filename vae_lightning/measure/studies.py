"""What `test` measures beyond the one pass: studies of whole sets, each a section of its own.

Every study says which models and data it is for, and draws from a generator of its own seed, so that leaving one out
changes no other's numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_lightning.conditionals import begins_as_pca
from vae_lightning.measure.appearance import copies, in_inception, samples, sharpness
from vae_lightning.measure.context import ModelAndData, percent
from vae_lightning.measure.labelled import by_class, classifier
from vae_lightning.measure.study import Study, ask, section_of
from vae_lightning.metrics import importance, mean_error
from vae_lightning.metrics.baselines import PrincipalDensities
from vae_lightning.metrics.estimators.gap import inference_gap, prior_log_prob
from vae_lightning.metrics.estimators.refinement import Gaussians, refined
from vae_lightning.metrics.information import (
    MOST_OF_SEVERAL,
    active_units,
    decompose_rate,
    decompose_rate_by_class,
    diagnose,
    shuffled_distortion,
)
from vae_lightning.metrics.representation import knn_accuracy, label_efficiency, linear_probe
from vae_lightning.objectives.elbo import kl_per_latent
from vae_lightning.report.results import Section

CHECK_SAMPLES = 5000
"""Importance samples, and samples from the prior, of these checks."""
PROBED = 10_000
"""Images whose codes the aggregate posterior is made of, and training images whose codes are probed with."""
LARGEST = 4096
"""Values an image above which what takes their square is left out."""
NATS = "nats/image"


def studies(tested: ModelAndData, log_prob: bool = True) -> list[Section]:
    """All sections that this model and these data admit; without `log_prob` none that takes hours of large images to
    estimate log p(x)."""
    sections, known = list[Section](), ask(tested)
    for study in STUDIES:
        if study.admits(known) and (log_prob or study.function not in (checks, losses)):
            section = section_of(study.function, tested, tested.device)
            sections.append(by_class(section) if known.conditional and study.function is checks else section)
    return [section for section in sections if section.rows or section.notes]


def information(tested: ModelAndData) -> Section:
    """What the rate is made of, and whether the decoder uses the latents."""
    section, model, known = Section("What the latents carry"), tested.model, ask(tested)
    several = known.sites > 1
    by_prior = tested.prior_knows_labels
    found = (decompose_rate_by_class if by_prior else decompose_rate)(model, tested.mixed(), max_images=PROBED)
    labels = {
        "rate": "the rate by samples, sum of the next two",
        "mutual_information": f"mutual information of image and latent{'s' if several else ''}",
        "prior_hole": "KL of the aggregate posterior to the prior",
        "total_correlation": "of it: total correlation of the latents",
        "dimension_wise_kl": f"of it: dimension-wise KL{', given the latents above' if several else ''}",
    }
    for name, label in labels.items():
        if (value := getattr(found, name)) is not None:
            section.add("sampled_rate" if name == "rate" else name, label, value, NATS)
    images = min(known.images, MOST_OF_SEVERAL if several else PROBED)
    if several:
        section.notes.append(
            f"The {known.sites} latents are taken as one, of {images} of {known.images} test images: each pair of "
            "them is a telling of the story. Their total correlation contains what the prior itself joins."
        )
    if by_prior:
        section.notes.append("The prior knows the class: the rate's parts are taken within each class and averaged.")
    limit = math.log(max(1, images / (len(tested.data.spec.classes or "y") if by_prior else 1)))
    if found.mutual_information[0] > 0.9 * limit:
        section.notes.append(
            f"The mutual information is near its ceiling here, log N = {limit:.2f} nats: it tells of N."
        )
    matched, shuffled = shuffled_distortion(model, tested.mixed())
    section.add("shuffled_distortion", "distortion with another image's latents", shuffled, NATS)
    if not known.mean:  # such as of a flow, whose codes are samples: their noise alone would be activity
        section.notes.append("No active units and no rate of each latent: the posterior has no mean in closed form.")
        return section
    active = active_units(tested.codes(tested.test))
    section.add("active_units", f"active of the {len(active)} latents", (int(active.sum()), math.nan), "latents")
    rates, each = dict[str, list[Tensor]](), list[Tensor]()
    for batch in tested.batches(tested.test):
        sites = model.trace(batch).sites.values()
        for site in sites:
            rates.setdefault(site.name, []).append(site.kl())
        if known.rate_of_each:
            each.append(torch.cat([kl_per_latent(site).flatten(1) for site in sites], 1).sum(0))
    for name, parts in rates.items() if several else ():
        section.add(f"rate_{name}", f"rate of {name}", mean_error(torch.cat(parts)), NATS)
    if not known.rate_of_each:
        section.notes.append(
            "No rate of each latent, by which to tell collapsed ones: posterior and prior do not both factorise."
        )
        return section
    of_each = torch.stack(each).sum(0).cpu() / known.images
    setting = "" if several else "--model.latent_model.latent_size"
    section.notes.append(diagnose(of_each, active, matched[0], shuffled[0], setting, begins_as_pca(model)))
    return section


def checks(tested: ModelAndData) -> Section:
    """log p(x) of some images by independent estimators."""
    given, annealed = tested.annealed
    section = Section(f"log p(x) of {len(annealed)} test images, checked")
    proposals: dict[str, tuple[str, Gaussians | None]] = {"checked": ("", None)}
    if ask(tested).gaussian:
        proposals["refined"] = (", refined posteriors", refined(tested.model, given).widened())
    else:
        section.notes.append("No refined posteriors and no parts of the gap: they are sought among diagonal Gaussians.")
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
    return section


def losses(tested: ModelAndData) -> Section:
    """The two parts of the gap of some images' ELBO to log p(x)."""
    given, annealed = tested.annealed
    section = Section(f"What the ELBO of {len(annealed)} test images loses")
    gap = inference_gap(tested.model, given, annealed)
    section.add(
        "amortisation_gap", "what the encoder loses to the best Gaussian", mean_error(gap.amortisation), NATS, "lower"
    )
    section.add("approximation_gap", "what the best Gaussian loses", mean_error(gap.approximation), NATS, "lower")
    return section


def gaussian(tested: ModelAndData) -> Section:
    """Probabilistic PCA with as many components as the model has latents: the linear model to beat."""
    section = Section("Probabilistic PCA")
    size = tested.codes(tested.test[torch.arange(1)]).shape[1]
    if size < math.prod(tested.data.image_shape):
        train, held_out = tested.data.fixed("train"), tested.data.fixed("val")
        densities = PrincipalDensities.of(train.chunks(), tested.data.levels)
        chosen = densities.best(list(held_out.chunks()), size)
        log_prob = densities.log_prob(tested.test.chunks(), chosen)
        section.add("ppca_nll", f"-log density, {chosen} components", mean_error(-log_prob), NATS)
        if chosen < size:
            section.notes.append(
                f"{len(train)} training images are few for {size} components: of that number, its half, its quarter, "
                f"... the validation images are the most likely under {chosen}."
            )
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


STUDIES = (
    Study(information, images=2),
    Study(checks, continuous=True),
    Study(losses, continuous=True, gaussian=True),
    Study(classifier, conditional=True, labels=True),
    Study(sharpness, rate=False, generates=True),
    Study(samples, rate=False, generates=True, labels=True),
    Study(in_inception, rate=False, generates=True),
    Study(copies, rate=False, generates=True),
    Study(representation, rate=False, labels=True),
    Study(gaussian, rate=False, grey=True, values=LARGEST),
)
"""In the order in which they are shown."""
