"""The dual encoder of images and captions: CLIP."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.core import Batch, ImageTextModel, Spec
from vae_lightning.models.open_clip import OpenClipTower
from vae_lightning.models.text_tower import TextTowerFactory, TextTransformer
from vae_lightning.nets import ConvEncoder, NetFactory, at_least_float32

FIRST, LARGEST = math.log(1 / 0.07), math.log(100.0)


class DualEncoder(ImageTextModel):
    """An image tower and a text tower, each followed by a linear map to unit vectors, and a learned temperature
    (Radford et al. 2021).

    Args:
        spec: of images with captions.
        image_tower: (in_shape, image_shape) -> a net of any out_shape, given the image scaled to [0, 1].
        text_tower: text -> a tower.
        embedding_size: E.

    Raises:
        ValueError: data without captions.
    """

    def __init__(
        self,
        spec: Spec,
        image_tower: NetFactory = ConvEncoder,
        text_tower: TextTowerFactory = TextTransformer,
        embedding_size: int = 64,
    ) -> None:
        super().__init__()
        if embedding_size < 1:
            raise ValueError(f"DualEncoder.embedding_size: expected at least 1, got {embedding_size}.")
        self.top = spec.levels - 1
        self.image_tower = image_tower(spec.image_shape, spec.image_shape)
        self.text_tower = text_tower(spec.require_text("DualEncoder"))
        self.image_projection = _projection(math.prod(self.image_tower.out_shape), embedding_size)
        self.text_projection = _projection(self.text_tower.size, embedding_size)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(FIRST))

    def embed_image(self, image: Tensor) -> Tensor:
        features = self.image_tower(image / self.top).flatten(1)
        return F.normalize(at_least_float32(self.image_projection(features)), dim=-1)

    def embed_text(self, text: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.text_projection(self.text_tower(text))), dim=-1)

    def inverse_temperature(self) -> Tensor:
        """The weight itself is brought back to log 1 .. log 100, as open_clip does behind each step: a clamp of what is
        read would leave a weight beyond it without gradient."""
        with torch.no_grad():
            self.log_inverse_temperature.clamp_(0, LARGEST)
        return self.log_inverse_temperature.exp()

    def init_from_data(self, batch: Batch) -> None:
        """Pretrained towers get their weights here, where a run begins, and from its checkpoint ever after."""
        for part in self.modules():
            if isinstance(part, OpenClipTower):
                part.fetch()

    def param_groups(self) -> list[dict[str, Any]]:
        """Weight decay is for matrices: not for biases, norms and the temperature (open_clip's rule)."""
        return [{"params": [p for p in self.parameters() if p.dim() < 2], "weight_decay": 0.0, "name": "no_decay"}]


def _projection(features: int, size: int) -> nn.Linear:
    """Without a bias; the identity where sizes agree, so that a pretrained pair begins as it was trained."""
    made = nn.Linear(features, size, bias=False)
    if features == size:
        nn.init.eye_(made.weight)
    return made
