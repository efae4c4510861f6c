"""Pictures that are more, or other, than 8 bits: by a stated window or at their own depth, in training and afterwards;
grounds of transparent ones, frames, DICOM."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import REPOSITORY
from vae_lightning.data import ImageData, ImageFolder
from vae_lightning.images.files import read_files
from vae_lightning.metrics import independent_pixels_nll

IMAGES = REPOSITORY / "configs" / "experiment" / "images.yaml"


def png16(path: Path, values: np.ndarray) -> None:
    """(H, W, 3) uint16, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def painted(folder: Path, kind: str, count: int = 40) -> np.ndarray:
    """Writes pictures of a kind; (N, 6, 5, 3) of their values."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(0).integers(0, 4081, (count, 6, 5, 3)).astype(np.uint16)
    values[:, 0, 0], values[:, 0, 1] = 0, 4080
    if kind != "rgb16":
        values = values[..., :1].repeat(3, -1)
    for i, image in enumerate(values):
        file = folder / f"{i:02}.{'tif' if kind == 'float' else 'png'}"
        if kind == "rgb16":
            png16(file, image)
        elif kind == "grey16":
            Image.fromarray(image[..., 0]).save(file)
        else:
            Image.fromarray((image[..., 0] / 4080).astype(np.float32)).save(file)
    return values


def loaded(path: Path, **settings: Any) -> ImageData:
    data = ImageData(ImageFolder(str(path), **settings), root=str(path.parent), batch_size=4, val_size=4)
    data.setup()
    return data


def in_order(data: ImageData) -> np.ndarray:
    """(N, H, W, C) of all splits, by their files' names."""
    found = [(name, row) for it in data.splits.values() for name, row in zip(it.names, it.image.numpy(), strict=True)]
    return np.stack([row for _, row in sorted(found, key=lambda it: it[0])]).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("kind", ["grey16", "rgb16", "float"])
def test_deep_pictures_are_refused_or_read_as_stated(tmp_path: Path, kind: str) -> None:
    values = painted(folder := tmp_path / "deep", kind)
    own, top = (r"window \[0,1\]", 1.0) if kind == "float" else (r"levels 4096 .*window \[0,4080\]", 4080.0)
    with pytest.raises(ValueError, match=rf"expected 8 bits a value, got .*{own} .*percentiles"):
        loaded(folder)
    with pytest.raises(ValueError, match="expected 8 bits a value"):
        loaded(folder, skip_unreadable=True)
    rounding = 1 if kind == "float" else 0  # float32 may fall on the other side of a half
    expected = np.rint(values / 4080 * 255)
    for cache in (True, False, True):
        data = loaded(folder, window=(0.0, top), cache=cache)
        assert data.levels == 256
        assert np.abs(in_order(data) - expected).max() <= rounding
    half = in_order(loaded(folder, window=(0.0, top / 2)))
    assert np.abs(half - np.rint((values / 2040).clip(0, 1) * 255)).max() <= rounding
    grey = loaded(folder, window=(0.0, top), channels=1)
    luma = (values * [0.299, 0.587, 0.114]).sum(-1) / 4080 * 255
    assert np.abs(in_order(grey)[..., 0] - luma).max() <= 0.6
    small = loaded(folder, window=(0.0, top), size=(3, 3))
    assert small.image_shape == (3 if kind == "rgb16" else 1, 3, 3)
    assert in_order(small).std() > 20


def test_pictures_keep_their_own_depth(tmp_path: Path) -> None:
    values = painted(tmp_path / "deep", "rgb16")
    for cache in (True, False, True):
        data = loaded(tmp_path / "deep", levels=2**16, cache=cache)
        assert data.levels == 2**16
        assert np.array_equal(in_order(data), values)
    with pytest.raises(
        ValueError, match=r"expected 0..1023, got values from 0 to 4080 in all 40 images: .*levels 4096"
    ):
        loaded(tmp_path / "deep", levels=1024)
    for levels in (1, 2**16 + 1):
        with pytest.raises(ValueError, match=r"ImageFolder\.levels: expected from 2 to 65536"):
            ImageFolder("deep", levels=levels)
    for window in ((1.0, 1.0), (2.0, 1.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match=r"ImageFolder.window: expected \[low, high\]"):
            ImageFolder("deep", window=window)
    painted(tmp_path / "float", "float")
    assert loaded(tmp_path / "float", levels=17).splits["train"].image.unique().tolist() == list(range(17))


def test_percentiles_are_of_the_training_pictures(tmp_path: Path) -> None:
    values = painted(tmp_path / "deep", "grey16", 60)
    source = ImageFolder(str(tmp_path / "deep"), percentiles=(5.0, 95.0), test_fraction=0.3)
    low, high = source.found["window"]
    train = [int(name[:2]) for name in source._layout.files["train"] if not source._is_test(name)]
    assert 30 < len(train) < 60
    assert (low, high) == pytest.approx(tuple(np.percentile(values[train][..., 0], (5, 95))))
    data = loaded(tmp_path / "deep", percentiles=(5.0, 95.0), test_fraction=0.3)
    kept = loaded(tmp_path / "deep", test_fraction=0.3, window=(low, high))
    assert data.record() == kept.record()
    for percentiles in ((5.0, 5.0), (-1.0, 50.0), (0.0, 101.0)):
        with pytest.raises(ValueError, match=r"ImageFolder.percentiles: expected \[low, high\] from 0 to 100"):
            ImageFolder("deep", percentiles=percentiles)


def test_values_beyond_a_window_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    painted(folder := tmp_path / "late", "grey16", 60)
    late = np.full((6, 5), 100, np.uint16)
    late[:3] = 60000
    Image.fromarray(late).save(folder / "37.png")
    with pytest.raises(ValueError, match=r"from 0 to 60000 in all 60 images.*window \[0,60000\]"):
        loaded(folder)
    for _ in range(2):  # decoded, and from the cache
        data = loaded(folder, window=(0.0, 4080.0))
        said = (
            "1 of 60 pictures have values beyond the window [0,4080], such as 37.png: 0.833 % of all values become its"
        )
        assert f"{said} ends; the window [0,60000] would hold them." in capsys.readouterr().out
    assert in_order(data)[37, :3].min() == 255
    loaded(folder, window=(0.0, 4080.0), cache=False)
    assert "1 of 60 pictures have values beyond" in capsys.readouterr().out
    loaded(folder, window=(0.0, 60000.0))
    assert "have values beyond" not in capsys.readouterr().out
    read_files([folder / "36.png", folder / "37.png"], (1, 6, 5), data.source.reading)
    assert "1 of 2 pictures have values beyond that window" in capsys.readouterr().out


def test_a_range_of_some_pictures_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted(folder := tmp_path / "deep", "float", 60)
    Image.fromarray(np.linspace(-1, 3, 30, dtype=np.float32).reshape(6, 5)).save(folder / "37.tif")
    said = r"37.tif: expected integers, got real numbers from -1 to 3 in all 60 images: .*window \[-1,3\]"
    with pytest.raises(ValueError, match=said):
        loaded(folder, levels=256)
    monkeypatch.setattr("vae_lightning.data.reading.tell.LOOKED", 10)
    with pytest.raises(
        ValueError, match=r"from 0 to 1 in the 10 of 60 images that.*\[0,1\] brings .*, and what lies beyond to its"
    ):
        loaded(folder)


def test_percentiles_name_a_file_that_is_not_finite(tmp_path: Path) -> None:
    painted(folder := tmp_path / "deep", "float", 20)
    Image.fromarray(np.full((6, 5), np.nan, np.float32)).save(folder / "07.tif")
    with pytest.raises(ValueError, match=r"07.tif: expected finite numbers, got NaN or infinity: mend the image"):
        loaded(folder, percentiles=(1.0, 99.0), test_fraction=0.01)


def test_a_window_and_percentiles_are_not_both_taken() -> None:
    with pytest.raises(ValueError, match=r"ImageFolder: expected a window or percentiles, got .*percentiles null"):
        ImageFolder("deep", window=(0.0, 4080.0), percentiles=(1.0, 99.0))


def test_pictures_of_two_depths_do_not_share_a_window(tmp_path: Path) -> None:
    painted(tmp_path / "deep", "grey16")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5), np.uint8)).save(tmp_path / "deep" / "x.png")
    with pytest.raises(ValueError, match=r"one depth, got 00.png, which is deeper than 8 bits, and x.png"):
        loaded(tmp_path / "deep", window=(0.0, 4080.0))


def test_eight_bits_take_a_window_too(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
    (tmp_path / "plain").mkdir()
    for i, image in enumerate(values):
        Image.fromarray(image).save(tmp_path / "plain" / f"{i:02}.png")
    data = loaded(tmp_path / "plain", window=(0.0, 255.0), levels=16)
    assert data.levels == 16
    assert np.array_equal(in_order(data), np.rint(values / 255.0 * 15))


def test_transparency_lies_on_white_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ink").mkdir()
    alpha = np.random.default_rng(0).integers(0, 256, (30, 6, 5), dtype=np.uint8)
    for i, it in enumerate(alpha):
        ink = np.zeros((6, 5, 4), np.uint8)
        ink[..., 3] = it
        Image.fromarray(ink).save(tmp_path / "ink" / f"{i:02}.png")
    for _ in range(2):  # decoded, and from the cache
        data = loaded(tmp_path / "ink")
        assert "30 of 30 pictures are transparent, such as 00.png: laid on grey 255" in capsys.readouterr().out
    assert np.abs(in_order(data)[..., 0].astype(int) - (255 - alpha)).max() <= 1
    assert np.abs(in_order(loaded(tmp_path / "ink", background=100))[..., 0] - 100 * (1 - alpha / 255)).max() <= 1
    assert in_order(loaded(tmp_path / "ink", channels=4))[..., 3].tolist() == alpha.tolist()
    with pytest.raises(ValueError, match="that are the same, every value 0"):
        loaded(tmp_path / "ink", background=None)
    capsys.readouterr()
    given = read_files(sorted((tmp_path / "ink").iterdir()), (3, 6, 5), data.source.reading)
    assert np.array_equal(given.permute(0, 2, 3, 1).numpy(), in_order(data))
    assert "30 of 30 pictures are transparent: laid on grey 255, as in training" in capsys.readouterr().out
    with pytest.raises(ValueError, match="remove transparency"):
        read_files(sorted((tmp_path / "ink").iterdir()), (3, 6, 5))


@pytest.mark.parametrize("suffix", ["gif", "tiff"])
def test_further_frames_and_pages_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    (tmp_path / "many").mkdir()
    for i in range(20):
        frames = [Image.fromarray(np.random.default_rng([i, j]).integers(0, 256, (6, 5), np.uint8)) for j in range(4)]
        frames[0].save(tmp_path / "many" / f"{i:02}.{suffix}", save_all=True, append_images=frames[1:])
    for _ in range(2):
        data = loaded(tmp_path / "many")
        assert f"20 of 20 files hold several pictures (frames or pages), such as 00.{suffix}" in capsys.readouterr().out
    first = np.random.default_rng([0, 0]).integers(0, 256, (6, 5), np.uint8)
    assert in_order(data)[0, ..., 0].tolist() == first.tolist()


def test_independent_pixels_of_many_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (torch.randint(0, 50, (40, 1, 3, 3)) for _ in range(2))
    dense = independent_pixels_nll(train.split(9), test.split(7), 64)
    monkeypatch.setattr("vae_lightning.metrics.baselines.MOST_COUNTS", 10)
    assert independent_pixels_nll(iter(train.split(9)), test.split(7), 64).tolist() == pytest.approx(dense.tolist())


def test_dicom(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    values = np.random.default_rng(0).integers(0, 4096, (20, 6, 5)).astype(np.uint16)
    (tmp_path / "ct").mkdir()
    for i, image in enumerate(values):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        file = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.Rows, file.Columns, file.SamplesPerPixel, file.PixelRepresentation = 6, 5, 1, 0
        file.PhotometricInterpretation = "MONOCHROME1" if i % 2 else "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
        file.RescaleSlope, file.RescaleIntercept = 1, -1024
        file.PixelData = (4095 - image if i % 2 else image).tobytes()
        pydicom.dcmwrite(tmp_path / "ct" / f"{i:02}.dcm", file, enforce_file_format=True)
    with pytest.raises(ValueError, match=r"got (more than 8 bits|real numbers).*from -10\d\d.*window \[-"):
        loaded(tmp_path / "ct")
    data = loaded(tmp_path / "ct", window=(-1024.0, 3071.0), channels=1)
    assert np.array_equal(in_order(data)[..., 0], np.rint(values / 4095 * 255))
    (tmp_path / "ct" / "bad.dcm").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 21 files .*/bad.dcm: expected DICOM"):
        loaded(tmp_path / "ct", window=(-1024.0, 3071.0), channels=1)


SMALL = [
    *("--trainer.max_epochs=1", "--trainer.callbacks=null", "--data.batch_size=8", "--data.val_size=8"),
    "--model.latent_model.latent_size=2",
    "--model.latent_model.encoder.net.channels=4",
    "--model.latent_model.likelihood.net.channels=4",
]


def test_the_window_is_kept_with_the_model_and_applied_to_files(cli: Callable, tmp_path: Path) -> None:
    values = painted(tmp_path / "deep", "grey16", 60).repeat(2, 1).repeat(2, 2)[:, :8, :8]
    for i, image in enumerate(values):
        Image.fromarray(image[..., 0]).save(tmp_path / "deep" / f"{i:02}.png")
    flags = ["--data.source.path=deep", "--data.source.size=null", "--data.source.channels=1"]
    refused = cli("fit", "-c", IMAGES, *SMALL, *flags)
    assert refused.status == 1
    assert "--data.source.window [0,4080]" in refused.error
    done = cli("fit", "-c", IMAGES, *SMALL, *flags, "--data.source.percentiles=[1,99]")
    assert done.status == 0, done.err
    kept = yaml.safe_load(Path("runs/images/1/config.yaml").read_text())["data"]["source"]["init_args"]
    low, high = kept["window"]
    assert kept["percentiles"] is None  # the window is what they gave
    assert 0 <= low < 100
    assert 3900 < high <= 4080
    (tmp_path / "new").mkdir()
    Image.fromarray(values[0, ..., 0]).save(tmp_path / "new" / "one.png")
    packed = cli("compress", "new", "-o", "new.vlz", "--ckpt_path=runs/images/1")
    assert packed.status == 0, packed.err
    assert "are read as 256 levels, as in training" in packed.out
    assert cli("decompress", "new.vlz", "-o", "back", "--ckpt_path=runs/images/1").status == 0
    expected = np.rint(((values[0, ..., 0] - low) / (high - low)).clip(0, 1) * 255)
    assert np.array_equal(np.asarray(Image.open("back/one.png")), expected)
    deep = cli("fit", "-c", IMAGES, *SMALL, *flags, "--data.source.levels=4096")
    assert deep.status == 0, deep.err
    tested = cli(
        "test", "--ckpt_path=runs/images/2", "--model.evaluation.samples=2", "--model.evaluation.studies=false"
    )
    assert tested.status == 0, tested.err
    assert "bits/dim" in tested.out
    assert "at most 256 levels" in cli("compress", "test", "-o", "x.vlz", "--ckpt_path=runs/images/2").error
