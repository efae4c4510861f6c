"""What every p(x|z) shares: the net from latents to features, and the last map from features to the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.nets import MLP, NetFactory, at_least_float32


class ImageHead(nn.Module):
    """Features -> P parameters for each value of an image, (*S, *features) -> (*S, P, C, H, W).

    Flat features get a linear map, feature maps (F, H, W) a 1x1 convolution.
    """

    def __init__(self, features: Shape, image_shape: Shape, num_params: int) -> None:
        super().__init__()
        self.features, self.image_shape, self.num_params = features, tuple(image_shape), num_params
        channels = math.prod(image_shape) if len(features) == 1 else image_shape[0]
        self.last: nn.Linear | nn.Conv2d = (
            nn.Linear(features[0], num_params * channels)
            if len(features) == 1
            else nn.Conv2d(features[0], num_params * channels, 1)
        )
        nn.init.xavier_uniform_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        lead = features.shape[: features.dim() - len(self.features)]
        flat = features if len(lead) == 1 else features.reshape(math.prod(lead), *self.features)
        out: Tensor = self.last(flat)
        return out.reshape(*lead, self.num_params, *self.image_shape)

    def shared(self, value: Tensor) -> Tensor:
        """What one bias can tell apart of a mean or a count of images (C, H, W): all of it, or in a convolution, whose
        bias is one number a channel, its mean over the places, (C, 1, 1)."""
        return value.mean((1, 2), keepdim=True) if len(self.features) == 3 else value

    @torch.no_grad()
    def set_bias(self, index: int, value: Tensor) -> None:
        """Makes parameter `index` start at `value` (C, H, W), or at what is `shared` of it."""
        assert self.last.bias is not None
        self.last.bias.view(self.num_params, -1)[index] = self.shared(value).flatten()


class Likelihood(Conditional):
    """p(x|z) over integer images (C, H, W) in 0..levels-1, one factor for each value.

    Args:
        latent_shape: (d,).
        spec: of the images.
        net: from the latent to features.
        num_params: how many parameters each value of the image needs.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, net: NetFactory = MLP, num_params: int = 1) -> None:
        super().__init__()
        self.levels = spec.levels
        self.net = net(latent_shape, spec.image_shape)
        self.head = ImageHead(self.net.out_shape, spec.image_shape, num_params)

    def params(self, z: Tensor) -> Tensor:
        """(*S, d) -> (*S, P, C, H, W)."""
        return at_least_float32(self.head(self.net(z)))

    def init_from_data(self, image: Tensor) -> None:
        """Starts the output biases at the training images' marginals, here those of the first parameter at the mean in
        [0, 1]: image (N, C, H, W), integers."""
        self.head.set_bias(0, self.mean(image))

    def mean(self, image: Tensor) -> Tensor:
        """Of integer images (N, C, H, W), in [0, 1], as far as the head's bias can tell it: (C, H, W) or (C, 1, 1)."""
        return self.head.shared(image.float().mean(0) / (self.levels - 1))

    def edge(self, image: Tensor) -> float:
        """How far a mean of images (N, C, H, W) is to keep from 0 and from 1: one image more would move it so."""
        return 1 / (len(image) + 2)

    def mean_logit(self, image: Tensor) -> Tensor:
        """The logit of that mean, pulled off the ends."""
        return torch.logit(self.mean(image), self.edge(image))


LikelihoodFactory = Callable[[Shape, Spec], Conditional]
