"""Distributions of codes: each value is an array of vectors out of a codebook, one at each of n positions.

A story's latent is these vectors, (*S, d) with d = depth x n, so that gradients pass between decoder and encoder and
any decoder can read it; its probability is that of the indices. The numbers of a vector stand n apart: a map of
positions (h, w) is a map (depth, h, w) of numbers, as the convolutional nets read it.

Legend of shapes: n positions; K codes of `depth` numbers each; S any leading shape.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import torch
from torch import Size, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    OneHotCategoricalStraightThrough,
    RelaxedOneHotCategorical,
    constraints,
    kl_divergence,
    register_kl,
)
from torch.types import _size


class Book(Protocol):
    """A codebook, see nets/quantisers.py."""

    size: int
    depth: int

    @property
    def device(self) -> torch.device: ...

    def vectors(self, indices: Tensor) -> Tensor: ...

    def indices(self, vectors: Tensor) -> Tensor: ...


def as_latent(vectors: Tensor) -> Tensor:
    """(*S, n, depth) -> (*S, depth n)."""
    return vectors.transpose(-1, -2).flatten(-2)


def as_vectors(latent: Tensor, depth: int) -> Tensor:
    """(*S, depth n) -> (*S, n, depth)."""
    return latent.unflatten(-1, (depth, -1)).transpose(-1, -2)


class _Coded(constraints.Constraint):
    """Vectors of codes."""

    is_discrete = True
    event_dim = 1

    def __init__(self, book: Book) -> None:
        self.book = book

    def check(self, value: Tensor) -> Tensor:
        vectors = as_vectors(value, self.book.depth)
        nearest = self.book.vectors(self.book.indices(vectors))
        return torch.isclose(vectors, nearest.to(vectors), atol=1e-4).flatten(-2).all(-1)


class OfCodes(Distribution):
    """What all distributions over arrays of codes share; event_shape (d,).

    Args:
        book: the codes.
        batch_shape: S.
        positions: n.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, book: Book, batch_shape: _size, positions: int) -> None:
        self.book, self.num_codes = book, book.size
        super().__init__(Size(batch_shape), Size((book.depth * positions,)), validate_args=False)

    @property
    def positions(self) -> int:
        return self.event_shape[0] // self.book.depth

    @property
    def support(self) -> constraints.Constraint:
        return _Coded(self.book)

    def indices_of(self, z: Tensor) -> Tensor:
        """The indices (*S, n) of a latent (*S, d)."""
        return self.book.indices(as_vectors(z, self.book.depth))

    def latent_of(self, indices: Tensor) -> Tensor:
        """The latent (*S, d) of indices (*S, n)."""
        return as_latent(self.book.vectors(indices))


class CodePoint(OfCodes):
    """All mass at one array of codes: the posterior of a quantiser. It is discrete, so that its rate, -log p of the
    codes, is finite wherever the prior knows them.

    Args:
        book: the codes.
        value: their vectors as a latent (*S, d), through which gradients pass.
        indices: (*S, n).
        distance: of the encoder's vectors from the codes, squared, and summed over an image, S: what the objective `VQ`
            lessens; None where nothing has to draw them there.
    """

    has_rsample = True

    def __init__(self, book: Book, value: Tensor, indices: Tensor, distance: Tensor | None = None) -> None:
        self.value, self.indices, self.distance = value, indices, distance
        super().__init__(book, indices.shape[:-1], indices.shape[-1])

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def mode(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> CodePoint:
        lead = Size(batch_shape)
        distance = None if self.distance is None else self.distance.expand(lead)
        value, indices = self.value.expand(lead + self.event_shape), self.indices.expand(lead + Size((self.positions,)))
        return CodePoint(self.book, value, indices, distance)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        return self.value.expand(self._extended_shape(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at the codes, -inf elsewhere."""
        hit = (self.indices_of(value) == self.indices).all(-1)
        return torch.where(hit, 0.0, -torch.inf).to(self.value.dtype)

    def entropy(self) -> Tensor:
        return self.value.new_zeros(self.batch_shape)


class RelaxedCodes(OfCodes):
    """n independent categorical latents, whose draws are relaxed to points between one-hot vectors (Jang et al. 2017;
    Maddison et al. 2017), or are hard and pass gradients straight through. Its probabilities are those of the
    categoricals in either case, at the code that is largest.

    Args:
        book: one-hot codes.
        logits: (*S, n, K).
        temperature: of the relaxation; None for hard draws.
    """

    has_rsample = True

    def __init__(self, book: Book, logits: Tensor, temperature: float | None) -> None:
        self.logits, self.temperature = logits, temperature
        self.each = Categorical(logits=logits, validate_args=False)
        super().__init__(book, logits.shape[:-2], logits.shape[-2])

    @property
    def mode(self) -> Tensor:
        return self.latent_of(self.logits.argmax(-1))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        if self.temperature is None:
            hard = OneHotCategoricalStraightThrough(logits=self.logits, validate_args=False)
            return as_latent(hard.rsample(Size(sample_shape)))
        heat = torch.as_tensor(self.temperature, dtype=self.logits.dtype, device=self.logits.device)
        relaxed = RelaxedOneHotCategorical(heat, logits=self.logits, validate_args=False)
        return as_latent(relaxed.rsample(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.each.log_prob(self.indices_of(value)).sum(-1)

    def entropy(self) -> Tensor:
        return self.each.entropy().sum(-1)


class Codes(OfCodes):
    """p(z) = p(indices of z): a distribution of indices, by the codes that they name.

    Args:
        book: the codes.
        of_indices: over (*S, n) int64.
    """

    has_rsample = False

    def __init__(self, book: Book, of_indices: Distribution) -> None:
        self.of_indices = of_indices
        super().__init__(book, of_indices.batch_shape, of_indices.event_shape[0])

    @property
    def mode(self) -> Tensor:
        return self.latent_of(self.of_indices.mode)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Codes:
        return Codes(self.book, self.of_indices.expand(Size(batch_shape)))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        return self.latent_of(self.of_indices.sample(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.of_indices.log_prob(self.indices_of(value))


@register_kl(CodePoint, Codes)  # type: ignore[untyped-decorator]
def _kl_point(q: CodePoint, p: Codes) -> Tensor:
    """-log p of the codes."""
    return -p.of_indices.log_prob(q.indices)


@register_kl(CodePoint, Distribution)  # type: ignore[untyped-decorator]
def _kl_point_to_others(q: CodePoint, p: Distribution) -> Tensor:
    """+inf: no density covers a point, and no other distribution knows the codes."""
    return q.value.new_full(q.batch_shape, math.inf)


@register_kl(RelaxedCodes, Codes)  # type: ignore[untyped-decorator]
def _kl_relaxed(q: RelaxedCodes, p: Codes) -> Tensor:
    if isinstance(p.of_indices, Independent):
        return kl_divergence(Independent(q.each, 1, validate_args=False), p.of_indices)
    if q.temperature is not None:
        raise ValueError(
            "expected a prior of independent codes for draws that are relaxed in training, got an autoregressive one, "
            "which has no probability of them: train with CodePrior, and fit the other to the trained model's codes."
        )
    raise NotImplementedError  # one sample's, which is hard
