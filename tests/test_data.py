"""Splits are kept apart and repeat; binarisation is fixed where it must be; bad data get one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Generated
from vae_lightning.data import CIFAR10, MNIST, BinarizedMNIST, Digits, FashionMNIST, ImageData, ImageFolder, Images
from vae_lightning.data.batches import Batches, InMemory, binarize


def loaded(source: object, **settings: object) -> ImageData:
    data = ImageData(source, **{"val_size": 16, "batch_size": 16, **settings})  # type: ignore[arg-type]
    data.setup()
    return data


def test_digits_are_split_without_overlap_and_repeat() -> None:
    data, again, other = loaded(Digits()), loaded(Digits()), loaded(Digits(), split_seed=1)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 1421, "val": 16, "test": 360}
    assert data.record() == again.record()
    assert data.record()["sha256"]["val"] != other.record()["sha256"]["val"]
    assert data.record()["sha256"]["test"] == other.record()["sha256"]["test"]  # the test set never moves
    rows = {name: {row.tobytes() for row in part.image.flatten(1).numpy()} for name, part in data.splits.items()}
    assert not rows["train"] & rows["test"]
    assert not rows["val"] & rows["train"]


def test_every_image_is_served_once_and_none_is_dropped() -> None:
    data = loaded(Generated(count=97))
    for split, shuffle in (("train", True), ("train", False), ("val", False), ("test", False)):
        batches = list(data.loader(split, shuffle))
        served = torch.cat([batch["image"] for batch in batches])
        assert len(served) == len(data.splits[split])
        assert sorted(map(bytes, served.flatten(1).numpy())) == sorted(
            map(bytes, data.splits[split].image.flatten(1).numpy())
        )
        if not shuffle:
            assert torch.equal(torch.cat([batch["label"] for batch in batches]), data.splits[split].label)


def test_dynamic_binarisation_is_fresh_in_training_and_fixed_elsewhere() -> None:
    data, again = (loaded(Generated(count=400), dynamic_binarization=True) for _ in range(2))
    assert data.levels == 2
    assert set(data.splits["test"].image.unique().tolist()) == {0, 1}
    assert torch.equal(data.splits["test"].image, again.splits["test"].image)
    assert torch.equal(data.splits["val"].image, again.splits["val"].image)
    data.trainer = SimpleNamespace(training=True)  # type: ignore[assignment]
    grey = {"image": data.splits["train"].image}
    visits = torch.stack([data.on_after_batch_transfer(grey, 0)["image"] for _ in range(200)])
    assert set(visits.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(visits[0], visits[1])
    expected = grey["image"].float() / 255
    assert (visits.mean(0) - expected).abs().mean() < 0.03
    data.trainer = SimpleNamespace(training=False)  # type: ignore[assignment]
    served = data.on_after_batch_transfer({"image": data.splits["test"].image}, 0)["image"]
    assert torch.equal(served, data.splits["test"].image.float())
    counted = data.fixed("train").image
    assert set(counted.unique().tolist()) == {0, 1}
    assert torch.equal(counted, again.fixed("train").image)


def test_binarising_has_the_probabilities_of_the_grey_levels() -> None:
    """Every level of 256 against the exact binomial, the ends exactly; and neighbours are independent."""
    image = torch.arange(256, dtype=torch.uint8).expand(20_000, 1, 1, 256)
    ones = binarize(image, 256)[:, 0, 0].double()
    p = torch.arange(256).double() / 255
    assert ones[:, 0].sum() == 0
    assert ones[:, 255].sum() == 20_000
    z = (ones.mean(0) - p)[1:-1] / (p * (1 - p) / 20_000).sqrt()[1:-1]
    assert z.abs().max() < 4.5
    assert z.std() == pytest.approx(1, abs=0.15)
    centred = (ones - p)[:, 1:-1] / (p * (1 - p)).sqrt()[1:-1]
    for lag in range(1, 5):
        assert (centred[:, lag:] * centred[:, :-lag]).mean().abs() < 5 / (20_000 * 250) ** 0.5
    assert binarize(torch.tensor([0, 16], dtype=torch.uint8), 17).tolist() == [0, 1]


def test_batches_are_dealt_out_to_processes() -> None:
    images = InMemory(Images(torch.arange(11, dtype=torch.uint8).view(11, 1, 1, 1)))
    for even, sizes in ((True, [4, 4, 4]), (False, [4, 4, 3])):
        shares = [
            Batches(images, 3, lambda: torch.arange(11), num_replicas=3, rank=rank, even=even) for rank in range(3)
        ]
        served = [torch.cat(list(share)) for share in shares]
        assert [len(part) for part in served] == sizes
        assert [len(share) for share in shares] == [len(list(share)) for share in shares]
        everything = torch.cat(served).tolist()
        assert set(everything) == set(range(11))
        assert len(everything) == sum(sizes)


def test_flips_only_in_training() -> None:
    data = loaded(Generated(), horizontal_flip=True)
    image = data.splits["train"].image
    data.trainer = SimpleNamespace(training=True)  # type: ignore[assignment]
    flipped = data.on_after_batch_transfer({"image": image}, 0)["image"]
    same, mirrored = (flipped == image).flatten(1).all(1), (flipped == image.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0 < mirrored.sum() < len(image)


def test_shifts_only_in_training_and_each_image_by_its_own() -> None:
    data = loaded(Generated(), shift=2)
    image = data.splits["train"].image
    assert torch.equal(data.on_after_batch_transfer({"image": image}, 0)["image"], image.float())
    data.trainer = SimpleNamespace(training=True)  # type: ignore[assignment]
    moved = data.on_after_batch_transfer({"image": image}, 0)["image"]
    padded = torch.nn.functional.pad(image.float(), (2,) * 4, mode="replicate")
    height, width = image.shape[2:]
    places = [(y, x) for y in range(5) for x in range(5)]
    same = [(moved == padded[:, :, y : y + height, x : x + width]).flatten(1).all(1) for y, x in places]
    found = torch.stack(same)
    assert found.any(0).all()  # each is one of the 25 windows
    assert found.any(1).sum() > 15  # and most windows come


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"epoch_steps": 0}, "epoch_steps"),
        ({"val_most": 0}, "val_most"),
        ({"val_size": 96}, "expected between 1 and 95"),
        ({"val_size": 0}, "a share below 1, got 0"),
        ({"val_size": 1.5}, "a share below 1, got 1.5"),
        ({"batch_size": 0}, "at least 1"),
        ({"shift": -1}, "a shift of at least 0 pixels, got 16, 512 and -1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        loaded(Generated(), **settings)


def test_binary_data_are_not_binarised_again() -> None:
    with pytest.raises(ValueError, match="binary already"):
        ImageData(Generated(levels=2), dynamic_binarization=True)


def test_root_is_found_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAE_LIGHTNING_DATA", raising=False)
    assert ImageData(Digits()).root == Path("data")
    monkeypatch.setenv("VAE_LIGHTNING_DATA", "elsewhere")
    assert ImageData(Digits()).root == Path("elsewhere")
    assert ImageData(Digits(), root="here").root == Path("here")


@pytest.mark.parametrize("source", [MNIST(), FashionMNIST(), CIFAR10(), BinarizedMNIST()])
def test_missing_data_say_where_they_were_looked_for(source: object, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected .*, which is not there.*--data.root.*VAE_LIGHTNING_DATA"):
        loaded(source, root=str(tmp_path), download=False)


# -- image folders ----------------------------------------------------------------------------------------------------


def paint(path: Path, size: tuple[int, int] = (6, 5), mode: str = "RGB", value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[0], size[1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(40):
        paint(tmp_path / "pictures" / ("cat" if i % 2 else "dog") / f"{i:02}.png", value=i)
    return tmp_path / "pictures"


def test_folder_with_classes(folder: Path) -> None:
    data = loaded(ImageFolder(str(folder)), batch_size=8, val_size=8)
    assert data.image_shape == (3, 6, 5)
    sizes = {name: len(part) for name, part in data.splits.items()}
    assert sum(sizes.values()) == 40
    assert sizes["val"] == 8
    assert 1 <= sizes["test"] <= 10
    everything = {
        bytes(row): int(label)
        for part in data.splits.values()
        for row, label in zip(part.image.numpy(), part.label, strict=True)
    }
    for i, name in ((3, "cat/03.png"), (4, "dog/04.png")):
        pixels = np.asarray(Image.open(folder / name)).transpose(2, 0, 1)
        assert everything[bytes(np.ascontiguousarray(pixels))] == (0 if i % 2 else 1)


def test_folder_with_splits_and_without_classes(folder: Path) -> None:
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        target = folder / ("test" if i < 10 else "train") / f"{i}.png"
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
    data = loaded(ImageFolder(str(folder), channels=1), batch_size=8, val_size=8)
    assert data.image_shape == (1, 6, 5)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 22, "val": 8, "test": 10}
    assert data.splits["train"].label is None


def test_an_image_stays_in_its_split_when_others_go(folder: Path) -> None:
    def rows(part: Images) -> set[bytes]:
        return {bytes(row) for row in part.image.numpy()}

    before = ImageFolder(str(folder), test_fraction=0.3).load(folder, download=False)
    for name in ("cat/01.png", "dog/00.png", "dog/22.png"):
        (folder / name).write_bytes(b"no picture")
    after = ImageFolder(str(folder), test_fraction=0.3, skip_unreadable=True).load(folder, download=False)
    assert rows(after.test) <= rows(before.test)
    assert rows(after.train) <= rows(before.train)
    assert len(after.train) + len(after.test) == 37


def test_folder_with_validation_and_no_test(folder: Path) -> None:
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        target = folder / ("val" if i < 10 else "train") / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    data = loaded(ImageFolder(str(folder)), batch_size=8)
    assert len(data.splits["val"]) == 10
    assert len(data.splits["train"]) + len(data.splits["test"]) == 30
    assert set(data.splits["train"].label.tolist()) == {0, 1}


def test_folder_is_found_below_the_root(folder: Path) -> None:
    assert loaded(ImageFolder(folder.name), root=str(folder.parent)).image_shape == (3, 6, 5)


def test_pictures_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 10, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown a quarter turn clockwise
        Image.fromarray(pixels).save(tmp_path / f"{i}.png", exif=exif)
    data = loaded(ImageFolder(str(tmp_path)), batch_size=4, val_size=2)
    assert data.image_shape == (3, 10, 6)
    turned = np.rot90(pixels, k=-1).transpose(2, 0, 1)
    assert any(np.array_equal(row, turned) for part in data.splits.values() for row in part.image.numpy())


def test_crop_keeps_proportions_and_stretching_does_not(tmp_path: Path) -> None:
    for i in range(12):  # left third black, the rest white or nearly so
        pixels = np.full((4, 12, 3), 255 - i, dtype=np.uint8)
        pixels[:, :4] = 0
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    cropped, stretched = (
        loaded(ImageFolder(str(tmp_path), size=(4, 4), crop=crop), batch_size=4, val_size=2).splits["train"].image[0]
        for crop in (True, False)
    )
    assert cropped.min() > 240  # the middle third
    assert stretched[:, :, 0].max() < 30
    assert stretched[:, :, -1].min() > 225


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_mixed_sizes_are_brought_to_one(folder: Path, crop: bool, channels: int) -> None:
    paint(folder / "cat" / "wide.jpg", (9, 31))
    paint(folder / "dog" / "grey.png", (40, 11), mode="L")
    data = loaded(ImageFolder(str(folder), size=(8, 7), crop=crop, channels=channels), batch_size=8, val_size=8)
    assert data.splits["train"].image.shape[1:] == (channels, 8, 7)
    assert sum(len(part) for part in data.splits.values()) == 42


def test_mixed_sizes_are_refused_without_a_size(folder: Path) -> None:
    paint(folder / "dog" / "wide.png", (9, 31))
    with pytest.raises(ValueError, match=r"wide.png is 9x31, while the first image is 6x5.*--data.source.size"):
        loaded(ImageFolder(str(folder)))


def test_unreadable_files_are_named_and_skipped_if_wanted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"no picture")
    whole = (folder / "dog" / "00.png").read_bytes()
    (folder / "dog" / "short.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2 of 42 files.*broken.png.*short.png.*skip_unreadable"):
        loaded(ImageFolder(str(folder)))
    data = loaded(ImageFolder(str(folder), skip_unreadable=True))
    assert sum(len(part) for part in data.splits.values()) == 40
    assert "skipped" in (out := capsys.readouterr().out)
    assert "broken.png" in out


# -- the cache of decoded images ---------------------------------------------------------------------------------------


def counted(folder: Path, root: Path, **settings: Any) -> tuple[ImageData, list[str]]:
    """The folder's images and the names of the files that had to be decoded for them."""
    source, names = ImageFolder(str(folder), **settings), []
    decode = source.decode
    source.decode = lambda file, shape: names.append(file.name) or decode(file, shape)
    return loaded(source, root=str(root), batch_size=8, val_size=8), names


def test_a_folder_is_decoded_once_and_what_changed_again(folder: Path, tmp_path: Path) -> None:
    plain, _ = counted(folder, tmp_path, cache=False)
    first, decoded = counted(folder, tmp_path)
    assert len(decoded) == 40
    assert first.record() == plain.record()
    for name, part in plain.splits.items():
        assert torch.equal(first.splits[name].image, part.image)
        assert torch.equal(first.splits[name].label, part.label)
        assert first.splits[name].rows is not None  # mapped, not copied
    again, decoded = counted(folder, tmp_path)
    assert decoded == []
    assert again.record() == plain.record()
    paint(folder / "cat" / "03.png", value=77)
    paint(folder / "dog" / "new.png", value=78)
    (folder / "dog" / "04.png").unlink()
    changed, decoded = counted(folder, tmp_path)
    assert sorted(decoded) == ["03.png", "new.png"]
    plain, _ = counted(folder, tmp_path, cache=False)
    assert changed.record() == plain.record()
    (place,) = (tmp_path / "cache").iterdir()
    assert len(list(place.glob("*/pixels.bin"))) == 1  # the state before is gone
    _, decoded = counted(folder, tmp_path, size=(4, 4))
    assert len(decoded) == 40  # other settings, another cache


def test_a_stopped_decoding_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_lightning.data.reading.cache.CHUNK", 8)
    source = ImageFolder(str(folder))
    decode = source.decode

    def killed(file: Path, shape: tuple[int, ...]) -> Any:
        if file == sorted(folder.rglob("*.png"))[20]:
            raise KeyboardInterrupt
        return decode(file, shape)

    source.decode = killed
    with pytest.raises(KeyboardInterrupt):
        source.load(tmp_path, download=False)
    data, decoded = counted(folder, tmp_path)
    assert len(decoded) == 24  # two chunks of eight were there
    assert data.record() == counted(folder, tmp_path, cache=False)[0].record()
    (pixels,) = (tmp_path / "cache").rglob("pixels.bin")
    pixels.write_bytes(pixels.read_bytes()[:100])  # cut off: not noticed by its name, but by its size
    data, decoded = counted(folder, tmp_path)
    assert len(decoded) == 40
    assert data.record() == counted(folder, tmp_path, cache=False)[0].record()


def test_without_a_place_for_the_cache_images_are_decoded_into_memory(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("in the way")
    data, decoded = counted(folder, tmp_path)
    assert len(decoded) == 40
    assert data.splits["train"].rows is None
    assert "no cache of decoded images" in capsys.readouterr().out


def test_unreadable_files_stay_known_in_the_cache(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"no picture")
    for expected in (41, 1):  # the broken one is tried again
        data, decoded = counted(folder, tmp_path, skip_unreadable=True)
        assert len(decoded) == expected
        assert sum(len(part) for part in data.splits.values()) == 40
    with pytest.raises(ValueError, match=r"1 of 41 files.*broken.png"):
        counted(folder, tmp_path)
    (folder / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data, _ = counted(folder, tmp_path, skip_unreadable=True)  # a dangling link is one unreadable file
    assert sum(len(part) for part in data.splits.values()) == 40


def test_a_file_that_was_mended_without_a_trace_is_read_again(folder: Path, tmp_path: Path) -> None:
    source, decode = ImageFolder(str(folder), skip_unreadable=True), ImageFolder.decode
    source.decode = lambda file, shape: "no rights" if file.name == "03.png" else decode(source, file, shape)
    assert sum(len(part) for part in loaded(source, root=str(tmp_path), batch_size=8, val_size=8).splits.values()) == 39
    data, decoded = counted(folder, tmp_path)
    assert decoded == ["03.png"]
    assert data.record() == counted(folder, tmp_path, cache=False)[0].record()


def test_two_settings_of_one_folder_keep_their_caches(folder: Path, tmp_path: Path) -> None:
    for settings, expected in (({}, 40), ({"size": (4, 4)}, 40), ({}, 0), ({"size": (4, 4)}, 0)):
        assert len(counted(folder, tmp_path, **settings)[1]) == expected


def test_batches_of_a_mapped_folder(folder: Path, tmp_path: Path) -> None:
    data, _ = counted(folder, tmp_path)
    seen = [image for batch in data.loader("train", shuffle=True) for image in batch["image"]]
    rows = {bytes(image.numpy()) for image in seen}
    assert rows == {bytes(image.numpy()) for image in data.splits["train"].image}
    assert len(seen) == len(data.splits["train"])
    assert torch.equal(torch.cat(list(data.splits["train"].chunks(7))), data.splits["train"].image)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of images, got nothing there"):
        loaded(ImageFolder(str(tmp_path / "nowhere")))
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="got a file"):
        loaded(ImageFolder(str(tmp_path / "file")))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="expected images, got none"):
        loaded(ImageFolder(str(tmp_path)))
    (tmp_path / "x.npy").touch()
    with pytest.raises(ValueError, match=r"read the array by --data.source Arrays --data.source.path .*x.npy"):
        loaded(ImageFolder(str(tmp_path)))
    for settings in ({"channels": 2}, {"size": (0, 3)}, {"test_fraction": 1.0}):
        with pytest.raises(ValueError, match="ImageFolder"):
            ImageFolder(str(tmp_path), **settings)


# -- the real files ---------------------------------------------------------------------------------------------------


def test_real_mnist(data_root: Path) -> None:
    data = loaded(MNIST(), root=str(data_root), val_size=10_000, download=False)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert data.splits["test"].label[:5].tolist() == [7, 2, 1, 0, 4]
    assert int(data.splits["test"].image.max()) == 255


@pytest.mark.parametrize("harm", ["truncate", "flip"])
def test_damaged_mnist_is_noticed(data_root: Path, tmp_path: Path, harm: str) -> None:
    shutil.copytree(data_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    if harm == "truncate":
        del content[5000:]
    else:
        content[5000] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"t10k-images-idx3-ubyte is damaged \(expected the md5 .*, got .*\): delete it"
    ):
        loaded(MNIST(), root=str(tmp_path), download=False)


def test_truncated_file_without_a_checksum_is_noticed(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "MNIST" / "raw", tmp_path / "FashionMNIST" / "raw")
    file = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="FashionMNIST is damaged"):
        loaded(FashionMNIST(), root=str(tmp_path), download=False)


def test_real_static_mnist_is_kept_packed(data_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "BinarizedMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (data_root / "BinarizedMNIST" / "raw").iterdir():
        (raw / file.name).symlink_to(file)
    data = loaded(BinarizedMNIST(), root=str(tmp_path), download=False)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert set(data.splits["test"].image.unique().tolist()) == {0, 1}
    assert data.levels == 2
    packed = sorted((tmp_path / "BinarizedMNIST" / "processed").iterdir())
    assert len(packed) == 3
    assert sum(file.stat().st_size for file in packed) < 7e6
    shutil.rmtree(raw)  # the packed copy is enough, and the same
    again = loaded(BinarizedMNIST(), root=str(tmp_path), download=False)
    assert again.record() == data.record()
    whole = packed[0].read_bytes()
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    for damaged in (whole[:1000], bytes(flipped)):  # and where it is damaged, the original is asked for
        packed[0].write_bytes(damaged)
        with pytest.raises(FileNotFoundError, match="amat"):
            loaded(BinarizedMNIST(), root=str(tmp_path), download=False)


def test_damaged_static_mnist_is_noticed(tmp_path: Path) -> None:
    raw = tmp_path / "BinarizedMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "binarized_mnist_train.amat").write_text("0 1 " * 392 + "\n")
    with pytest.raises(ValueError, match=r"train.amat is damaged \(expected the md5"):
        loaded(BinarizedMNIST(), root=str(tmp_path), download=False)
    assert not (tmp_path / "BinarizedMNIST" / "processed").exists()
