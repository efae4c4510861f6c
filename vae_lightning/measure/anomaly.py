"""How well a model's scores tell images of another data set from its own test images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from vae_lightning.core import Batch, LatentModel
from vae_lightning.data import ImageData, Images
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.anomaly import auroc, complexity, likelihood_ratio
from vae_lightning.report.results import Section
from vae_lightning.trained import TrainedModel, load_model

LABELS = {
    "elbo": "-ELBO",
    "log_prob": "-log p(x)",
    "rate": "rate",
    "distortion": "distortion",
    "complexity": "a generic coder alone",
    "ratio": "-log p(x) less a generic coder's bits",
    "background": "-log p(x) less the background model's",
}


def fit_in(images: Images, levels: int, data: ImageData) -> Tensor:
    """Images of another set (N, C, H, W) brought to the shape and levels of a model's own, as its own would be:
    grey in three equal channels or colours by their luma, bilinearly to the size, rounded to the levels, binarised by a
    fixed seed where the data are.

    Raises:
        ValueError: a number of channels that is not the model's, and not 1 and 3.
    """
    channels, height, width = data.image_shape
    unit = torch.cat([part.float() for part in images.chunks()]) / (levels - 1)
    if (unit.shape[1], channels) == (1, 3):
        unit = unit.expand(-1, 3, -1, -1)
    elif (unit.shape[1], channels) == (3, 1):
        unit = rgb_to_grayscale(unit)
    elif unit.shape[1] != channels:
        raise ValueError(
            f"--ood: expected images of {channels} channels, as the model's own, got {unit.shape[1]}: choose others."
        )
    if unit.shape[-2:] != (height, width):
        unit = F.interpolate(unit, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
    if data.levels == 2:
        return torch.bernoulli(unit, generator=torch.Generator().manual_seed(data.split_seed))
    return (unit * (data.levels - 1)).round()


def load_background(path: str, own: TrainedModel) -> LatentModel:
    """The model of a checkpoint or run, to set beside a model of images of the same kind. ValueError for another."""
    found = load_model(path, str(own.device))
    if (found.spec.image_shape, found.spec.levels) != (own.spec.image_shape, own.spec.levels):
        raise ValueError(
            f"--background: expected a model of images of shape {own.spec.image_shape} with {own.spec.levels} levels, "
            f"got one of {found.spec.image_shape} with {found.spec.levels}: choose another."
        )
    if found.is_autoencoder or own.is_autoencoder:
        raise ValueError("--background: expected two models with a likelihood, got an autoencoder: choose two VAEs.")
    return found.latent_model


@torch.no_grad()
def scores(
    model: LatentModel,
    images: Tensor,
    levels: int,
    num_samples: int,
    device: torch.device,
    background: LatentModel | None = None,
) -> dict[str, Tensor]:
    """Name -> (N,), the higher the less likely the image."""
    found: dict[str, list[Tensor]] = {}
    discrete = True
    for part in images.split(500):
        batch: Batch = {"image": part.to(device).float()}
        trace = model.trace(batch)
        found_here, discrete = trace.scores(), trace.is_discrete
        values = {"distortion": found_here["distortion"]}
        if trace.has_rate:
            values |= {
                "elbo": -found_here["elbo"],
                "rate": found_here["rate"],
                "log_prob": -log_prob(model, batch, num_samples),
            }
            if background is not None:
                values["background"] = values["log_prob"] + log_prob(background, batch, num_samples)
        for name, value in values.items():
            found.setdefault(name, []).append(value.cpu())
    all_scores = {name: torch.cat(parts) for name, parts in found.items()}
    if discrete and "log_prob" in all_scores:
        all_scores["complexity"] = complexity(images, levels)
        all_scores["ratio"] = likelihood_ratio(-all_scores["log_prob"], all_scores["complexity"])
    return all_scores


def tell_apart(
    model: LatentModel,
    normal: Tensor,
    ood: Tensor,
    levels: int,
    num_samples: int,
    device: torch.device,
    background: LatentModel | None = None,
) -> Section:
    """The area under the ROC curve of each score: 50 % is a coin, 100 % tells all, and below 50 % the other images look
    more normal than the model's own, as simple images do to a likelihood (Nalisnick et al. 2019).

    Args:
        model: in evaluation mode.
        normal: the model's own test images, (N, C, H, W), integers 0..levels-1.
        ood: other images of the same shape and levels.
        levels: how many.
        num_samples: importance samples of -log p(x).
        device: where the model is.
        background: a model of what both kinds of images share, whose -log p(x) is taken off (Ren et al. 2019).
    """
    section = Section("Area under the ROC curve: out-of-distribution images against the model's own")
    ours, theirs = (scores(model, images, levels, num_samples, device, background) for images in (normal, ood))
    for name, label in LABELS.items():
        if name in ours:
            value, error = auroc(ours[name], theirs[name])
            section.add(f"auroc_{name}", label, (100 * value, 100 * error), "%", "higher")
    for name in ("elbo", "log_prob", "distortion"):
        if name in ours and (value := auroc(ours[name], theirs[name]).value) < 0.5 and math.isfinite(value):
            section.notes.append(
                f"{LABELS[name]} calls the other images more normal than the model's own: simple images are cheap, "
                "whatever they show; take the score less a generic coder's bits."
            )
            break
    return section
