"""Layouts of folders: what is a split, what a class, what is refused; no file is in two splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_lightning.data import ImageData, ImageFolder
from vae_lightning.data.reading.layout import read_layout


def paint(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([i, *name.encode()]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)


def several(folder: str, count: int = 4) -> list[str]:
    return [f"{folder}/{i}" for i in range(count)]


def taken(path: Path, **settings: bool) -> tuple[dict[str, int], tuple[str, ...]]:
    layout = read_layout(path, **settings)
    return {layout.folders[role]: len(names) for role, names in layout.files.items()}, layout.classes


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Training", "VALID", "Testing"), ("TRAIN", "validation", "Test"), ("train", "valid")]
    + [("train", "test"), ("train",), ("training", "testing")],
)
@pytest.mark.parametrize("classes", [("cat", "dog"), ()])
def test_folders_of_splits_with_classes_and_without(
    tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        for kind in classes or ("",):
            paint(tmp_path, *several(f"{name}/{kind}".rstrip("/"), 8))
    each = 8 * max(1, len(classes))
    assert taken(tmp_path) == (dict.fromkeys(names, each), classes)
    data = ImageData(ImageFolder(str(tmp_path), test_fraction=0.3), root=str(tmp_path), batch_size=2, val_size=2)
    data.setup()
    sizes = {split: len(images) for split, images in data.splits.items()}
    assert sum(sizes.values()) == each * len(names)
    if len(names) == 3:
        assert set(sizes.values()) == {each}
    assert all((images.label is not None) == bool(classes) for images in data.splits.values())
    for images in data.splits.values():
        if classes:
            assert [classes[i] for i in images.label] == [name.split("/")[1] for name in images.names]
    out = capsys.readouterr().out
    assert f"{names[0]}/, {each} images for training" in out
    assert ("2 classes (cat, dog)" if classes else "no classes") in out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/0", "train/1", "val/0", "valid/0"], "expected one folder a split, got val and valid"),
        (["train/0", "Train/1"], "expected one folder a split, got Train and train"),
        (["train/0", "test/0", "car/0"], "got test, train with car: .*split_folders true .* or false"),
        (["train/0", "bus/0", "car/0"], "got train with bus, car"),
        (["train/0", "test/0", "0"], "got test, train with images beside them"),
        (["test/0", "val/0"], "a folder train, got test, val without it: .*split_folders false"),
        (["test/0"], "a folder train, got test without it: .*split_folders false"),
        (["train/0", "dev/0", "eval/0"], "got train with dev, eval: .*split_folders true"),
        (["train_images/0", "test_images/0"], "got train_images and test_images: call them .*split_folders false"),
        (["Train-2/0", "eval/0", "x/0"], "got Train-2 and eval"),
        (["cat/0", "dog/0", "0"], "got 1 such as 0.png beside cat, dog: .*class_folders false"),
        (["train/cat/0", "train/1", "test/0"], "got 1 such as 1.png beside cat"),
        (["train/cat/0", "train/dog/0", "test/cat/0", "test/cow/0"], "test has the class folders cow, which"),
        (["cat/train/0", "cat/test/0", "dog/train/0"], "got cat/test and cat/train: give one of them, .*path .*/cat"),
        (["images/Train/0", "images/Validation/0", "labels/train/0"], "got images/Train and images/Validation"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    paint(tmp_path, *names)
    with pytest.raises(ValueError, match=said):
        read_layout(tmp_path)


def test_what_is_refused_can_be_said(tmp_path: Path) -> None:
    paint(tmp_path, *several("train"), *several("test", 2), *several("car", 3))
    assert taken(tmp_path, split_folders=True) == ({"train": 4, "test": 2}, ())
    assert "left out: car/" in str(read_layout(tmp_path, True))
    assert taken(tmp_path, split_folders=False) == ({"": 9}, ("car", "test", "train"))
    paint(tmp_path, "beside")
    assert taken(tmp_path, split_folders=False, class_folders=False) == ({"": 10}, ())
    with pytest.raises(ValueError, match="expected images in folders of classes, or none"):
        read_layout(tmp_path, False)


def test_names_that_only_look_like_splits_are_classes(tmp_path: Path) -> None:
    paint(tmp_path, *several("trains"), *several("testimony", 2), *several("steam_train", 2))
    assert taken(tmp_path) == ({"": 8}, ("steam_train", "testimony", "trains"))
    paint(tmp_path, *several("test_image", 2))
    assert taken(tmp_path, split_folders=False)[1] == ("steam_train", "test_image", "testimony", "trains")


def test_an_empty_folder_of_a_split_is_said(tmp_path: Path) -> None:
    paint(tmp_path, *several("train"), "test/0")
    (tmp_path / "Valid").mkdir()
    (tmp_path / "Valid" / "notes.txt").write_text("none")
    assert str(read_layout(tmp_path)).endswith("1 image for test; no classes; Valid/ holds no images")
    assert "Valid" not in str(read_layout(tmp_path, split_folders=False))


@pytest.mark.parametrize(
    ("count", "settings", "said"),
    [
        (1, {}, "expected images for training beside those for test, got 1 in all, .*: add images"),
        (2, {}, "at least two training images, .* got one: add images"),
        (3, {}, "expected between 1 and 1 of the 2 training images, got 0.1, which is 0: say .*--data.val_size 1"),
        (40, {"val_size": 900}, "got 900, which is 900: say how many, --data.val_size 3"),
    ],
)
def test_too_few_images_are_told_what_to_do(tmp_path: Path, count: int, settings: dict, said: str) -> None:
    (tmp_path / "few").mkdir()
    for i in range(count):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (6, 5), np.uint8)).save(tmp_path / "few" / f"{i}.png")
    with pytest.raises(ValueError, match=said):
        ImageData(ImageFolder(str(tmp_path / "few"), cache=False), **settings).setup()
    if count == 3:
        ImageData(ImageFolder(str(tmp_path / "few"), cache=False), val_size=1, batch_size=1).setup()


def test_a_test_without_classes_keeps_those_of_training(tmp_path: Path) -> None:
    paint(tmp_path, *several("train/cat"), *several("train/dog"), *several("test"))
    layout = read_layout(tmp_path)
    assert layout.classes == ("cat", "dog")
    assert "those of test without" in str(layout)
    splits = ImageFolder(str(tmp_path), cache=False).load(tmp_path, False)
    assert splits.train.label is not None
    assert splits.test.label is None


def test_defects_are_no_images_of_the_good_ones(tmp_path: Path) -> None:
    paint(tmp_path, *several("train/good", 8), *several("test/good"), *several("test/crack", 3))
    paint(tmp_path, *several("ground_truth/crack", 3))
    layout = read_layout(tmp_path)
    assert {role: len(names) for role, names in layout.files.items()} == {"train": 8, "test": 4}
    assert layout.classes == ()
    assert "test without the 3 that are not good" in str(layout)
    assert "left out: ground_truth/" in str(layout)


@pytest.mark.parametrize("link", ["symbolic", "hard", "folder"])
def test_no_file_is_in_two_splits(tmp_path: Path, link: str) -> None:
    paint(tmp_path, *several("train"), *several("elsewhere"))
    (tmp_path / "elsewhere").rename(tmp_path / "test")
    if link == "folder":
        (tmp_path / "valid").symlink_to(tmp_path / "train")
    elif link == "hard":
        (tmp_path / "test" / "9.png").hardlink_to(tmp_path / "train" / "1.png")
    else:
        (tmp_path / "test" / "9.png").symlink_to("../train/1.png")
    with pytest.raises(ValueError, match=r"each file in one split, got (test/9|valid/0).png, which is the file train/"):
        read_layout(tmp_path)


def test_links_within_one_pool_are_one_image_and_loops_end(tmp_path: Path) -> None:
    paint(tmp_path, *several("a", 30))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "one.png").symlink_to("0.png")
    layout = read_layout(tmp_path, class_folders=False)
    assert len(layout.files["train"]) == 30
    assert "further names of the same files left out" in str(layout)
    splits = ImageFolder(str(tmp_path), class_folders=False).load(tmp_path, False)
    assert len(splits.train) + len(splits.test) == 30
    assert not set(splits.train.names) & set(splits.test.names)
