"""What `test` measures, section by section: the model's numbers beside the baselines that they have to beat."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vae_lightning.core import LatentModel, bits
from vae_lightning.data import ImageData
from vae_lightning.data.source import sha256
from vae_lightning.images.pictures import grid, save_picture
from vae_lightning.measure.beside import BESIDE, baselines
from vae_lightning.measure.context import ModelAndData
from vae_lightning.measure.labelled import by_class
from vae_lightning.measure.studies import studies
from vae_lightning.measure.text2image import studies as text2image
from vae_lightning.measure.text2image.retrieval import retrieval
from vae_lightning.metrics import (
    ImageEvaluation,
    SiteEvaluation,
    mean_error,
    pca_squared_error,
    sample_counts,
)
from vae_lightning.metrics.estimators.pareto import TOO_HEAVY
from vae_lightning.metrics.estimators.refinement import STEPS, WIDENING
from vae_lightning.report.results import Results, Section
from vae_lightning.train.evaluation import EVALUATION_SEED
from vae_lightning.train.module import Experiment

PCA_LIMIT = 4096
"""Values an image above which the principal components, a matter of their cube, are left out."""
SMALLEST_EFFECTIVE = 10
"""Effective samples an image below which an importance-sampled -log p(x) is not to be trusted."""
EXTREMES = 16
"""How many of the least and of the most surprising images are shown."""
SETTLED = 0.3
"""Nats that the last tenfold of samples may take off -log p(x)."""
HEAVY_SHARE = 5.0
"""Images in % that may have weights with too heavy a tail before the figure is not to be trusted."""
NATS, PER_IMAGE = "nats/image", "per image"


def measure(experiment: Experiment, data: ImageData, folder: Path) -> Results:
    """All sections, from the pass over the test images that has just ended and from the images themselves."""
    experiment.eval()  # Lightning has set training's mode again, in which encoders drop units and corrupt images
    evaluation, per_image = experiment.evaluation, experiment.evaluation.per_image
    if not isinstance(evaluation, ImageEvaluation):
        return _plain(experiment, data, folder)
    assert isinstance(experiment.latent_model, LatentModel)
    sections = [
        likelihood(experiment),
        classification(experiment, data),
        codes(experiment),
        reconstruction(experiment, data, per_image),
        baselines(experiment, data, per_image),
        surprise(experiment, data, folder, per_image),
    ]
    if experiment.latent_model.is_conditional:
        sections = [section if section.title == BESIDE else by_class(section) for section in sections]
    if evaluation.studies:  # by the first of several processes, while the others are done
        tested = ModelAndData(experiment.latent_model, data, experiment.device, folder)
        sections += studies(tested, log_prob=evaluation.samples > 0)
        per_image |= tested.per_image
    return Results(
        run=str(folder),
        images=evaluation.images,
        settings={
            **settings(experiment, data),
            "test_samples": evaluation.samples,
            "test_refinement": evaluation.refinement,
        },
        sections=[section for section in sections if section.rows or section.notes],
        per_image={name: values.numpy() for name, values in per_image.items()},
    )


def _plain(experiment: Experiment, data: ImageData, folder: Path) -> Results:
    """What an evaluation of another kind found, as it names it."""
    section = Section("Evaluation")
    for name, value in experiment.results.items():
        section.add(name, name.replace("_", " "), value, "")
    evaluation, sections, made = experiment.evaluation, [section], {}
    if isinstance(evaluation, SiteEvaluation) and isinstance(experiment.latent_model, LatentModel):
        made = {"generated": evaluation.generated}
        if evaluation.generated:
            tested = ModelAndData(experiment.latent_model, data, experiment.device, folder)
            sections += text2image.studies(tested, evaluation.generated, evaluation.attributes)
    sections += retrieval(evaluation, experiment.latent_model, data, experiment.device)
    kept = {name: values.numpy() for name, values in evaluation.per_image.items()}
    return Results(str(folder), evaluation.images, {**settings(experiment, data), **made}, sections, kept)


def settings(experiment: Experiment, data: ImageData) -> dict[str, Any]:
    """What was tested on, and what the samples of a test depend on beside the model: tests that have it in common drew
    the same numbers."""
    trainer, model = experiment.trainer, experiment.latent_model
    return {
        "image_shape": list(data.image_shape),
        "levels": data.levels,
        "test_images": sha256(data.splits["test"]),
        "seed": EVALUATION_SEED,
        "eval_batch_size": data.eval_batch_size,
        "processes": trainer.world_size,
        "device": trainer.strategy.root_device.type,
        **({"density": "p(x|y)"} if isinstance(model, LatentModel) and model.is_conditional else {}),
    }


def classification(experiment: Experiment, data: ImageData) -> Section:
    """How often the class that the model infers is not the image's own; empty of one that infers none."""
    section = Section("Classification")
    if "error" in experiment.results:
        section.add("error", "images that are misclassified", experiment.results["error"], "%", "lower")
        few, count = data.few_labels, len(data.splits["train"])
        told = f"the labels of {few.labels} chosen by the seed {few.seed}" if few else "all labels"
        section.notes.append(f"Trained on {count} images and {told}.")
    return section


def likelihood(experiment: Experiment) -> Section:
    """The bound and its two terms, and -log p(x) over the number of samples."""
    evaluation: Any = experiment.evaluation
    found, section = experiment.results, Section("Likelihood")
    labels = {
        "elbo": ("ELBO", NATS, "higher"),
        "rate": ("rate, KL(q || p)", NATS, ""),
        "distortion": ("distortion, -E log p(x|z)", NATS, ""),
        "bits_per_dim": ("-ELBO", "bits/dim", "lower"),
    }
    for name, (label, unit, better) in labels.items():
        if name in found:
            section.add(name, label, found[name], unit, better)  # type: ignore[arg-type]
    if "nll" not in found:
        for name in found if "elbo" not in found else ():
            if name.startswith("nll_"):  # of codes that are points
                section.add(
                    name, f"-log p({name.removeprefix('nll_')}) of the codes, a density", found[name], NATS, "lower"
                )
        return section
    *below, k = sample_counts(evaluation.samples)
    for fewer in below:
        section.add(f"nll_{fewer}", f"-log p(x), {fewer} samples", found[f"nll_{fewer}"], NATS, "lower")
    section.add("nll", f"-log p(x), {k} samples", found["nll"], NATS, "lower")
    if "nll_bits_per_dim" in found:
        section.add("nll_bits_per_dim", f"-log p(x), {k} samples", found["nll_bits_per_dim"], "bits/dim", "lower")
    section.add("gap", "KL(q || p(z|x)) = log p(x) - ELBO", found["gap"], NATS, "lower")
    variance, images = found["estimator_variance"][0], experiment.evaluation.images
    noise = math.sqrt(variance / max(images, 1))
    section.add("estimator_error", "error of -log p(x) from its samples", (noise, math.nan), NATS)
    section.add("effective_samples", f"effective of the {k} samples", found["effective_samples"], "samples", "higher")
    curve = [found[f"nll_{fewer}"][0] for fewer in below] + [found["nll"][0]]
    if steps := evaluation.refinement:
        section.notes.append(
            f"The importance samples are of each image's own Gaussian, the encoder's improved by {steps} gradient "
            f"steps and {WIDENING} times as wide; published figures draw from the encoder's."
        )
    section.notes += _doubts(curve, variance / 2, found["effective_samples"][0], k)
    if "pareto_high" in found:
        section.add("pareto_high", f"images with Pareto k above {TOO_HEAVY}", found["pareto_high"], "%", "lower")
        section.notes += _tails(found["pareto_high"][0], k, evaluation.refinement)
    return section


def _doubts(curve: list[float], bias: float, effective: float, k: int) -> list[str]:
    """What speaks against taking the last of the curve over k for -log p(x)."""
    above = f"an upper bound of the value, by its own spread at least {bias:.2f} nats above it"
    if k == 1 or effective < SMALLEST_EFFECTIVE:
        return [
            f"Do not trust -log p(x) yet: of {k} samples an image only {effective:.1f} count, and it may lie well "
            f"above the value; raise --model.evaluation.samples (to {max(1000, 10 * k)})."
        ]
    if len(curve) > 1 and (fell := curve[-2] - curve[-1]) > SETTLED:
        return [
            f"-log p(x) has not settled: ten times the samples took {fell:.2f} nats off it. It is {above}; raise "
            f"--model.evaluation.samples (to {10 * k}), or compare with annealed importance sampling "
            "(--model.evaluation.studies)."
        ]
    return [f"-log p(x) with {k} samples is {above}."]


def _tails(share: float, k: int, refinement: int) -> list[str]:
    """Whether the weights have tails in which neither their mean nor its error settles."""
    if share <= HEAVY_SHARE:
        return []
    better = "" if refinement else f"improve each image's posterior first (--model.evaluation.refinement {STEPS}), "
    return [
        f"Take -log p(x) for an upper bound, and do not trust the error from its samples: for {share:.0f} % of the "
        f"images the weights' tail is too heavy (Pareto k above {TOO_HEAVY}), as where the samples' density is too "
        f"narrow, and the value may lie further below than that error says. To know more, {better}hold it against "
        "annealed importance sampling (--model.evaluation.studies), train a wider posterior "
        "(configs/objective/iwae.yaml), "
        f"or, which helps slowly, raise --model.evaluation.samples (to {10 * k})."
    ]


def codes(experiment: Experiment) -> Section:
    """Which codes of a codebook the test images use, all of them taken together."""
    section = Section("Codes")
    for name, value in experiment.results.items():
        if name.startswith("codes_"):
            label = name.removeprefix("codes_").replace("_share", "").replace("_", " of ")
            section.add(name, label, value, "% of codes" if "_share" in name else "codes", "higher")
    return section


def reconstruction(experiment: Experiment, data: ImageData, kept: dict[str, Tensor]) -> Section:
    """How images come back, beside principal components of the same dimension."""
    found, section = experiment.results, Section("Reconstruction, images in [0, 1]")
    labels = {
        "squared_error": ("squared error", PER_IMAGE, "lower"),
        "sampled_squared_error": ("squared error from a posterior sample", PER_IMAGE, "lower"),
        "psnr": ("peak signal-to-noise ratio", "dB", "higher"),
        "ssim": ("structural similarity", "", "higher"),
        "noisy_squared_error": ("squared error of the noisy images", PER_IMAGE, ""),
        "denoised_squared_error": ("squared error after denoising", PER_IMAGE, "lower"),
    }
    for name, (label, unit, better) in labels.items():
        if name in found:
            section.add(name, label, found[name], unit, better)  # type: ignore[arg-type]
    train, test = data.fixed("train"), data.fixed("test")[torch.arange(experiment.evaluation.images)]
    size, values = cast(ImageEvaluation, experiment.evaluation).latent_size, test.stored[0].numel()
    if values <= PCA_LIMIT:
        there = min(size, values, max(1, len(train) - 1))  # so few directions have the training images
        error = pca_squared_error(train.chunks(), test.chunks(), data.levels, there)
        section.add("pca_squared_error", f"PCA with {there} components, squared error", mean_error(error), PER_IMAGE)
        kept["pca_squared_error"] = error
    return section


def surprise(experiment: Experiment, data: ImageData, folder: Path, kept: dict[str, Tensor]) -> Section:
    """The code length of each image, its self-information -log2 p(x), and a picture of the extremes."""
    section = Section("Self-information")
    if "bits_per_dim" not in experiment.results or "elbo" not in kept:
        return section
    length = bits((kept["nll"] if "nll" in kept else -kept["elbo"]).double())
    kept["bits"], order = length, length.argsort()
    section.add("bits", "code length of an image", mean_error(length), "bits", "lower")
    for name, place in (("shortest", 0), ("median", len(length) // 2), ("longest", -1)):
        section.add(f"bits_{name}", f"the {name}", (length[order[place]].item(), math.nan), "bits")
    count = min(EXTREMES, len(length) // 2)
    if count:
        ends = torch.cat([order[:count], order[-count:].flip(0)])
        save_picture(grid(data.splits["test"].take(ends).float(), 8, experiment.spec.levels), folder / "surprise.png")
        section.notes.append(f"surprise.png: first the {count} least surprising test images, then the {count} most.")
    return section
