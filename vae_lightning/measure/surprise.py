"""How surprising a model finds images: their self-information -log p(x), the length of an ideal code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vae_lightning.compression.archive import told
from vae_lightning.compression.exactness import batch_of
from vae_lightning.compression.form import InputImages
from vae_lightning.core import bits, rows, seeded
from vae_lightning.images.pictures import grid, save_picture
from vae_lightning.measure.measure import EXTREMES
from vae_lightning.metrics import log_prob
from vae_lightning.trained import TrainedModel

CHUNK = 500


@dataclass(frozen=True)
class Weighed:
    """Code lengths of images by importance sampling and by the ELBO of one sample, (N,): bits where the likelihood is
    a probability of levels, else nats of a density, which are no length of any code."""

    length: Tensor
    bound: Tensor
    is_discrete: bool
    density: str = "p(x)"

    @property
    def order(self) -> list[int]:
        """The most surprising first."""
        return [int(row) for row in self.length.argsort(descending=True, stable=True)]

    def table(self, images: InputImages) -> str:
        """One line an image, the most surprising first, and the mean."""
        values = images.image[0].numel()
        unit = "bits" if self.is_discrete else "nats (a density's, no code length)"
        lines = [f"surprise: -log {self.density} in {unit}, {'bits/dim, ' if self.is_discrete else ''}-ELBO, image"]

        def line(length: float, bound: float, name: str) -> str:
            per_dim = f"{length / values:9.4f} " if self.is_discrete else ""
            return f"{length:11.2f} {per_dim}{bound:11.2f}  {name}"

        lines += [line(self.length[row].item(), self.bound[row].item(), images.name(row)) for row in self.order]
        mean = line(self.length.mean().item(), self.bound.mean().item(), f"mean of {len(self.length)}")
        return "\n".join([*lines, mean])


@torch.no_grad()
def weigh(trained: TrainedModel, images: InputImages, num_samples: int) -> Weighed:
    """The surprise of each image, with the same noise at each call.

    Raises:
        ValueError: the model is an autoencoder, which gives images no probability.
    """
    if trained.is_autoencoder:
        raise ValueError(
            "expected a model that gives images a probability, got an autoencoder (point-mass posterior): train a VAE "
            "(encoder GaussianPosterior, objective ELBO)."
        )
    labels = told(trained, images.form)
    found: list[tuple[Tensor, Tensor]] = []
    discrete = True
    with seeded(0, trained.device):
        for start in range(0, len(images.image), CHUNK):
            part = slice(start, start + CHUNK)
            batch = batch_of(trained.latent_model, images.image[part], trained.device, rows(labels, part))
            trace = trained.latent_model.trace(batch)
            bound = -trace.scores()["elbo"]
            found.append((-log_prob(trained.latent_model, batch, num_samples).cpu(), bound.cpu()))
            discrete = trace.is_discrete
    nats = (torch.cat(parts).double() for parts in zip(*found, strict=True))
    length, bound = (bits(it) if discrete else it for it in nats)
    return Weighed(length, bound, discrete, "p(x|y)" if trained.latent_model.is_conditional else "p(x)")


def show(weighed: Weighed, images: InputImages, levels: int, path: Path) -> str:
    """Writes a picture of the most surprising images and the least; returns the sentence about it."""
    count = min(EXTREMES, max(1, len(images.image) // 2))
    order = weighed.order
    ends = [*order[:count], *(order[: -count - 1 : -1] if len(order) > 1 else [])]
    save_picture(grid(images.image[torch.tensor(ends)].float(), 8, levels), path)
    return f"{path}: first the {count} most surprising images, then the {len(ends) - count} least."
