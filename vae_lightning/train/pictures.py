"""Callbacks that show what the model does, to the run's folder and to every logger that takes images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vae_lightning.core import Batch, Given, LatentModel, PriorMean, Site, centre, image_of, rows, seeded, without_image
from vae_lightning.data import ImageData
from vae_lightning.images.pictures import grid, save_picture, with_captions
from vae_lightning.models import UnCLIP
from vae_lightning.objectives.elbo import kl_per_latent
from vae_lightning.tokens import Tokens
from vae_lightning.train.module import Experiment
from vae_lightning.train.share import Share

MOMENTS = 10
"""Of a training at which pictures are drawn."""


class Picture(Callback, ABC):
    """One picture at the end of some epochs and of the last, on rank zero, of the same held-out images with the same
    noise each time, so that two epochs compare.

    Args:
        every_n_epochs: how often; null for ten moments of the training, however long it is.
        num_images: how many held-out images or samples.
    """

    section = "samples"
    captions: list[str]
    """What the picture's rows are, to be written beside them; none by default."""

    def __init__(self, every_n_epochs: int | None = None, num_images: int = 8) -> None:
        if (every_n_epochs is not None and every_n_epochs < 1) or num_images < 1:
            raise ValueError(f"{type(self).__name__}: expected every_n_epochs and num_images of at least 1.")
        self.every_n_epochs, self.num_images, self.captions = every_n_epochs, num_images, []
        self._share: Share | None = None
        self._moment = 0

    @abstractmethod
    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        """(images, columns) from the model and `num_images` held-out images; None where it makes no sense."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._share = Share(trainer)
        self._moment = int(MOMENTS * self._share(0))  # of a run that goes on

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether to draw at the end of this epoch; validation outside a training draws."""
        epoch = trainer.current_epoch + 1
        if self._share is None or epoch == trainer.max_epochs:
            return True
        if self.every_n_epochs is not None:
            return epoch % self.every_n_epochs == 0
        batches: Any = trainer.num_training_batches
        before, self._moment = self._moment, int(MOMENTS * self._share(0 if batches == math.inf else batches))
        return self._moment > before

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or not isinstance(data, ImageData) or not isinstance(pl_module, Experiment):
            return
        if not isinstance(pl_module.latent_model, LatentModel):
            return
        if not self._is_due(trainer):
            return
        epoch = trainer.current_epoch + 1
        folder = trainer.log_dir  # asked for in every process: the first one tells the others
        if not trainer.is_global_zero:
            return
        batch = held_out(data, self.num_images, pl_module.device)
        with torch.no_grad(), seeded(0, pl_module.device):
            drawn = self.draw(pl_module.latent_model, batch)
        if drawn is None:
            return
        picture = with_captions(grid(*drawn, levels=pl_module.spec.levels), self.captions)
        name = type(self).__name__.lower()
        if folder is not None:
            save_picture(picture, Path(folder) / "images" / name / f"epoch_{epoch:04d}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                said = {"caption": ["; ".join(self.captions)]} if self.captions else {}
                logger.log_image(f"{self.section}/{name}", [picture.float() / 255], step=trainer.global_step, **said)


def held_out(data: ImageData, count: int, device: torch.device) -> dict[str, Tensor]:
    """A batch of at most `count` validation images, evenly over all."""
    batch = data.splits["val"].batch(data.splits["val"].some_rows(count))
    return {name: value.to(device) for name, value in {**batch, "image": image_of(batch).float()}.items()}


class Reconstructions(Picture):
    """Above, held-out images; below, E[x|z] for one z from each posterior."""

    section = "recon"

    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        trace = model.trace(batch)
        return torch.cat([trace.x, trace.px.mean]), len(trace.x)


class PriorSamples(Picture):
    """E[x|z] for z from the prior; a row a class for a model that generates by class."""

    def __init__(self, every_n_epochs: int | None = None, num_images: int = 64) -> None:
        super().__init__(every_n_epochs, num_images)

    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        if not model.generates(model.trace(rows(batch, slice(0, 1)))):
            return None
        if model.generates_by_class and "label" in batch:
            classes = batch["label"].unique()  # of those held out
            columns = max(1, self.num_images // len(classes))
            return model.sample({"label": classes}, columns).mean.transpose(0, 1).flatten(0, 1), columns
        return model.sample({}, self.num_images).mean, max(1, round(self.num_images**0.5))


class CaptionSamples(Picture):
    """Generated images of some captions, a row a caption, which stands beside it: of a text-to-image model with a
    decoder; while the prior alone is trained there is nothing to see.

    Args:
        every_n_epochs: how often; null for ten moments of the training.
        num_captions: how many held-out captions, different ones.
        columns: images a caption.
        captions: others, in their place.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        num_captions: int = 6,
        columns: int = 8,
        captions: list[str] | None = None,
    ) -> None:
        if num_captions < 1 or columns < 1:
            raise ValueError("CaptionSamples: expected num_captions and columns of at least 1.")
        super().__init__(every_n_epochs, 10 * num_captions)
        self.num_captions, self.columns, self.asked = num_captions, columns, captions
        self._tokens: Tokens | None = None
        self._text: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads the captions before training, so that an unknown word ends it there."""
        if isinstance(pl_module, Experiment) and "text" in pl_module.latent_model.needs:
            self._tokens = Tokens(pl_module.spec.require_text("CaptionSamples"))
            self._text = None if self.asked is None else self._tokens.encode(self.asked)

    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        if not isinstance(model, UnCLIP) or model.decoder is None or self._tokens is None:
            return None
        text = batch["text"] if self._text is None else self._text
        said = self._tokens.decode(text)
        first = {caption: row for row, caption in reversed(list(enumerate(said)))}  # of equal ones the first
        chosen = sorted(first.values())[: self.num_captions if self._text is None else None]
        self.captions = [said[row] for row in chosen]
        made = model.sample({"text": text[chosen].to(image_of(batch).device)}, self.columns).mean
        return made.transpose(0, 1).flatten(0, 1), self.columns


class Traversals(Picture):
    """Each row moves one latent of an image through +-3 of its standard deviations over images, the others held: the
    most informative latents, of the largest rate, first.

    Args:
        every_n_epochs: how often; null for ten moments of the training.
        num_images: how many held-out images the spread is measured over.
        rows: how many latents.
        columns: how many steps.
    """

    section = "latent"

    def __init__(
        self, every_n_epochs: int | None = None, num_images: int = 256, rows: int = 8, columns: int = 9
    ) -> None:
        super().__init__(every_n_epochs, num_images)
        self.rows, self.columns = rows, columns

    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        trace = model.trace(batch)
        if len(trace.x) < 2:
            return None
        site = next(iter(trace.sites.values()))
        codes = centre(site.q)
        if codes.dim() != 2 or not codes.is_floating_point():  # a map, or names that nothing lies between
            return None
        scale, middle = codes.std(0), codes.mean(0)
        latents = self._information(site, scale).argsort(descending=True)[: self.rows]
        steps = torch.linspace(-3, 3, self.columns, device=codes.device)
        z = codes[0].repeat(len(latents), self.columns, 1)
        for row, latent in enumerate(latents):
            z[row, :, latent] = middle[latent] + steps * scale[latent]
        given = {name: value[[0] * (len(z) * self.columns)] for name, value in without_image(batch).items()}
        return model(Given({site.name: z.flatten(0, 1)}, PriorMean((len(z) * self.columns,))), given).mean, self.columns

    @staticmethod
    def _information(site: Site, scale: Tensor) -> Tensor:
        """The rate of each latent, (d,); the spread of its means where no rate comes apart by latents."""
        try:
            rate = kl_per_latent(site).mean(0)
        except (ValueError, NotImplementedError):
            return scale
        return rate if torch.isfinite(rate).all() else scale


class Interpolations(Picture):
    """Each row goes in a straight line from one held-out image's code to another's; the originals stand at its ends. A
    model that is told labels is told that of the nearer end."""

    section = "latent"

    def __init__(self, every_n_epochs: int | None = None, num_images: int = 8, columns: int = 8) -> None:
        super().__init__(every_n_epochs, 2 * num_images)
        self.columns = columns

    def draw(self, model: LatentModel, batch: Batch) -> tuple[Tensor, int] | None:
        trace = model.trace(batch)
        image, pairs = trace.x, len(trace.x) // 2
        if not pairs:
            return None
        site = next(iter(trace.sites.values()))
        codes = centre(site.q)
        if not codes.is_floating_point():
            return None
        start, end = codes[:pairs], codes[pairs : 2 * pairs]
        t = torch.linspace(0, 1, self.columns, device=image.device)
        z = torch.lerp(start[:, None], end[:, None], t.view(-1, *[1] * (codes.dim() - 1)))  # (pairs, columns, *event)
        nearer = pairs * (t >= 0.5).long()
        near = nearer + torch.arange(pairs, device=image.device)[:, None]  # (pairs, columns)
        given = rows(without_image(batch), near.flatten())
        draw = Given({site.name: z.flatten(0, 1)}, PriorMean((pairs * self.columns,)))
        means = model(draw, given).mean.unflatten(0, (pairs, self.columns))
        lines = torch.cat([image[:pairs, None], means, image[pairs : 2 * pairs, None]], 1)
        return lines.flatten(0, 1), self.columns + 2
