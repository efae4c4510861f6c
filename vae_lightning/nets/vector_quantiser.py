"""The learned codebook, by the package vector-quantize-pytorch, which is imported where a quantiser is made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vae_lightning.nets.quantisers import Quantised, Quantiser

MOST_VECTORS = 2**14
"""Training vectors, evenly over those given, from which k-means begins the codes."""
GRACE = 2.0
"""A code begins with so many times the use below which it is put elsewhere: time to be chosen."""
MOST_DISTANCES = 2**24
"""Between vectors and codes, that are held at a time."""


def _library() -> Any:
    try:
        import vector_quantize_pytorch
    except ImportError:
        raise ValueError(
            "expected the package vector-quantize-pytorch for the encoder's VectorQuantiser, got none: pip install "
            "'vae-lightning[vq]', or choose FiniteScalarQuantiser, which needs none."
        ) from None
    return vector_quantize_pytorch


class VectorQuantiser(Quantiser):
    """The nearest of K learned vectors (van den Oord et al. 2017). The codes are averages of the vectors that they were
    chosen for, exponentially over the steps (their appendix A.1), begun by k-means, and take no gradient. They follow
    in training's forward passes, as BatchNorm's statistics do, and with several processes are the first one's.

    Gradients of the decoder reach the encoder turned and stretched as its vector is turned and stretched to the code
    (Fifty et al. 2024, the rotation trick), or straight through.

    Args:
        size: K.
        depth: numbers of a code.
        decay: of the averages, at least 0 and below 1.
        rotation: the rotation trick; false for straight through.
        revive_below: a code that is chosen less often than this in a batch, on that same average, is put at one of the
            batch's vectors; 0 for never.

    Raises:
        ValueError: the package vector-quantize-pytorch is not there, or a setting is out of range.
    """

    commits = True

    def __init__(
        self,
        size: int = 512,
        depth: int = 8,
        decay: float = 0.99,
        rotation: bool = True,
        revive_below: float = 1.0,
    ) -> None:
        if size < 2 or depth < 1 or not 0 <= decay < 1 or revive_below < 0:
            raise ValueError(
                "VectorQuantiser: expected size >= 2, depth >= 1, 0 <= decay < 1 and revive_below >= 0, got "
                f"{size}, {depth}, {decay} and {revive_below}."
            )
        if rotation and depth == 1:
            raise ValueError("VectorQuantiser.rotation: expected depth >= 2, since one number has no direction, got 1.")
        super().__init__(size, depth)
        self.quantiser = _library().VectorQuantize(
            dim=depth,
            codebook_size=size,
            decay=decay,
            threshold_ema_dead_code=revive_below,
            rotation_trick=rotation,
            commitment_weight=0.0,  # which the objective adds, in nats an image
            sync_codebook=False,
        )
        self.start = GRACE * max(1.0, revive_below)
        self.quantiser._codebook.reset_cluster_size = self.start  # else a revived code has a single step to be chosen
        self._begin(torch.randn(size, depth))

    @torch.no_grad()
    def _begin(self, codes: Tensor) -> None:
        """Sets the codes (K, depth) with the averages that they are made of."""
        book = self.quantiser._codebook
        book.embed.copy_(codes[None])
        book.cluster_size.fill_(self.start)
        book.embed_avg.copy_(self.start * codes[None])

    def quantise(self, x: Tensor) -> Quantised:
        flat = x.reshape(1, -1, self.depth)
        vectors, indices, _ = self.quantiser(flat)
        return Quantised(vectors.reshape(x.shape), indices.reshape(x.shape[:-1]))

    def vectors(self, indices: Tensor) -> Tensor:
        codes: Tensor = self.quantiser.codebook
        return codes[indices]

    def indices(self, vectors: Tensor) -> Tensor:
        flat = vectors.reshape(-1, self.depth).to(self.quantiser.codebook)
        parts = flat.split(max(1, MOST_DISTANCES // self.size))
        return torch.cat([self._nearest(part) for part in parts]).reshape(vectors.shape[:-1])

    def _nearest(self, x: Tensor) -> Tensor:
        """(N, depth) -> (N,)."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.cdist(x, self.quantiser.codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Begins the codes at the means of k-means over (N, depth)."""
        rows = torch.linspace(0, len(x) - 1, min(len(x), MOST_VECTORS), device=x.device).round().long()
        means, _ = _library().vector_quantize_pytorch.kmeans(x[None, rows].float(), self.size)
        self._begin(means[0])
