"""Training on a few labels: which are kept, and how often their images come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vae_lightning.core import UNKNOWN
from vae_lightning.data.batches import Order, seed_of, shuffled
from vae_lightning.data.source import Images

LABELLED = 1_000_000
"""Added to the seed of the order in which labelled images come, so that it is none of the others'."""


@dataclass(frozen=True)
class FewLabels:
    """Batches of training hold the labels of some images alone, as many of each class, and `UNKNOWN` (-1) for others
    (Kingma et al. 2014, section 4.1). Validation, test and what they study know all labels.

    Args:
        labels: how many are kept, a multiple of the number of classes.
        seed: by which they are chosen, whatever else is.
        per_batch: how many images of each batch have a label: the kept ones come again and again, the others once an
            epoch. 0 for each image once.

    Raises:
        ValueError: no label, or a negative number of them in a batch.
    """

    labels: int = 100
    seed: int = 0
    per_batch: int = 10

    def __post_init__(self) -> None:
        if self.labels < 1 or self.per_batch < 0:
            raise ValueError(
                "data.few_labels: expected labels of at least 1 and per_batch of at least 0, got "
                f"{self.labels} and {self.per_batch}: say how many."
            )

    def told(self, images: Images) -> Images:
        """Training images with the labels that are kept.

        Raises:
            ValueError: images without labels, or with too few of a class.
        """
        if images.label is None:
            raise ValueError("data.few_labels: expected images with labels, got none: choose a source that has them.")
        label = images.label.cpu()
        classes, counts = label.unique(return_counts=True)
        each, rest = divmod(self.labels, len(classes))
        if rest or each > counts.min():
            raise ValueError(
                f"data.few_labels.labels: expected a multiple of the {len(classes)} classes, and at most "
                f"{int(counts.min())} of each, the number of the rarest, got {self.labels}: say how many."
            )
        generator = torch.Generator().manual_seed(self.seed)
        found = [(label == name).nonzero()[:, 0] for name in classes]
        kept = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:each]] for rows in found])
        told = torch.full_like(label, UNKNOWN)
        told[kept] = label[kept]
        return replace(images, label=told.to(images.label.device))

    def order(
        self, images: Images, seed: int, epoch: Callable[[], int], batch: int, processes: int, length: int | None
    ) -> tuple[Order, int | None]:
        """The order of an epoch of `told` images, and how many it has.

        Args:
            images: those of `told`.
            seed: of the training.
            epoch: () -> which one.
            batch: images of a batch in each process.
            processes: how many share an epoch.
            length: images of an epoch, where that is given.

        Raises:
            ValueError: as many labelled images in a batch as it has.
        """
        assert images.label is not None
        known = images.label.cpu() != UNKNOWN
        if not self.per_batch or known.all():
            return shuffled(len(images), seed, epoch, length), length
        if self.per_batch >= batch:
            raise ValueError(
                f"data.few_labels.per_batch: expected fewer than the {batch} images of a batch, got {self.per_batch}: "
                "the others come without labels."
            )
        labelled, others = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
        each, group = self.per_batch * processes, batch * processes  # of all processes' batches at one step
        steps = -(-len(others) // (group - each)) if length is None else length // group
        left = len(others) if length is None else steps * (group - each)
        some = shuffled(len(labelled), seed_of(seed, LABELLED), epoch, steps * each)
        many = shuffled(len(others), seed, epoch, left)

        def order() -> Tensor:
            parts = zip(labelled[some()].split(each), others[many()].split(group - each), strict=True)
            return torch.cat([row for pair in parts for row in pair])

        return order, steps * each + left


def require_without(few_labels: FewLabels | None, needs: tuple[str, ...]) -> None:
    """Raises ValueError for a model that is told every label where training is told a few."""
    if few_labels is not None and "label" in needs:
        raise ValueError(
            "data.few_labels: expected a model that does without labels, such as SemiSupervisedVAE, got one that is "
            "told the label of each image: set --data.few_labels null, or choose another model."
        )
