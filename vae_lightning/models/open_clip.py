"""The two halves of a pretrained open_clip model as frozen towers. The package is imported where a tower is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning.core import TextSpec, seeded
from vae_lightning.models.text_tower import TextTower
from vae_lightning.nets import Net, Shape
from vae_lightning.tokens import Tokens


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ValueError(
            "expected the package open_clip_torch for a pretrained tower, got none: pip install "
            "'vae-lightning[open_clip]', or choose a tower that is trained here."
        ) from None
    return open_clip


class OpenClipTower(nn.Module, ABC):
    """Half of an open_clip model: always in evaluation mode and without gradients. Its weights come into the run's own
    checkpoint, so that they are fetched once, when a run begins."""

    name: str
    pretrained: str
    tower: nn.Module
    is_fetched: Tensor

    def _open(self, name: str, pretrained: str) -> Any:
        """The whole model of that name with random weights, whose half a tower keeps."""
        self.name, self.pretrained = name, pretrained
        with seeded(None):
            whole = _open_clip().create_model(name, pretrained=None)
        self.register_buffer("is_fetched", torch.tensor(False))
        return whole

    def _freeze(self) -> None:
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Any:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)

    @abstractmethod
    def _half_of(self, whole: Any) -> nn.Module: ...

    def fetch(self) -> None:
        """Takes the pretrained weights from open_clip's cache, or from the network, unless a checkpoint has brought
        them."""
        if not self.is_fetched:
            whole = _open_clip().create_model(self.name, pretrained=self.pretrained)
            self.tower.load_state_dict(self._half_of(whole).state_dict())
            self.is_fetched.fill_(True)


class OpenClipImage(OpenClipTower, Net):
    """Image in [0, 1] -> the features of an open_clip model's image tower, the image resized by bicubic interpolation;
    grey is shown as three equal channels.

    Args:
        in_shape: the image's (C, H, W), C of 1 or 3.
        image_shape: the same; every net takes it.
        model: open_clip's name of the architecture.
        pretrained: open_clip's tag of the weights.

    Raises:
        ValueError: the package is missing, or images of other channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, in_shape: Shape, image_shape: Shape, model: str = "ViT-B-32", pretrained: str = "laion2b_s34b_b79k"
    ) -> None:
        Net.__init__(self, in_shape, image_shape)
        if in_shape[0] not in (1, 3):
            raise ValueError(f"OpenClipImage: expected images of 1 or 3 channels, got {in_shape[0]}.")
        whole = self._open(model, pretrained)
        self.tower = self._half_of(whole)
        seen = _open_clip().get_model_preprocess_cfg(whole)
        size = seen["size"]
        self.side = (size, size) if isinstance(size, int) else tuple(size)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(seen[name]).view(3, 1, 1), persistent=False)
        with torch.no_grad():
            self.out_shape = tuple(self.body(torch.zeros(1, *in_shape)).shape[1:])
        self._freeze()

    def _half_of(self, whole: Any) -> nn.Module:
        half: nn.Module = whole.visual
        return half

    def body(self, x: Tensor) -> Tensor:
        seen = F.interpolate(x, self.side, mode="bicubic", antialias=True).clamp(0, 1)
        out: Tensor = self.tower((seen.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return out


class OpenClipText(OpenClipTower, TextTower):
    """Captions -> the features of an open_clip model's text tower: token ids are read back into words, of which the
    model makes tokens of its own.

    Args:
        text: what captions are made of.
        model: open_clip's name of the architecture.
        pretrained: open_clip's tag of the weights.

    Raises:
        ValueError: the package is missing.
    """

    def __init__(self, text: TextSpec, model: str = "ViT-B-32", pretrained: str = "laion2b_s34b_b79k") -> None:
        TextTower.__init__(self)
        self.tower = self._half_of(self._open(model, pretrained))
        self.tokens, self.tokenizer = Tokens(text), _open_clip().get_tokenizer(model)
        with torch.no_grad():
            self.size = self(torch.tensor([[1, 2]])).shape[1]
        self._freeze()

    def _half_of(self, whole: Any) -> nn.Module:
        whole.visual = None
        half: nn.Module = whole
        return half

    def forward(self, text: Tensor) -> Tensor:
        words = self.tokenizer(self.tokens.decode(text)).to(text.device)
        out: Tensor = self.tower.encode_text(words)  # type: ignore[operator]
        return out
