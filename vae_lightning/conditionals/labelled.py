"""The class-conditional VAE's three densities (Kingma et al. 2014; Sohn et al. 2015): q(z|x, y), p(x|z, y) and p(z|y).
Each stands alone: a model takes one, two or all of them.

Shapes: B images with as many labels; S any leading shape that ends with B, such as (B,) or (K, B). Labels may have such
a shape, too, where each image is told several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals.likelihood import LikelihoodFactory
from vae_lightning.conditionals.posterior import EncoderFactory
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.nets import bounded_log_scale


def one_hot(label: Tensor, classes: int, like: Tensor) -> Tensor:
    """(*S,) int64 -> (*S, classes), 1 at each label, of the type of `like`."""
    return (label[..., None] == torch.arange(classes, device=label.device)).to(like.dtype)


def with_label(needs: tuple[str, ...]) -> tuple[str, ...]:
    """What a part is told that is told a label beside what the part within it needs."""
    return tuple(sorted({"label", *needs}))


class Labelled(Conditional):
    """A density that is told the label (B,) of each image. Its factory raises ValueError for data without classes.

    Args:
        spec: of the images, with their classes.
    """

    needs: tuple[str, ...] = ("label",)

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.classes = spec.require_classes(type(self).__name__)


class LabelledEncoder(Labelled):
    """q(z|x, y): any encoder, which sees the label beside the image. To corrupt images, put `Corrupted` around it, not
    inside.

    Args:
        spec: of the images, with their classes.
        latent_shape: (d,).
        encoder: the encoder of images that have the label beside them.
        planes: tell the label as a channel a class, 1 everywhere in that of the label and 0 everywhere in the others,
            which fully connected and convolutional nets both read. false: as one number a class behind the image's
            values, (1, 1, C H W + classes), for fully connected nets, whose first layer is then not `classes` times as
            large.
    """

    def __init__(self, spec: Spec, latent_shape: Shape, encoder: EncoderFactory, planes: bool = True) -> None:
        super().__init__(spec)
        channels, height, width = spec.image_shape
        shape = (
            (channels + self.classes, height, width) if planes else (1, 1, math.prod(spec.image_shape) + self.classes)
        )
        self.encoder, self.planes = encoder(replace(spec, image_shape=shape), latent_shape), planes
        self.needs = with_label(self.encoder.needs)

    def forward(self, context: Mapping[str, Tensor]) -> Distribution:
        image = context["context"]
        beside = one_hot(context["label"], self.classes, image)
        lead = torch.broadcast_shapes(image.shape[:-3], beside.shape[:-1])
        image = image.expand(*lead, *image.shape[-3:])
        if self.planes:
            planes = beside[..., None, None].expand(*lead, self.classes, *image.shape[-2:])
            return self.encoder.told(torch.cat([image, planes], -3), context)
        told = torch.cat([image.flatten(-3), beside.expand(*lead, self.classes)], -1)
        return self.encoder.told(told[..., None, None, :], context)


class LabelledLikelihood(Labelled):
    """p(x|z, y): any likelihood, of the latent with the label beside it as one number a class.

    Args:
        latent_shape: (d,).
        spec: of the images, with their classes.
        likelihood: the likelihood given (d + classes,) numbers.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, likelihood: LikelihoodFactory) -> None:
        super().__init__(spec)
        if len(latent_shape) != 1:
            raise ValueError(
                f"LabelledLikelihood: expected latents (d,), got maps of shape {tuple(latent_shape)}: let the prior "
                "alone be told the label (LabelledGaussian), or choose nets of vectors (MLPLadder)."
            )
        self.likelihood = likelihood((latent_shape[0] + self.classes,), spec)
        self.needs = with_label(self.likelihood.needs)

    def forward(self, context: Mapping[str, Tensor]) -> Distribution:
        z, label = context["context"], context["label"]
        if label.numel() > 1 and z.shape[-2:-1] not in (label.shape[-1:], (1,)):
            count = label.shape[-1]
            raise ValueError(
                f"label: expected latents (..., {count}, d) for {count} labels, got {tuple(z.shape)}: give one label "
                "for all, or one for each of the last leading dimension."
            )
        lead = torch.broadcast_shapes(z.shape[:-1], label.shape)
        beside = one_hot(label, self.classes, z).expand(*lead, self.classes)
        return self.likelihood.told(torch.cat([z.expand(*lead, -1), beside], -1), context)

    def init_from_data(self, image: Tensor) -> None:
        self.likelihood.init_from_data(image)


class LabelledGaussian(Labelled):
    """p(z|y) = N(mu_y, diag sigma_y^2), learned with the model; N(0, I) for every class at the start.

    Args:
        latent_shape: the latent's shape, (d,).
        spec: of the images, with their classes.
    """

    def __init__(self, latent_shape: Shape, spec: Spec) -> None:
        super().__init__(spec)
        self.mean = nn.Parameter(torch.zeros(self.classes, *latent_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.classes, *latent_shape))

    def forward(self, context: Mapping[str, Tensor]) -> Distribution:
        label = context["label"]
        normal = Normal(self.mean[label], bounded_log_scale(self.log_scale[label]).exp(), validate_args=False)
        return Independent(normal, self.mean.dim() - 1, validate_args=False)
