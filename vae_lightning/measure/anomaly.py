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
from vae_lightning.metrics.classifier import of_class, sum_out
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
    if found.latent_model.needs:
        raise ValueError(
            f"--background: expected a model that needs no {found.latent_model.needs[0]}s, got one that does: choose "
            "one without."
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
    p_y: Tensor | None = None,
) -> dict[str, Tensor]:
    """Name -> (N,), the higher the less likely the image; of a model that needs labels, with the classes of frequencies
    p(y), (C,), summed out."""
    found: dict[str, list[Tensor]] = {}
    discrete = True
    for part in images.split(500):
        batch: Batch = {"image": part.to(device).float()}
        if "label" not in model.needs or p_y is None:
            values, discrete = _costs(model, batch, num_samples)
        else:
            each = [_costs(model, of_class(batch, number), num_samples) for number in range(len(p_y))]
            values, discrete = _summed_out([costs for costs, _ in each], p_y), each[0][1]
        if background is not None and "log_prob" in values:
            values["background"] = values["log_prob"] + log_prob(background, batch, num_samples).cpu()
        for name, value in values.items():
            found.setdefault(name, []).append(value.cpu())
    all_scores = {name: torch.cat(parts) for name, parts in found.items()}
    if discrete and "log_prob" in all_scores and levels <= 256:  # a generic coder's bytes
        all_scores["complexity"] = complexity(images, levels)
        all_scores["ratio"] = likelihood_ratio(-all_scores["log_prob"], all_scores["complexity"])
    return all_scores


def _costs(model: LatentModel, batch: Batch, num_samples: int) -> tuple[dict[str, Tensor], bool]:
    """The scores of a batch, and whether its likelihood is a probability."""
    trace = model.trace(batch)
    found = trace.scores()
    values = {"distortion": found["distortion"]}
    if trace.has_rate:
        nll = -log_prob(model, batch, num_samples)
        values |= {"elbo": -found["elbo"], "rate": found["rate"], "log_prob": nll}
    return {name: value.cpu() for name, value in values.items()}, trace.is_discrete


def _summed_out(each: list[dict[str, Tensor]], p_y: Tensor) -> dict[str, Tensor]:
    """The scores of images whose class y is not told, from those under each: of the bound that has y for a latent, too,
    with the best q(y|x), whose rate is KL(q(y|x) || p(y)) and the mean of the classes'; without a rate the distortion
    under the class that fits best."""
    by_class = {name: torch.stack([costs[name] for costs in each]) for name in each[0]}  # (C, B)
    if "elbo" not in by_class:
        return {"distortion": by_class["distortion"].amin(0)}
    values = {name: -sum_out(-by_class[name], p_y) for name in ("elbo", "log_prob")}
    q_y = (p_y.log()[:, None] - by_class["elbo"]).softmax(0)
    values["distortion"] = (q_y * by_class["distortion"]).sum(0)
    return {**values, "rate": values["elbo"] - values["distortion"]}


def tell_apart(
    model: LatentModel,
    normal: Tensor,
    ood: Tensor,
    levels: int,
    num_samples: int,
    device: torch.device,
    background: LatentModel | None = None,
    p_y: Tensor | None = None,
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
        p_y: the classes' frequencies, (C,), for a model that needs labels, which the other images have not.
    """
    section = Section("Area under the ROC curve: out-of-distribution images against the model's own")
    ours, theirs = (scores(model, images, levels, num_samples, device, background, p_y) for images in (normal, ood))
    for name, label in LABELS.items():
        if name in ours:
            value, error = auroc(ours[name], theirs[name])
            section.add(f"auroc_{name}", label, (100 * value, 100 * error), "%", "higher")
    if "label" in model.needs:
        section.notes.append(
            "The other images have no class of the model's: the classes are summed out, by their frequency."
        )
    for name in ("elbo", "log_prob", "distortion"):
        if name in ours and (value := auroc(ours[name], theirs[name]).value) < 0.5 and math.isfinite(value):
            section.notes.append(
                f"{LABELS[name]} calls the other images more normal than the model's own: simple images are cheap, "
                "whatever they show; take the score less a generic coder's bits."
            )
            break
    return section
