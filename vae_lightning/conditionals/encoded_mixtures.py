"""p(z) that are mixtures of the encoder's own view of images, learned or real."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vae_lightning.core import Conditional, Shape, Spec, has_rate
from vae_lightning.nets import bounded_log_scale, raw_log_scale

EDGE = 0.02
"""How far from 0 and from 1 pseudo-inputs begin."""


class EncodedMixture(Conditional):
    """p(z), a mixture with a component at each of K images, as the model's own encoder sees them. The rate is the
    one-sample estimate log q(z|x) - log p(z).

    Args:
        latent_shape: not used; every prior takes it.
        spec: of the images.
        components: K.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, components: int = 500) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"{type(self).__name__}.components: expected at least 1, got {components}.")
        self.levels = spec.levels
        self._encoder: tuple[Conditional, ...] = ()
        self._kept: tuple[tuple[tuple[int, int], ...], Distribution] | None = None

    def attach(self, encoder: Conditional) -> None:
        """Takes the encoder, whose weights stay the model's: it is no part of the prior's state."""
        if encoder.needs:
            raise ValueError(
                f"{type(self).__name__}: expected an encoder of images alone, got {type(encoder).__name__}, which "
                f"needs a {encoder.needs[0]} of each, which its components have not: choose another prior."
            )
        self._encoder = (encoder,)

    @property
    @abstractmethod
    def inputs(self) -> Tensor:
        """What the encoder sees, within [0, 1], (K, C, H, W)."""

    @abstractmethod
    def component(self, posterior: Distribution) -> Distribution:
        """q(z | inputs), batch_shape (K,) -> the components."""

    @property
    @abstractmethod
    def log_weights(self) -> Tensor:
        """Of the components, (K,), to a constant."""

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        name = type(self).__name__
        if not self._encoder:
            raise ValueError(f"{name}: expected the encoder of its model by `attach`, got none.")
        posterior = self._posterior()
        weights = Categorical(logits=self.log_weights, validate_args=False)
        return MixtureSameFamily(weights, self.component(posterior), validate_args=False)

    def _posterior(self) -> Distribution:
        """q(z | inputs), batch_shape (K,). In evaluation, without gradients, worked out once for the same weights."""
        encoder = self._encoder[0]
        if self.training or torch.is_grad_enabled():
            return cast(Distribution, encoder(self.inputs))
        state = (*self.parameters(), *self.buffers(), *encoder.parameters(), *encoder.buffers())
        known_by = tuple((it.data_ptr(), it._version) for it in state)
        if self._kept is None or self._kept[0] != known_by:
            with torch.inference_mode(False), torch.no_grad():  # tensors that any later call can use
                self._kept = known_by, encoder(self.inputs)
        return self._kept[1]


class VampPrior(EncodedMixture):
    """p(z) = sum_k w_k q(z | u_k), a mixture of the model's own posteriors at K pseudo-inputs u_k, which are learned
    with the model as the weights w_k are (Tomczak & Welling 2018, eq. 11; there with w_k = 1 / K).

    Args:
        latent_shape: not used; every prior takes it.
        spec: of the images.
        components: K.
    """

    def __init__(self, latent_shape: Shape, spec: Spec, components: int = 500) -> None:
        super().__init__(latent_shape, spec, components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.raw = nn.Parameter(torch.randn(components, *spec.image_shape))

    @torch.no_grad()
    def init_from_data(self, image: Tensor) -> None:
        """Begins with images of the training set, evenly over it, (N, C, H, W), integers, a little less black and less
        white, so that every value can be learned."""
        self.raw.copy_(torch.logit(image[evenly(image, len(self.raw))].to(self.raw) / (self.levels - 1), EDGE))

    @property
    def inputs(self) -> Tensor:
        return torch.sigmoid(self.raw)

    @property
    def log_weights(self) -> Tensor:
        return self.logits

    def component(self, posterior: Distribution) -> Distribution:
        if not has_rate(posterior):
            raise ValueError(
                "VampPrior: expected an encoder whose posteriors have a density, of which it is a mixture, got one of "
                "point masses (an autoencoder's): choose another prior, such as ExemplarPrior or SplineFlowPrior."
            )
        return posterior


class ExemplarPrior(EncodedMixture):
    """p(z) = 1/K sum_k N(z; mean of q(z | x_k), s^2 I), x_k images of the training set and s one learned scale
    (Norouzi et al. 2020, eq. 5). Its images are K that are chosen once, evenly over the training set, of which it has
    many; there all of them, each left out for its own image, are looked up by nearest neighbours. An image that is one
    of the K finds itself in training: keep K a few hundredths of the images.

    Args:
        latent_shape: not used; every prior takes it.
        spec: of the images.
        components: K.
    """

    exemplars: Tensor
    equal: Tensor

    def __init__(self, latent_shape: Shape, spec: Spec, components: int = 500) -> None:
        super().__init__(latent_shape, spec, components)
        self.register_buffer("exemplars", torch.randint(spec.levels, (components, *spec.image_shape)).float())
        self.register_buffer("equal", torch.zeros(components), persistent=False)
        self.log_scale = nn.Parameter(raw_log_scale(torch.tensor(0.5)))

    @torch.no_grad()
    def init_from_data(self, image: Tensor) -> None:
        """Takes its images, of (N, C, H, W), integers; ValueError where there are fewer."""
        if len(image) < len(self.exemplars):
            raise ValueError(
                f"ExemplarPrior.components: expected at most {len(image)}, the training images that are looked at "
                f"before the training, got {len(self.exemplars)}: choose fewer, some hundredths of the images."
            )
        self.exemplars.copy_(image[evenly(image, len(self.exemplars))])

    @torch.no_grad()
    def init_from_codes(self, z: Tensor) -> None:
        """Begins with half of the codes' own scale, (N, *event)."""
        self.log_scale.copy_(raw_log_scale(z.flatten(1).std(0, correction=0).mean() / 2))

    @property
    def inputs(self) -> Tensor:
        return self.exemplars / (self.levels - 1)

    @property
    def log_weights(self) -> Tensor:
        return self.equal

    def component(self, posterior: Distribution) -> Distribution:
        try:
            mean = posterior.mean
        except NotImplementedError:
            raise ValueError(
                f"ExemplarPrior: expected an encoder whose posteriors have a mean, got {type(posterior).__name__}: "
                "choose GaussianPosterior, or another prior, such as VampPrior."
            ) from None
        scale = bounded_log_scale(self.log_scale).exp()
        return Independent(
            Normal(mean, scale.expand_as(mean), validate_args=False), mean.dim() - 1, validate_args=False
        )


def evenly(image: Tensor, count: int) -> Tensor:
    """The numbers of `count` images, evenly over all of (N, ...)."""
    return torch.linspace(0, len(image) - 1, count).round().long()
