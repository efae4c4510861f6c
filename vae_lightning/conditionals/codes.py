"""Discrete latents: q(z|x) by a quantiser or by categoricals, and priors of independent codes.

Legend of shapes: n positions, each with one of K codes of `depth` numbers, so that a latent has d = depth x n numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from vae_lightning.conditionals.posterior import latent_head
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.distributions import CodePoint, Codes, RelaxedCodes, as_latent, as_vectors
from vae_lightning.nets import (
    MLP,
    Codebook,
    NetFactory,
    OneHotCodes,
    QuantiserFactory,
    VectorQuantiser,
    at_least_float32,
)

FITTED = 2**14
"""Vectors of training images from which a quantiser begins, at least."""


def positions_of(name: str, size: int, book: Codebook) -> int:
    """n of d numbers; raises ValueError where d is no multiple of a code's numbers."""
    if size % book.depth:
        raise ValueError(
            f"{name}: expected a number of latents that is a multiple of a code's {book.depth} numbers, got {size}: "
            f"set --model.latent_model.latent_size to {book.depth} times the number of positions."
        )
    return size // book.depth


class CodePosterior(Conditional):
    """q(z|x) = all mass at the codes that the encoder's vectors are nearest to (van den Oord et al. 2017, eq. 1). A map
    of features (F, h, w) has a position at each of its places.

    Args:
        spec: of the images.
        latent_shape: (d,), d = depth x n for n positions.
        net: from the image, scaled to [0, 1], to features.
        quantiser: makes codes of vectors, `VectorQuantiser` (goes with the objective `VQ`) or `FiniteScalarQuantiser`
            (goes with `ELBO`).
    """

    def __init__(
        self,
        spec: Spec,
        latent_shape: Shape,
        net: NetFactory = MLP,
        quantiser: QuantiserFactory = VectorQuantiser,
    ) -> None:
        super().__init__()
        self.top = spec.levels - 1
        self.net, self.quantiser = net(spec.image_shape, spec.image_shape), quantiser()
        size = math.prod(latent_shape)
        self.positions = positions_of("CodePosterior", size, self.quantiser)
        self.head = latent_head(self.net.out_shape, size)

    def vectors(self, image: Tensor) -> Tensor:
        """What is quantised, (B, n, depth)."""
        return as_vectors(at_least_float32(self.head(self.net(image))), self.quantiser.depth)

    def forward(self, context: Tensor) -> Distribution:
        vectors = self.vectors(context)
        codes, indices = self.quantiser(vectors)
        distance = (vectors - codes.detach()).square().flatten(-2).sum(-1) if self.quantiser.commits else None
        return CodePoint(self.quantiser, as_latent(codes), indices, distance)

    @torch.no_grad()
    def init_from_data(self, image: Tensor) -> None:
        """Begins the codes at the encoder's vectors of training images (N, C, H, W), integers."""
        count = min(len(image), -(-FITTED // self.positions))
        rows = torch.linspace(0, len(image) - 1, count, device=image.device).round().long()
        found = [self.vectors(image[some] / self.top).flatten(0, 1) for some in rows.split(500)]
        self.quantiser.fit(torch.cat(found))


class GumbelPosterior(Conditional):
    """q(z|x) = n independent categoricals of K classes. In training z is a relaxed draw, between the K one-hot vectors
    (Jang et al. 2017; Maddison et al. 2017), so what training logs is no bound; in evaluation it is one of them, and
    the bound is that of the discrete model. A map of features (F, h, w) has a position at each of its places.

    Args:
        spec: of the images.
        latent_shape: (d,), d = K x n for n positions.
        net: from the image, scaled to [0, 1], to features.
        classes: K.
        temperature: of the relaxation, above 0: low ones are near the discrete draws, with noisy gradients.
        hard: draws of training are one-hot, too, and pass gradients straight through.
    """

    def __init__(
        self,
        spec: Spec,
        latent_shape: Shape,
        net: NetFactory = MLP,
        classes: int = 16,
        temperature: float = 0.67,
        hard: bool = False,
    ) -> None:
        super().__init__()
        if classes < 2 or temperature <= 0:
            raise ValueError(
                f"GumbelPosterior: expected classes >= 2 and temperature > 0, got {classes} and {temperature}."
            )
        self.net, self.book = net(spec.image_shape, spec.image_shape), OneHotCodes(classes)
        size = math.prod(latent_shape)
        positions_of("GumbelPosterior", size, self.book)
        self.logits = latent_head(self.net.out_shape, size)
        self.temperature, self.hard = temperature, hard

    def forward(self, context: Tensor) -> Distribution:
        logits = as_vectors(at_least_float32(self.logits(self.net(context))), self.book.depth)
        return RelaxedCodes(self.book, logits, self.temperature if self.training and not self.hard else None)


class PriorOfCodes(Conditional):
    """A prior that takes the codes of its model's encoder: what it needs to know of them it is told by `attach`.

    Args:
        latent_shape: (d,).
    """

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.size = math.prod(latent_shape)
        self._books: list[Codebook] = []  # a list, so that the encoder's codes are not a second time among the weights

    @property
    def book(self) -> Codebook:
        """The codes; ValueError before `attach`."""
        if not self._books:
            raise ValueError(f"{type(self).__name__}: expected the encoder of its model by `attach`, got none.")
        return self._books[0]

    def attach(self, encoder: Conditional) -> None:
        """Finds the codes among the encoder's parts, and makes the weights for them."""
        found = [part for part in encoder.modules() if isinstance(part, Codebook)]
        if len(found) != 1:
            raise ValueError(
                f"{type(self).__name__}: expected an encoder of codes, such as CodePosterior or GumbelPosterior, got "
                f"{type(encoder).__name__} with {len(found)} codebooks: choose one of codes "
                "(configs/encoder/codes_*.yaml, gumbel.yaml), or a prior of continuous latents, such as StandardNormal."
            )
        self._books = found
        self.build(positions_of(type(self).__name__, self.size, found[0]), found[0].size)

    def build(self, positions: int, codes: int) -> None:
        """Makes the weights for n positions of K codes each."""
        raise NotImplementedError


class CodePrior(PriorOfCodes):
    """p(z) = prod_i p_i(c_i): independent codes, at every position with probabilities of its own.

    Args:
        latent_shape: (d,).
        spec: not used; every prior takes it.
        learned: learn the probabilities with the model; false for K that are all alike.
    """

    logits: Tensor

    def __init__(self, latent_shape: Shape, spec: Spec | None = None, learned: bool = True) -> None:
        super().__init__(latent_shape)
        self.learned = learned

    def build(self, positions: int, codes: int) -> None:
        logits = torch.zeros(positions, codes)
        if self.learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        book = self.book
        of_each = Categorical(logits=at_least_float32(self.logits), validate_args=False)
        return Codes(book, Independent(of_each, 1, validate_args=False))
