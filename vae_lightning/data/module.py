"""The one DataModule: uint8 images in memory, batches by index, transforms on the batch and on its device."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vae_lightning.core import Spec, TextSpec
from vae_lightning.data.augment import augmented, check_transforms
from vae_lightning.data.batches import (
    Batches,
    InMemory,
    binarization_entropy,
    binarize,
    binarized,
    loader,
    seed_of,
    shuffled,
)
from vae_lightning.data.door import admitted, look_for_copies
from vae_lightning.data.few_labels import FewLabels, require_without
from vae_lightning.data.say import say
from vae_lightning.data.source import Images, ImageSource, Shape, find_root, require_match
from vae_lightning.data.splits import STREAMS, Split, digests, hold_back, told
from vae_lightning.tokens import train_tokens

Column = Literal["label", "text", "caption", "meaning", "held_out"]


class ImageData(LightningDataModule):
    """Training, validation and test images of one source, kept apart.

    Batches are {"image": (B, C, H, W) float32 integers, "label": (B,) int64 where there are classes, "text": (B, T)
    int64 where there are captions}.

    Args:
        source: where the images come from.
        root: folder of the data sets; null means the environment variable VAE_LIGHTNING_DATA, or data/.
        batch_size: images a training step.
        eval_batch_size: images a step of validation, test and prediction.
        val_size: how many training images are kept for validation (a number, or a share below 1), where the source
            brings no validation images of its own.
        val_most: at most so many validation images, evenly over those kept or brought by the source; null for all.
        epoch_steps: training steps of an epoch, whatever the number of images: fewer are gone through several times,
            of more each epoch takes others. null for an epoch that takes each image once.
        split_seed: fixes that choice, and binarisation and captions of validation and test images.
        dynamic_binarization: Bernoulli(grey / (levels - 1)) for each pixel: drawn afresh at every visit in training,
            once and for all in validation and test. The data then have 2 levels.
        horizontal_flip: mirrors half of the training images at random.
        shift: pixels up to which each training image is moved at random, both ways; what comes in repeats the edge.
        augment: further changes of training images at random, one after the other, each by itself (configs/augment/).
        few_labels: which labels training is told, for semi-supervised models; null for all.
        download: fetch what is missing where torchvision knows how.
        columns: what batches hold beside the images, where it is there: label, text, and in validation and test caption
            (B, T), the one of `Captions.meanings`, meaning (B,), its number, held_out (B,); null for label and text.
        bpe: how many tokens captions are made of, by byte-pair encoding; null for a token a word.
        text: tokens of an earlier run, from its checkpoint; null learns them from the training captions.
    """

    def __init__(
        self,
        source: ImageSource,
        root: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_size: int | float = 0.1,
        val_most: int | None = None,
        epoch_steps: int | None = None,
        split_seed: int = 0,
        dynamic_binarization: bool = False,
        horizontal_flip: bool = False,
        shift: int = 0,
        augment: list[nn.Module] | None = None,
        few_labels: FewLabels | None = None,
        download: bool = True,
        columns: list[Column] | None = None,
        bpe: int | None = None,
        text: TextSpec | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1 or shift < 0:
            got = f"{batch_size}, {eval_batch_size} and {shift}"
            raise ValueError(f"data: expected batch sizes of at least 1 and a shift of at least 0 pixels, got {got}.")
        if val_size <= 0 or (val_size > 1 and val_size != int(val_size)):
            raise ValueError(f"data.val_size: expected a number of images, or a share below 1, got {val_size}.")
        for name, number in (("val_most", val_most), ("epoch_steps", epoch_steps)):
            if number is not None and number < 1:
                raise ValueError(f"data.{name}: expected at least 1, or null, got {number}.")
        if dynamic_binarization and source.levels == 2:
            raise ValueError(
                f"data.dynamic_binarization: expected grey images, got {type(source).__name__}, whose are binary "
                "already: leave it out."
            )
        self.source, self.root = source, find_root(root)
        source.find(self.root)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.val_most, self.split_seed, self.shift = val_size, val_most, split_seed, shift
        self.epoch_steps = epoch_steps
        self.dynamic_binarization, self.horizontal_flip, self.download = dynamic_binarization, horizontal_flip, download
        self.augment, self.few_labels = augment or [], few_labels
        self.columns, self.bpe, self.text = None if columns is None else tuple(columns), bpe, text
        self.seed, self.splits = torch.initial_seed(), dict[str, Images]()
        self._val_index: Tensor | None = None
        self._asked_for: int | None = None  # a batch size of more images than there are
        self.copies: dict[tuple[str, str], int] = {}
        """How many images of one split have the very pixels of one of another, once read: `look_for_copies`."""
        self.binarization_entropy: Tensor | None = None
        """Of each test image, nats, (N,), where the data are binarised here: the part of -log p(x) that no model of the
        binary images can go below."""

    @property
    def image_shape(self) -> Shape:
        return self.source.image_shape

    @property
    def levels(self) -> int:
        return 2 if self.dynamic_binarization else self.source.levels

    @property
    def spec(self) -> Spec:
        """What the data are."""
        if self._has("text") and self.text is None:
            self.setup()
        classes = self.source.classes if self._has("label") else None
        return Spec(tuple(self.image_shape), self.levels, classes, self.text if self._has("text") else None)

    @property
    def is_augmented(self) -> bool:
        """Whether training images change from visit to visit."""
        return bool(self.horizontal_flip or self.shift or self.augment or self.dynamic_binarization)

    def _has(self, column: Column) -> bool:
        return (column != "text" or self.source.captioned) and (self.columns is None or column in self.columns)

    def check_matches(self, spec: Spec, needs: tuple[str, ...] = ()) -> None:
        """See `require_match`; and a model that is told labels is told all."""
        require_match(self.spec, spec, needs)
        require_without(self.few_labels, needs)

    def prepare_data(self) -> None:
        """Downloads on one process only, before the others read."""
        if self.download and not self.splits:
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the images, once, whatever the stage."""
        if self.splits:
            return
        loaded = admitted(self.source, self.source.load(self.root, self.download))
        train, val = loaded.train, loaded.val
        if val is None:
            train, val, self._val_index = hold_back(train, self.val_size, self.split_seed, self.val_most)
        elif self.val_most is not None:
            val = val.some(self.val_most)
        if self.batch_size > len(train):
            self._asked_for, self.batch_size = self.batch_size, len(train)
        if self.augment:
            check_transforms(train.some(2).image, self.augment)
        self.copies = look_for_copies({"train": train, "val": val, "test": loaded.test})
        if train.captions is not None and self.text is None and self._has("text"):
            self.text = train_tokens(train.captions.said(), self.bpe)
        fixed = {"train": train, "val": self._fixed("val", val), "test": self._fixed("test", loaded.test)}
        self.splits = {
            name: told(images, name, self.split_seed, self.text, self.columns)  # type: ignore[arg-type]
            for name, images in fixed.items()
        }
        if self.dynamic_binarization:
            entropies = [binarization_entropy(part, self.source.levels) for part in loaded.test.chunks()]
            self.binarization_entropy = torch.cat(entropies)

    def _fixed(self, split: Split, images: Images) -> Images:
        """Binarised once by the split's seed, the same at every pass and at any batch size."""
        seed = seed_of(self.split_seed, STREAMS[split])
        return binarized(images, self.source.levels, seed) if self.dynamic_binarization else images

    def fixed(self, split: Split) -> Images:
        """A split as it can be counted: the training images, too, binarised once where that is dynamic."""
        return self._fixed(split, self.splits[split]) if split == "train" else self.splits[split]

    def transfer_batch_to_device(
        self, batch: dict[str, Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Batches are cut out on the device that trains: nothing is left to move."""
        return {name: value.to(device) for name, value in batch.items()}

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        image = batch["image"]
        if self.trainer is not None and self.trainer.training:
            image = augmented(image, self.augment, self.horizontal_flip, self.shift)
            if self.dynamic_binarization:
                image = binarize(image, self.source.levels)
        return {**batch, "image": image.float()}

    def loader(self, split: Split, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of one split, on the device of this process; the last one may be smaller, none is dropped."""
        trainer = self.trainer

        def epoch() -> int:
            return trainer.current_epoch if trainer else 0

        device, seed = trainer.strategy.root_device if trainer else torch.device("cpu"), self.seed
        processes, length = trainer.world_size if trainer else 1, None
        if shuffle and self.epoch_steps is not None:
            length = self.epoch_steps * self.batch_size * processes
        found = self.splits[split].to(device)
        order = shuffled(len(found), seed, epoch, length) if shuffle else lambda: torch.arange(len(found))
        if shuffle and self.few_labels is not None:
            found = self.few_labels.told(found)
            order, length = self.few_labels.order(found, seed, epoch, self.batch_size, processes, length)
        images = InMemory(found, (lambda: seed_of(seed, epoch())) if shuffle else None)
        sampler = Batches(
            images,
            self.batch_size if split == "train" else self.eval_batch_size,
            order,
            num_replicas=processes,
            rank=trainer.global_rank if trainer else 0,
            even=split == "train",
            length=length,
        )
        return loader(images, sampler)

    def train_dataloader(self) -> DataLoader[Any]:
        if self._asked_for is not None:
            say(f"a batch is all {self.batch_size} training images, fewer than --data.batch_size {self._asked_for}.")
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader("test")

    predict_dataloader = test_dataloader

    def record(self) -> dict[str, Any]:
        """What was split how, in plain data, with a digest of every split's bytes: two runs with equal records saw the
        same images."""
        return {
            "source": type(self.source).__name__,
            "image_shape": list(self.image_shape),
            "levels": self.levels,
            "dynamic_binarization": self.dynamic_binarization,
            "split_seed": self.split_seed,
            **digests(self.splits),
            "val_index": "the source's own" if self._val_index is None else self._val_index.tolist(),
        }
