"""The one DataModule: uint8 images in memory, batches by index, transforms on the batch and on its device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from vae_lightning.data.source import Images, ImageSource, Shape

Split = Literal["train", "val", "test"]


class InMemory(Dataset[Any]):
    """Serves whole batches by index: a sampler's list of indices becomes one indexing of one tensor."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        part = self.images[torch.as_tensor(indices)]
        return {"image": part.image} if part.label is None else {"image": part.image, "label": part.label}


class Shuffle(Sampler[int]):
    """A new order each epoch that depends on the seed and the epoch alone: torch's own takes it from the global
    generator, whose state a resumed run does not share with an unbroken one."""

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((1_000_003 * self.seed + self.epoch()) % 2**63)
        yield from torch.randperm(self.size, generator=generator).tolist()


def _as_it_is(batch: Any) -> Any:
    return batch


def find_root(root: str | None) -> Path:
    """--data.root, else the environment variable VAE_LIGHTNING_DATA, else data/."""
    return Path(root or os.environ.get("VAE_LIGHTNING_DATA") or "data").expanduser()


class ImageData(LightningDataModule):
    """Training, validation and test images of one source, kept apart.

    Batches are {"image": (B, C, H, W) float32 integers, "label": (B,) int64 where there are classes}.

    Args:
        source: where the images come from.
        root: folder of the data sets; null means the environment variable VAE_LIGHTNING_DATA, or data/.
        batch_size: images a training step.
        eval_batch_size: images a step of validation, test and prediction.
        val_size: how many training images are kept for validation (a number, or a share below 1), where the source
            brings no validation images of its own.
        split_seed: fixes that choice, and the binarisation of validation and test images.
        dynamic_binarization: Bernoulli(grey / (levels - 1)) for each pixel: drawn afresh at every visit in training,
            once and for all in validation and test. The data then have 2 levels.
        horizontal_flip: mirrors half of the training images at random.
        download: fetch what is missing where torchvision knows how.
    """

    def __init__(
        self,
        source: ImageSource,
        root: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_size: int | float = 0.1,
        split_seed: int = 0,
        dynamic_binarization: bool = False,
        horizontal_flip: bool = False,
        download: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"data: expected batch sizes of at least 1, got {batch_size} and {eval_batch_size}.")
        if val_size <= 0 or (val_size > 1 and val_size != int(val_size)):
            raise ValueError(f"data.val_size: expected a number of images, or a share below 1, got {val_size}.")
        if dynamic_binarization and source.levels == 2:
            raise ValueError(
                f"data.dynamic_binarization: expected grey images, got {type(source).__name__}, whose are binary "
                "already: leave it out."
            )
        self.source, self.root = source, find_root(root)
        source.find(self.root)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.split_seed = val_size, split_seed
        self.dynamic_binarization, self.horizontal_flip, self.download = dynamic_binarization, horizontal_flip, download
        self.seed = torch.initial_seed()
        self.splits: dict[str, Images] = {}
        self._val_index: Tensor | None = None

    @property
    def image_shape(self) -> Shape:
        return self.source.image_shape

    @property
    def levels(self) -> int:
        return 2 if self.dynamic_binarization else self.source.levels

    def check_matches(self, image_shape: Shape, levels: int) -> None:
        """Raises ValueError where the images are not such as a model was built for."""
        if (tuple(self.image_shape), self.levels) != (tuple(image_shape), levels):
            raise ValueError(
                f"the model was built for images of shape {tuple(image_shape)} with {levels} levels, got data of shape "
                f"{tuple(self.image_shape)} with {self.levels}: choose data like those it was trained on (an image "
                "folder can be resized with --data.source.size), or train a model on these."
            )

    def prepare_data(self) -> None:
        """Downloads on one process only, before the others read."""
        if self.download and not self.splits:
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the images, once, whatever the stage."""
        if self.splits:
            return
        loaded = self.source.load(self.root, self.download)
        train, val = loaded.train, loaded.val
        if val is None:
            train, val = self._split(train)
        if self.batch_size > len(train):
            raise ValueError(
                f"data.batch_size: expected at most the {len(train)} training images, got {self.batch_size}: choose a "
                "smaller --data.batch_size."
            )
        self.splits = {"train": train, "val": self._fixed(val, 1), "test": self._fixed(loaded.test, 2)}

    def _split(self, images: Images) -> tuple[Images, Images]:
        count = round(self.val_size * len(images)) if self.val_size < 1 else int(self.val_size)
        if not 0 < count < len(images):
            raise ValueError(
                f"data.val_size: expected between 1 and {len(images) - 1} of the {len(images)} training images, got "
                f"{self.val_size}."
            )
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.split_seed))
        self._val_index = order[:count].sort().values
        return images[order[count:].sort().values], images[self._val_index]

    def _fixed(self, images: Images, stream: int) -> Images:
        """Binarised once by the split's seed, the same at every pass and at any batch size."""
        if not self.dynamic_binarization:
            return images
        generator = torch.Generator().manual_seed(1_000_003 * self.split_seed + stream)
        grey = images.image.float() / (self.source.levels - 1)
        return Images(torch.bernoulli(grey, generator=generator).to(torch.uint8), images.label)

    def fixed(self, split: Split) -> Images:
        """A split as it can be counted: the training images, too, binarised once where that is dynamic."""
        return self._fixed(self.splits[split], 3) if split == "train" else self.splits[split]

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        image = batch["image"].float()
        if self.trainer is not None and self.trainer.training:
            if self.horizontal_flip:
                flip = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
                image = torch.where(flip, image.flip(-1), image)
            if self.dynamic_binarization:
                image = torch.bernoulli(image / (self.source.levels - 1))
        return {**batch, "image": image}

    def loader(self, split: Split, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of one split; the last one may be smaller, none is dropped."""
        images = InMemory(self.splits[split])
        return DataLoader(
            images,
            batch_size=self.batch_size if split == "train" else self.eval_batch_size,
            sampler=self._sampler(images, shuffle),
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # its own, so that opening a loader takes nothing from the noise
        )

    def _sampler(self, images: InMemory, shuffle: bool) -> Sampler[int]:
        if shuffle:  # several processes: Lightning deals this order out to them
            return Shuffle(len(images), self.seed, lambda: self.trainer.current_epoch if self.trainer else 0)
        if self.trainer is not None and self.trainer.world_size > 1:  # Lightning's own would count some images twice
            rank = {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
            return UnrepeatedDistributedSampler(images, shuffle=False, **rank)
        return SequentialSampler(images)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.loader("test")

    def record(self) -> dict[str, Any]:
        """What was split how, in plain data, with a digest of every split's bytes: two runs with equal records saw the
        same images."""
        sizes = {name: len(images) for name, images in self.splits.items()}
        digests = {
            name: hashlib.sha256(images.image.numpy().tobytes()).hexdigest()[:16]
            for name, images in self.splits.items()
        }
        return {
            "source": type(self.source).__name__,
            "image_shape": list(self.image_shape),
            "levels": self.levels,
            "dynamic_binarization": self.dynamic_binarization,
            "split_seed": self.split_seed,
            "sizes": sizes,
            "sha256": digests,
            "val_index": "the source's own" if self._val_index is None else self._val_index.tolist(),
        }
