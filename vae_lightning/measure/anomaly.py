"""How well a model's scores tell images of another data set from its own test images."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.anomaly import AUROC, auroc, complexity, likelihood_ratio
from vae_lightning.metrics.classifier import of_class, sum_out
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
    if discrete and "log_prob" in all_scores and levels <= 256:
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


@dataclass(frozen=True)
class Apart:
    """How well each score tells other images from a model's own.

    Args:
        ours: score -> (N,), of the model's own.
        theirs: score -> (M,).
        areas: score -> area under the ROC curve: 0.5 is a coin, 1 tells all, and below 0.5 the other images look more
            normal than the model's own, as simple images do to a likelihood (Nalisnick et al. 2019).
        notes: what to make of them.
    """

    ours: Mapping[str, Tensor]
    theirs: Mapping[str, Tensor]
    areas: Mapping[str, AUROC]
    notes: Sequence[str]

    def table(self) -> str:
        """A line a score, %, with the standard error and the interval."""
        n, m = (len(next(iter(scores.values()))) for scores in (self.ours, self.theirs))
        lines = [f"Area under the ROC curve, %: {m} other images against {n} of the model's own"]
        width = max(len(LABELS[name]) for name in self.areas)
        for name, area in self.areas.items():
            value, error, low, high = (100 * part for part in area)
            shown = f"+- {error:.2f}" if math.isfinite(error) else ""
            lines.append(f"  {LABELS[name]:{width}}  {value:6.2f} {shown:9}  {low:.1f} to {high:.1f} (95 %)")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def csv(self, ours: Sequence[str], theirs: Sequence[str]) -> str:
        """A row an image, the model's own first: its name, whether it is another one, its scores."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["image", "other", *self.ours])
        for other, names, scores in ((0, ours, self.ours), (1, theirs, self.theirs)):
            columns = [values.tolist() for values in scores.values()]
            writer.writerows([name, other, *row] for name, row in zip(names, zip(*columns, strict=True), strict=True))
        return text.getvalue()


def tell_apart(
    model: LatentModel,
    normal: Tensor,
    ood: Tensor,
    levels: int,
    num_samples: int,
    device: torch.device,
    background: LatentModel | None = None,
    p_y: Tensor | None = None,
) -> Apart:
    """The area under the ROC curve of each score, see `Apart`.

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
    ours, theirs = (scores(model, images, levels, num_samples, device, background, p_y) for images in (normal, ood))
    areas, notes = {name: auroc(ours[name], theirs[name]) for name in LABELS if name in ours}, list[str]()
    if "label" in model.needs:
        notes.append("The other images have no class of the model's: the classes are summed out, by their frequency.")
    for name in ("elbo", "log_prob", "distortion"):
        if name in areas and areas[name].value < 0.5:
            notes.append(
                f"{LABELS[name]} calls the other images more normal than the model's own: simple images are cheap, "
                "whatever they show; take the score less a generic coder's bits."
            )
            break
    return Apart(ours, theirs, areas, notes)
