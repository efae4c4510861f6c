"""The data sets that torchvision reads, whole in memory."""

from __future__ import annotations

import hashlib
import pickle
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import torch

from vae_lightning.data.source import Images, ImageSource, Shape, Splits, damaged, not_found


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


class TorchvisionSource(ImageSource):
    """A torchvision data set with a `train` flag, found under root/<folder>."""

    folder: ClassVar[str]
    names: ClassVar[tuple[str, ...]]  # of the classes, torchvision's own
    checksums: ClassVar[dict[str, str]] = {}  # file below the folder -> md5, where torchvision does not check it itself

    @abstractmethod
    def dataset(self, root: Path, train: bool, download: bool) -> Any:
        """The torchvision data set."""

    @property
    def levels(self) -> int:
        return 256

    @property
    def classes(self) -> tuple[str, ...]:
        return self.names

    def load(self, root: Path, download: bool) -> Splits:
        parts = [self._read(root, train, download) for train in (True, False)]
        return Splits(train=parts[0], test=parts[1])

    def _read(self, root: Path, train: bool, download: bool) -> Images:
        expected = root / self.folder
        self._verify(expected)
        try:
            data = self.dataset(root, train, download=False)
        except RuntimeError as missing:
            if "not found" not in str(missing) or any(expected.glob("*_batch*")):  # CIFAR's message says both
                raise damaged(expected, "its files are not those of the data set, by their md5") from missing
            data = self._download(root, train, download)
        except (ValueError, EOFError, AssertionError, pickle.UnpicklingError) as error:
            raise damaged(expected, str(error) or type(error).__name__) from error
        image = torch.as_tensor(np.asarray(data.data))
        image = image.unsqueeze(1) if image.dim() == 3 else image.permute(0, 3, 1, 2)
        return Images(image.contiguous(), torch.as_tensor(np.asarray(data.targets), dtype=torch.int64))

    def _download(self, root: Path, train: bool, download: bool) -> Any:
        name, expected = type(self).__name__, root / self.folder
        if not download:
            raise not_found(name, expected, "--data.download is false")
        try:
            return self.dataset(root, train, download=True)
        except (URLError, RuntimeError, OSError) as error:
            raise not_found(name, expected, f"downloading it failed ({' '.join(str(error).split())})") from error

    def _verify(self, folder: Path) -> None:
        for name, expected in self.checksums.items():
            path = folder / name
            if path.is_file() and (got := md5(path)) != expected:
                raise damaged(path, f"expected the md5 {expected}, got {got}, {path.stat().st_size} bytes")


class MNIST(TorchvisionSource):
    """Handwritten digits, 60 000 and 10 000 grey images of 28x28."""

    folder = "MNIST"
    names = (
        *("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four"),
        *("5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"),
    )
    checksums: ClassVar[dict[str, str]] = {
        "raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    @property
    def image_shape(self) -> Shape:
        return (1, 28, 28)

    def dataset(self, root: Path, train: bool, download: bool) -> Any:
        from torchvision import datasets

        return datasets.MNIST(root, train, download=download)


class FashionMNIST(TorchvisionSource):
    """Pictures of clothes, 60 000 and 10 000 grey images of 28x28."""

    folder = "FashionMNIST"
    names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    @property
    def image_shape(self) -> Shape:
        return (1, 28, 28)

    def dataset(self, root: Path, train: bool, download: bool) -> Any:
        from torchvision import datasets

        return datasets.FashionMNIST(root, train, download=download)


class KMNIST(TorchvisionSource):
    """Handwritten Kuzushiji, 60 000 and 10 000 grey images of 28x28."""

    folder = "KMNIST"
    names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

    @property
    def image_shape(self) -> Shape:
        return (1, 28, 28)

    def dataset(self, root: Path, train: bool, download: bool) -> Any:
        from torchvision import datasets

        return datasets.KMNIST(root, train, download=download)


class CIFAR10(TorchvisionSource):
    """Natural images, 50 000 and 10 000 in colour, 32x32."""

    folder = "cifar-10-batches-py"
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    @property
    def image_shape(self) -> Shape:
        return (3, 32, 32)

    def dataset(self, root: Path, train: bool, download: bool) -> Any:
        from torchvision import datasets

        return datasets.CIFAR10(root, train, download=download)
