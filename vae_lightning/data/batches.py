"""Whole batches by index: one index_select on one uint8 tensor, on the device that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from vae_lightning.data.source import Images

Order = Callable[[], Tensor]
"""() -> indices (N,) of an epoch."""


class InMemory(Dataset[Any]):
    """A tensor of indices (B,) -> a batch, `Images.batch`.

    Args:
        images: what is indexed.
        visit: () -> the seed of an epoch, by which the caption of each image is drawn anew; None where it is fixed.
    """

    def __init__(self, images: Images, visit: Callable[[], int] | None = None) -> None:
        self.images, self.visit = images, None if images.captions is None else visit
        self._seed: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        if self.visit is not None and self.images.captions is not None and self._seed != (seed := self.visit()):
            self._seed, self.images = seed, replace(self.images, captions=self.images.captions.drawn(seed))
        index = index.to(self.images.stored.device, non_blocking=True)
        return self.images.batch(index)


class Batches(DistributedSampler[Any]):
    """Cuts an epoch's order into tensors of indices, this process's share of them. It is a DistributedSampler so that
    Lightning leaves it as it is in several processes.

    Args:
        images: what is indexed.
        batch_size: indices a batch; the last one may be smaller, none is dropped.
        order: the order of an epoch.
        num_replicas: how many processes share the images.
        rank: which one this is.
        even: repeat some images so that every process has as many, as training in lockstep needs; evaluation counts
            each image once.
        length: images of an epoch over all processes, as `order` has them; null for each image once.

    Attributes:
        handed_out: batches of the epoch that are so far.
        skip: batches to leave out of the next epoch, done before a stop; 0 again after it.
    """

    def __init__(
        self,
        images: InMemory,
        batch_size: int,
        order: Order,
        num_replicas: int = 1,
        rank: int = 0,
        even: bool = False,
        length: int | None = None,
    ) -> None:
        super().__init__(images, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.length = len(images) if length is None else length
        self.batch_size, self.order, self.even = batch_size, order, even
        self.handed_out = self.skip = 0

    def __len__(self) -> int:
        """As many in every process, or those that have one more would wait for the others."""
        largest_share = -(-self.length // self.num_replicas)
        return -(-largest_share // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = self.order()
        if self.even:
            order = torch.cat([order, order[: -len(order) % self.num_replicas]])
        share = order[self.rank :: self.num_replicas]
        batches = share.split(self.batch_size) if self.even else self._evenly(share)
        self.handed_out, self.skip = self.skip, 0
        for batch in batches[self.handed_out :]:
            self.handed_out += 1
            yield batch

    def _evenly(self, share: Tensor) -> Sequence[Tensor]:
        """Batches of the size asked for, or where this process has one image less, of sizes that fill as many."""
        batches = share.split(self.batch_size)
        return batches if len(batches) == len(self) else share.tensor_split(len(self))


def shuffled(size: int, seed: int, epoch: Callable[[], int], length: int | None = None) -> Order:
    """A new order each epoch that depends on the seed and the epoch alone: torch's own takes it from the global
    generator, whose state a resumed run does not share with an unbroken one. With a `length`, so many of the images:
    some of them, or all of them over and over, in an order of its own each time."""
    count = size if length is None else length

    def order() -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(seed, epoch()))
        return torch.cat([torch.randperm(size, generator=generator) for _ in range(-(-count // size))])[:count]

    return order


def seed_of(seed: int, epoch: int) -> int:
    """The seed of an epoch."""
    return (1_000_003 * seed + epoch) % 2**63


class StatefulLoader(DataLoader[Any]):
    """torch's ordinary DataLoader with the two methods by which Lightning keeps a loader's place in a checkpoint, so
    that a run can go on within an epoch."""

    sampler: Batches

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch are done, and what they were cut by."""
        return {
            "batches": self.sampler.handed_out,
            "batch_size": self.sampler.batch_size,
            "processes": self.sampler.num_replicas,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leaves out of the next epoch what is done of it; raises ValueError where it was cut otherwise."""
        now = self.state_dict()
        unequal = [name for name in ("batch_size", "processes") if state[name] != now[name]]
        if 0 < state["batches"] < len(self) and unequal:
            raise ValueError(
                f"going on within an epoch: expected its {unequal[0]} of {state[unequal[0]]} as before, got "
                f"{now[unequal[0]]}: leave it as it was, or go on from a checkpoint of an epoch's end."
            )
        self.sampler.skip = state["batches"]


def loader(images: InMemory, sampler: Batches) -> StatefulLoader:
    """A loader of whole batches in this process: workers would cost more than they do."""
    return StatefulLoader(
        images,
        batch_size=None,  # the sampler's items are whole batches
        sampler=sampler,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # its own, so that opening a loader takes nothing from the noise
    )


def binarize(image: Tensor, levels: int) -> Tensor:
    """1 with probability image / (levels - 1), for each value of (B, C, H, W) integers.

    On a CPU and for 256 levels by comparison with a random byte, in a tenth of the time of torch.bernoulli: uniform on
    0..254, bytes of 255 being drawn again, it is below v with probability v / 255 exactly.
    """
    if levels != 256 or image.device.type != "cpu" or image.dtype != torch.uint8:
        return torch.bernoulli(image / (levels - 1))
    draws = torch.empty(-(-image.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all of the 64 bits
    uniform = draws.view(torch.uint8)[: image.numel()]
    again = np.flatnonzero(uniform.numpy() == 255)  # in a hundredth of the time of torch's nonzero
    uniform.numpy()[again] = torch.randint(0, 255, (len(again),), dtype=torch.uint8).numpy()
    return (uniform.view(image.shape) < image).view(torch.uint8)  # which becomes float six times faster than bool


def binarized(images: Images, levels: int, seed: int) -> Images:
    """Images binarised once, by a seed: the same at any batch size."""
    generator = torch.Generator().manual_seed(seed)
    grey = (part.float() / (levels - 1) for part in images.chunks())
    binary = [torch.bernoulli(part, generator=generator).to(torch.uint8) for part in grey]
    return replace(images, stored=torch.cat(binary), rows=None)


def binarization_entropy(grey: Tensor, levels: int) -> Tensor:
    """Entropy of binarising (B, C, H, W) levels, nats, (B,)."""
    p = grey.double() / (levels - 1)
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).flatten(1).sum(1)


def _as_it_is(batch: Any) -> Any:
    return batch
