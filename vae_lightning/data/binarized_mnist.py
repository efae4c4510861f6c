"""Larochelle's static binarisation of MNIST."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch

from vae_lightning.data.source import Images, ImageSource, Shape, Splits, damaged, not_found
from vae_lightning.data.torchvision_sources import md5

PIXELS = 784
URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
CHECKSUMS = {
    "train": "db28b1a6ae0fe70cbd3da91acf46e477",
    "valid": "bf37822a04e94123630de6a7dfd9c9ef",
    "test": "14e41ae11040adba6ab8cb291eda0dd8",
}


class BinarizedMNIST(ImageSource):
    """50 000 / 10 000 / 10 000 binary images of 28x28, fixed once and for all (Larochelle & Murray 2011).

    Read from root/BinarizedMNIST/raw/binarized_mnist_{train,valid,test}.amat, checked by md5, and kept packed (one bit
    a pixel), with a checksum, in root/BinarizedMNIST/processed where that can be written.
    """

    @property
    def image_shape(self) -> Shape:
        return (1, 28, 28)

    @property
    def levels(self) -> int:
        return 2

    def load(self, root: Path, download: bool) -> Splits:
        folder = root / "BinarizedMNIST"
        train, val, test = (self._read(folder, part, download) for part in CHECKSUMS)
        return Splits(train, test, val)

    def _read(self, folder: Path, part: str, download: bool) -> Images:
        packed = folder / "processed" / f"{part}.{CHECKSUMS[part][:8]}.npz"
        bits = _unpack(packed) if packed.is_file() else None
        if bits is None:
            bits = _parse(_find(folder, part, download), CHECKSUMS[part])
            _keep(packed, bits)
        return Images(torch.from_numpy(bits).view(-1, 1, 28, 28))


def _find(folder: Path, part: str, download: bool) -> Path:
    path = folder / "raw" / f"binarized_mnist_{part}.amat"
    if path.is_file():
        return path
    if not download:
        raise not_found("BinarizedMNIST", path, "--data.download is false")
    from torchvision.datasets.utils import download_url

    try:
        download_url(f"{URL}/{path.name}", str(path.parent), f"{path.name}.part", md5=CHECKSUMS[part])
    except (URLError, RuntimeError, OSError) as error:
        raise not_found("BinarizedMNIST", path, f"downloading it failed ({' '.join(str(error).split())})") from error
    os.replace(path.with_name(f"{path.name}.part"), path)
    return path


def _parse(path: Path, checksum: str) -> np.ndarray:
    """The file is one image a line, '0' or '1' and one separator for each pixel: (N, 784) uint8."""
    if (got := md5(path)) != checksum:
        raise damaged(path, f"expected the md5 {checksum}, got {got}, {path.stat().st_size} bytes")
    text = np.fromfile(path, dtype=np.uint8).reshape(-1, PIXELS, 2)
    return np.ascontiguousarray(text[:, :, 0] - ord("0"))


def _unpack(path: Path) -> np.ndarray | None:
    """The packed copy, or None where it is damaged: then the original is read again."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a zip file checks its own CRC as it is read
            return np.unpackbits(file["bits"], axis=1, count=PIXELS)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def _keep(path: Path, bits: np.ndarray) -> None:
    folder = path.parent.parent
    if not folder.stat().st_mode & stat.S_IWUSR:  # marked read-only: respected even where the user could write
        return
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, bits=np.packbits(bits, axis=1))
        os.replace(part, path)
    except OSError:  # it only saves time
        part.unlink(missing_ok=True)
