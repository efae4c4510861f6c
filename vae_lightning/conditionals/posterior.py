"""q(z|x): encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from vae_lightning.conditionals.likelihood import ImageHead
from vae_lightning.core import Conditional, Delta, Shape, Spec
from vae_lightning.nets import MLP, Corruption, NetFactory, at_least_float32, bounded_log_scale, map_depth, zeroed

EncoderFactory = Callable[[Spec, Shape], Conditional]
ClassifierFactory = Callable[[Spec], Conditional]


def latent_head(features: Shape, size: int) -> nn.Module:
    """Features -> one parameter for each of `size` latents: a linear map of flat features; of a map (F, h, w) a 1x1
    convolution, so that each latent is read at its place."""
    if len(features) == 1:
        linear = nn.Linear(features[0], size)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear
    _, h, w = features
    return nn.Sequential(ImageHead(features, (map_depth("the encoder", size, (h, w)), h, w), 1), nn.Flatten(-4))


class GaussianPosterior(Conditional):
    """q(z|x) = N(mu(x), diag sigma(x)^2) (Kingma & Welling 2014, eq. 9). Starts at sigma = 1, near the prior.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
    """

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = MLP) -> None:
        super().__init__()
        self.net = net(spec.image_shape, spec.image_shape)
        self.latent_shape = tuple(latent_shape)
        size = math.prod(latent_shape)
        self.mu = latent_head(self.net.out_shape, size)
        self.log_scale = zeroed(latent_head(self.net.out_shape, size))

    def forward(self, context: Tensor) -> Distribution:
        features = self.net(context)
        mu, raw = at_least_float32(self.mu(features)), at_least_float32(self.log_scale(features))
        return Independent(Normal(mu, bounded_log_scale(raw).exp(), validate_args=False), 1, validate_args=False)


class ClassPosterior(Conditional):
    """q(y|x) = Categorical(softmax(f(x))), y (1,) int64: a classifier. Starts even over the classes.

    Args:
        spec: of the images, with their classes.
        net: from the image, scaled to [0, 1], to features.

    Raises:
        ValueError: data without classes.
    """

    def __init__(self, spec: Spec, net: NetFactory = MLP) -> None:
        super().__init__()
        classes = spec.require_classes(type(self).__name__)
        self.net = net(spec.image_shape, spec.image_shape)
        self.logits = zeroed(nn.Linear(math.prod(self.net.out_shape), classes))

    def forward(self, context: Tensor) -> Distribution:
        features = self.net(context).flatten(-len(self.net.out_shape))
        return class_distribution(at_least_float32(self.logits(features)))


def class_distribution(logits: Tensor) -> Distribution:
    """(*S, classes) -> over a label as a latent, (*S, 1) int64."""
    return Independent(Categorical(logits=logits[..., None, :], validate_args=False), 1, validate_args=False)


class PointMass(Conditional):
    """q(z|x) = all mass at f(x): the encoder of a plain autoencoder.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
    """

    def __init__(self, spec: Spec, latent_shape: Shape, net: NetFactory = MLP) -> None:
        super().__init__()
        self.net = net(spec.image_shape, spec.image_shape)
        self.code = latent_head(self.net.out_shape, math.prod(latent_shape))

    def forward(self, context: Tensor) -> Distribution:
        return Delta(self.code(self.net(context)))


class Corrupted(Conditional):
    """q(z|corrupt(x)) in training, q(z|x) in evaluation: around any encoder it makes the denoising (variational)
    autoencoder, since the decoder's target stays the clean image (Vincent et al. 2010).

    Args:
        spec: of the images.
        latent_shape: (d,).
        encoder: the encoder that sees corrupted images.
        corruption: takes and returns images scaled to [0, 1].
    """

    def __init__(
        self,
        spec: Spec,
        latent_shape: Shape,
        encoder: EncoderFactory,
        corruption: Corruption,
    ) -> None:
        super().__init__()
        self.encoder = encoder(spec, latent_shape)
        self.corruption = corruption
        self.needs = self.encoder.needs

    def forward(self, context: Tensor | Mapping[str, Tensor]) -> Distribution:
        others = dict(context) if isinstance(context, Mapping) else {"context": context}
        image = others.pop("context")
        return self.encoder.told(self.corruption(image) if self.training else image, others)
