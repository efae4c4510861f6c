"""The contrastive objective of image-text pairs."""

from __future__ import annotations

import torch
import torch.distributed
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor

from vae_lightning.core import Batch, ImageTextModel, Loss, Model, Objective, image_of


def contrastive_loss(image: Tensor, text: Tensor, inverse_temperature: Tensor) -> Tensor:
    """Of pairs of unit vectors (B, E): the cross-entropy of telling which caption is an image's and which image is a
    caption's, the mean of both, (), nats a pair (Radford et al. 2021, figure 3)."""
    logits = inverse_temperature * image @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def of_all_processes(x: Tensor) -> Tensor:
    """(B, E) -> (R B, E) of R processes, one after the other, with gradients to all of them; each has as many."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    return torch.cat(torch.distributed.nn.functional.all_gather(x))


class Contrastive(Objective):
    """-(log p(text | image) + log p(image | text)) / 2 among the pairs of a batch, over all processes, nats a pair.

    A caption that comes k times in a batch belongs to its images alike: its logits are equal, so that this is already
    the cross-entropy against the uniform distribution over the pairs of that caption. What the loss can come to is
    therefore not 0 but the entropy of that choice, and the accuracy within a batch says nothing.
    """

    def check(self, model: Model, batch: Batch) -> None:
        _require_towers(model)
        if "text" not in batch:
            raise ValueError(
                f"Contrastive: expected images with captions, got {', '.join(batch)}: choose captioned data, and "
                "data.columns with text."
            )

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = _require_towers(model)
        image, text = model.embed_image(image_of(batch)), model.embed_text(batch["text"])
        scale = model.inverse_temperature()
        value = contrastive_loss(of_all_processes(image), of_all_processes(text), scale)
        return Loss(value, {"contrastive": value.detach(), "inverse_temperature": scale.detach()})


def _require_towers(model: Model) -> ImageTextModel:
    if not isinstance(model, ImageTextModel):
        raise ValueError(
            f"Contrastive: expected a model that embeds images and captions, such as DualEncoder, got "
            f"{type(model).__name__}: choose the objective that belongs to it."
        )
    return model
