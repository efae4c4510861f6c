"""The whole of a model of two latents in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from vae_lightning.core import Batch, Given, LatentModel, PriorMean, centre, without_image
from vae_lightning.images.pictures import grid
from vae_lightning.train.module import Experiment
from vae_lightning.train.pictures import Picture

OUTSIDE = 0.005
"""Share of the codes that may lie beyond each edge of the plane shown."""
MOST_NAMED = 20
"""Classes that a legend names at most."""


class LatentPlane(Picture):
    """Of a model with two latents: left, the codes of held-out images (their posteriors' centres), coloured by class;
    right, images decoded at the points of a grid over the same plane, as in Kingma & Welling (2014, fig. 4), whose grid
    follows the prior's quantiles. A model that is told labels is told that of the first image. Of any other model there
    is no picture.

    Args:
        every_n_epochs: how often; null for ten moments of the training.
        num_images: how many held-out images' codes at most.
        columns: decoded images a side.
    """

    section = "latent"

    def __init__(self, every_n_epochs: int | None = None, num_images: int = 2000, columns: int = 15) -> None:
        super().__init__(every_n_epochs, num_images)
        if columns < 2:
            raise ValueError(f"LatentPlane.columns: expected at least 2, got {columns}.")
        self.columns = columns
        self._levels, self._classes = 256, tuple[str, ...]()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes what the images are."""
        if isinstance(pl_module, Experiment):
            self._levels, self._classes = pl_module.spec.levels, pl_module.spec.classes or ()

    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        (name, q), *others = model.posteriors(batch).items()
        if others or q.event_shape.numel() != 2:
            return None
        codes = centre(q).flatten(len(q.batch_shape))
        if not codes.is_floating_point() or not codes.isfinite().all():
            return None
        edges = codes.float().quantile(codes.new_tensor([OUTSIDE, 1 - OUTSIDE]).float(), 0)  # (2 ends, 2 latents)
        edges = edges + (edges[1] - edges[0]).clamp_min(1e-3) * edges.new_tensor([[-0.05], [0.05]])
        low, high = edges.tolist()
        x, y = (torch.linspace(low[i], high[i], self.columns, device=codes.device) for i in (0, 1))
        points = torch.cartesian_prod(y.flip(0), x).flip(1)  # rows from the top: up is up in both halves
        given = {key: value[[0] * len(points)] for key, value in without_image(batch).items()}
        z = points.to(codes.dtype).view(-1, *q.event_shape)
        images = model(Given({name: z}, PriorMean((len(z),))), given).mean
        label = batch.get("label")
        plane = draw_plane(
            codes.cpu().numpy(),
            None if label is None else label.cpu().numpy(),
            self._classes,
            grid(images, self.columns, self._levels).permute(1, 2, 0).numpy(),
            edges.cpu().numpy(),
        )
        return torch.from_numpy(plane).permute(2, 0, 1)[None] * ((self._levels - 1) / 255), 1


def draw_plane(
    codes: np.ndarray, label: np.ndarray | None, classes: Sequence[str], decoded: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """The two halves as one picture, (H, W, 3) float32 in 0..255.

    Args:
        codes: (N, 2).
        label: (N,) integers, or None.
        classes: the labels' names.
        decoded: the grid of images, (H', W', 2 to 4) uint8.
        edges: of the plane, (2 ends, 2 latents).
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if label is None:
        left.scatter(*codes.T, s=6, alpha=0.6, linewidths=0)
    else:
        present = np.unique(label)
        colours = colormaps["tab10" if len(present) <= 10 else "turbo"].resampled(max(len(present), 1))
        for place, number in enumerate(present):
            named = classes[number] if number < len(classes) else str(number)
            left.scatter(*codes[label == number].T, s=6, alpha=0.6, linewidths=0, color=colours(place), label=named)
        if 1 < len(present) <= MOST_NAMED:
            left.legend(markerscale=3, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    extent = (edges[0, 0], edges[1, 0], edges[0, 1], edges[1, 1])
    right.imshow(decoded[..., :3] if decoded.shape[-1] > 3 else decoded, extent=extent, aspect="auto")
    for axes, title in ((left, "codes of held-out images"), (right, "decoded over the same plane")):
        axes.set(title=title, xlim=extent[:2], ylim=extent[2:], xlabel="first latent", ylabel="second latent")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32)
