"""Arrays as a source: which axes, which levels, labels and splits; nothing scaled in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vae_lightning.data import Arrays, ImageData


@pytest.fixture
def grey() -> np.ndarray:
    """(60, 6, 5) uint8, every level's end among them."""
    found = np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
    found[:, 0, :2] = (0, 255)
    return found


def loaded(source: Arrays, **settings: Any) -> ImageData:
    data = ImageData(source, batch_size=4, val_size=6, **settings)
    data.setup()
    return data


def rows(data: ImageData) -> set[bytes]:
    return {bytes(row) for part in data.splits.values() for row in part.image.contiguous().numpy()}


@pytest.mark.parametrize("axes", ["NHW", "NHWC", "NCHW", "NHWC1"])
def test_axes(grey: np.ndarray, tmp_path: Path, axes: str) -> None:
    colour = np.stack([grey, grey[::-1], 255 - grey], -1)
    array = {"NHW": grey, "NHWC": colour, "NCHW": colour.transpose(0, 3, 1, 2), "NHWC1": grey[..., None]}[axes]
    np.save(tmp_path / "x.npy", array)
    data = loaded(Arrays("x.npy"), root=str(tmp_path))
    first = colour.transpose(0, 3, 1, 2) if "1" not in axes and len(axes) > 3 else grey[:, None]
    assert data.image_shape == first.shape[1:]
    assert data.levels == 256
    assert rows(data) == {row.tobytes() for row in np.ascontiguousarray(first)}
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 48, "val": 6, "test": 6}
    assert data.splits["train"].rows is not None  # mapped, not copied
    assert data.record() == loaded(Arrays(str(tmp_path / "x.npy"))).record()


def test_floats_are_rounded_to_stated_levels_or_refused(
    grey: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.npy"
    np.save(file, (grey / 255).astype(np.float32))
    with pytest.raises(ValueError, match=r"real numbers from 0 to 1: .*levels 256 rounds.*window \[0,1\]"):
        loaded(Arrays(str(file)))
    assert rows(loaded(Arrays(str(file), levels=256))) == {row[None].tobytes() for row in grey}
    assert "float32 NHW, values in [0, 1] rounded to 256 levels" in capsys.readouterr().out
    data = loaded(Arrays(str(file), levels=17))
    assert data.levels == 17
    assert set(data.splits["train"].image.unique().tolist()) == set(range(17))
    for scale, shift, window in ((1.0, 0.0, [0, 255]), (2 / 255, -1.0, [-1, 1]), (1 / 255, 0.0, [0, 1])):
        np.save(file, (grey * scale + shift).astype(np.float64))
        assert rows(loaded(Arrays(str(file), window=tuple(window)))) == {row[None].tobytes() for row in grey}
    np.save(file, grey / 127.5)
    with pytest.raises(ValueError, match=r"real numbers from 0 to 2: say what they mean: --data.source.window \[0,2\]"):
        loaded(Arrays(str(file), levels=256))
    np.save(file, np.where(grey > 99, np.nan, 0.5))
    with pytest.raises(ValueError, match=r"x.npy, train image 0: expected finite numbers, got NaN or infinity"):
        loaded(Arrays(str(file), levels=256))
    with pytest.raises(ValueError, match=r"x.npy, image \d+: expected finite numbers, got NaN or infinity: mend"):
        loaded(Arrays(str(file), percentiles=(1.0, 99.0)))


def test_integers_of_any_depth(grey: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, grey.astype(np.int64))
    assert rows(loaded(Arrays(str(file)))) == {row[None].tobytes() for row in grey}
    deep = grey.astype(np.uint16) * 257
    np.save(file, deep)
    with pytest.raises(ValueError, match=r"expected 0..255, got values from 0 to 65535: .*levels 65536.*\[0,65535\]"):
        loaded(Arrays(str(file)))
    data = loaded(Arrays(str(file), levels=2**16))
    assert data.levels == 2**16
    assert data.splits["train"].image.dtype == torch.int32
    assert rows(data) == {row[None].astype(np.int32).tobytes() for row in deep}
    assert rows(loaded(Arrays(str(file), window=(0, 65535)))) == {row[None].tobytes() for row in grey}
    np.save(file, grey > 99)
    assert loaded(Arrays(str(file))).levels == 2
    np.save(file, (grey > 99).astype(np.uint8))
    with pytest.raises(ValueError, match=r"binary with --data.source.levels 2"):
        loaded(Arrays(str(file)))
    assert loaded(Arrays(str(file), levels=2)).levels == 2


def test_percentiles_of_the_training_images_are_the_window(grey: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, grey.astype(np.float32) * 3)
    source = Arrays(str(file), percentiles=(5.0, 95.0))
    train = source._parts["train"]
    assert source.found["window"] == pytest.approx(tuple(np.percentile(train.pixels[train.rows], (5, 95))))
    again = Arrays(str(file), **source.found)
    assert again.found == {}
    assert loaded(again).record() == loaded(source).record()
    with pytest.raises(ValueError, match=r"a window or percentiles, got .*--data.source.percentiles null"):
        Arrays(str(file), window=(0.0, 255.0), percentiles=(5.0, 95.0))
    assert 0.03 < (loaded(source).splits["train"].image == 255).double().mean() < 0.1


@pytest.mark.parametrize("kind", ["npz", "pt", "pair", "beside"])
def test_labels(grey: np.ndarray, tmp_path: Path, kind: str) -> None:
    label, settings = np.arange(60) % 3 + 7, {}
    if kind == "npz":
        np.savez(tmp_path / "x.npz", images=grey, labels=label[:, None])
    elif kind == "beside":
        np.savez(tmp_path / "x.npz", grey)
        np.save(tmp_path / "y.npy", label)
        settings = {"labels": "y.npy"}
    else:
        pair = torch.from_numpy(grey), torch.from_numpy(label)
        torch.save(pair if kind == "pair" else dict(zip(("x", "y"), pair, strict=True)), tmp_path / "x.pt")
    file = "x.npz" if kind in ("npz", "beside") else "x.pt"
    data = loaded(Arrays(file, **settings), root=str(tmp_path))
    assert data.spec.classes == ("7", "8", "9")
    known = {row.tobytes(): int(it) for row, it in zip(grey, label, strict=True)}
    for part in data.splits.values():
        for image, number in zip(part.image.numpy(), part.label.tolist(), strict=True):
            assert known[image[0].tobytes()] == number + 7


@pytest.mark.parametrize("form", ["x_{}", "{}_images"])
def test_splits_of_a_file(grey: np.ndarray, tmp_path: Path, form: str) -> None:
    parts = dict(zip(("train", "val", "test"), np.split(grey, [40, 50]), strict=True))
    np.savez(tmp_path / "x.npz", **{form.format(name): it for name, it in parts.items()})
    data = loaded(Arrays(str(tmp_path / "x.npz")))
    for name, part in parts.items():
        assert np.array_equal(data.splits[name].image[:, 0].numpy(), part)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((9, 3, 5, 3), np.uint8), "NHWC and NCHW: say which, --data.source.axes"),
        (np.zeros((8, 8, 90), np.uint8), r"seems to be \(H, W, N\): save x.transpose\(2, 0, 1\)"),
        (np.zeros((9, 5, 5, 2), np.uint8), r"C being 1, 3 or 4, got the shape \(9, 5, 5, 2\)"),
        (np.zeros((9, 5), np.uint8), r"got the shape \(9, 5\)"),
        (np.zeros((0, 5, 5), np.uint8), r"got the shape \(0, 5, 5\)"),
        (np.zeros((9, 5, 5), complex), "expected integers or real numbers, got complex128"),
        (np.arange(225).reshape(9, 5, 5) - 7, "got values from -7 to 217"),
        (np.zeros((9, 64), np.uint8), r"got the shape \(9, 64\): .* x.reshape\(-1, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"got the shape \(8, 8\): .* x.reshape\(-1, H, W\)"),
        (
            np.array([{}] * 9),
            "expected tensors or arrays of numbers, got objects, .*: save the images alone, by np.savez",
        ),
    ],
)
def test_what_is_no_array_of_images(array: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=said):
        loaded(Arrays(str(tmp_path / "x.npy")))


def test_files_that_are_none(grey: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 2 3")
    (tmp_path / "x.npy").write_text("1 2 3")
    np.savez(tmp_path / "two.npz", a=grey, b=grey)
    np.savez(tmp_path / "short.npz", x=grey, y=np.arange(5))
    for name, said in (
        ("x.txt", "expected a .npy, .npz or .pt file, got .txt"),
        ("x.npy", "expected arrays of numbers"),
        ("two.npz", "expected an array images or image or x"),
        ("short.npz", "as many train labels as images, 60, got 5"),
    ):
        with pytest.raises(ValueError, match=said):
            loaded(Arrays(str(tmp_path / name)))
    with pytest.raises(FileNotFoundError, match=r"nowhere.npy.*--data.root"):
        loaded(Arrays("nowhere.npy"))


def test_what_a_window_clips_is_counted_and_said(
    grey: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.npy"
    grey = grey.clip(0, 200)
    grey[:6, 0, 0] = 250
    for array, scale in ((grey, 1), (grey / 2.0, 0.5)):
        np.save(file, array)
        loaded(Arrays(str(file), window=(0.0, 200 * scale)))
        said = f"6 of 60 train images have values beyond the window [0,{200 * scale:g}]: 0.333 % of all values become"
        assert f"{said} its ends; the window [0,{250 * scale:g}] would hold them." in capsys.readouterr().out
        loaded(Arrays(str(file), window=(0.0, 249.9 * scale)))  # less than half a level beyond
        assert "beyond" not in capsys.readouterr().out


def test_fewer_levels_than_values_are_refused_with_the_flag(grey: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", grey)
    with pytest.raises(ValueError, match=r"expected 0..15, got values from 0 to 255: .*--data.source.levels 256 keeps"):
        loaded(Arrays(str(tmp_path / "x.npy"), levels=16))


def test_a_range_is_that_of_all_images(grey: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_lightning.data.arrays.CHUNK_VALUES", 300)
    scaled = grey / 255
    scaled[-1, 0, 0] = 7
    np.save(tmp_path / "x.npy", scaled)
    with pytest.raises(ValueError, match=r"got real numbers from 0 to 7: .*--data.source.window \[0,7\]"):
        loaded(Arrays(str(tmp_path / "x.npy")))


def test_labels_that_are_whole_real_numbers_are_classes(grey: np.ndarray, tmp_path: Path) -> None:
    for label, classes in ((np.arange(60) % 3 + 0.0, ("0", "1", "2")), (np.arange(60) / 2, None), (np.eye(60), None)):
        np.savez(tmp_path / "x.npz", images=grey, labels=label)
        if classes:
            assert loaded(Arrays(str(tmp_path / "x.npz"))).spec.classes == classes
        else:
            with pytest.raises(ValueError, match=r"got float64 .*: give the number .*argmax.*or save the images alone"):
                loaded(Arrays(str(tmp_path / "x.npz")))


def test_what_torch_would_have_to_unpickle_is_said_plainly(grey: np.ndarray, tmp_path: Path) -> None:
    for found in (torch.utils.data.TensorDataset(torch.from_numpy(grey)), {"images": grey}):
        torch.save(found, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"x.pt: expected tensors or arrays of numbers, got objects") as raised:
            loaded(Arrays(str(tmp_path / "x.pt")))
        assert "\x1b" not in str(raised.value)
    (tmp_path / "x.pt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"got something else \(nothing that torch reads\): save it again"):
        loaded(Arrays(str(tmp_path / "x.pt")))
    with pytest.raises(ValueError, match=r"got a folder: name the file in it, or .*--data.source ImageFolder"):
        loaded(Arrays(str(tmp_path)))
