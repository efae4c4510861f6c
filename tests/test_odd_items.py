"""Data sets whose items are not what they seem, or not all alike: nothing is changed or dropped without a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vae_lightning.data import ImageData, MapDataset

COLOURS = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
COLOURS[:, 0, 0], COLOURS[:, 0, 1] = 0, 255


class Given:
    """Items by a function of their number."""

    def __init__(self, item: Callable[[int], Any], count: int = 60, **more: Any) -> None:
        self.item, self.count = item, count
        vars(self).update(more)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def loaded(item: Callable[[int], Any], **settings: Any) -> ImageData:
    more = {"classes": settings.pop("classes")} if "classes" in settings else {}
    data = ImageData(MapDataset(Given(item, **more), **settings), batch_size=4, val_size=4)  # type: ignore[arg-type]
    data.setup()
    return data


def test_one_grey_picture_does_not_make_all_grey(capsys: pytest.CaptureFixture[str]) -> None:
    def item(index: int) -> Image.Image:
        return Image.fromarray(COLOURS[index][..., 0] if index == 0 else COLOURS[index])

    assert loaded(item).image_shape == (3, 6, 5)
    assert "in colour" not in capsys.readouterr().out
    assert loaded(item, channels=1).image_shape == (1, 6, 5)
    said = "59 of 60 pictures are stored in colour, such as item 1: read in grey (--data.source.channels 3 keeps"
    assert said in capsys.readouterr().out
    assert loaded(lambda i: Image.fromarray(COLOURS[i][..., 0])).image_shape == (1, 6, 5)


def test_labels_are_classes_or_refused() -> None:
    assert loaded(lambda i: (COLOURS[i], float(i % 3))).spec.classes == ("0", "1", "2")
    for label, got in (
        (lambda i: torch.eye(3)[i % 3], r"a tensor of the shape \(3,\).*argmax"),
        (lambda i: 0.5 * i, r"float 0.5"),
        (lambda i: None if i == 37 else i % 3, "train image 37: expected a label, as 59 of 60 have one, got none"),
        (lambda i: {"box": 3}, "got dict"),
    ):
        with pytest.raises(ValueError, match=rf"{got}.*--data.source.use_labels false"):
            loaded(lambda i, label=label: (COLOURS[i], label(i)))
        assert loaded(lambda i, label=label: (COLOURS[i], label(i)), use_labels=False).spec.classes is None
    with pytest.raises(
        ValueError, match=r"labels 0..1, the numbers of the data set's classes \(a, b\), got 2: .*use_la"
    ):
        loaded(lambda i: (COLOURS[i], i % 3), classes=["a", "b"])


def test_a_test_without_labels_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = Given(lambda i: (COLOURS[i], i % 3), 40), Given(lambda i: COLOURS[i + 40], 20)
    ImageData(MapDataset(train, test), batch_size=4, val_size=4).setup()  # type: ignore[arg-type]
    assert "3 classes (those of test without)" in capsys.readouterr().out


def test_a_proposed_window_holds_the_other_items_too(capsys: pytest.CaptureFixture[str]) -> None:
    def late(index: int) -> np.ndarray:
        return COLOURS[index].astype(int) + 300 * (index == 37)

    said = (
        r"train image 37: expected 0..255, got values from 300 to 555 \(from 0 to 555 in all 60 images\): .*\[0,555\]"
    )
    with pytest.raises(ValueError, match=said):
        loaded(late)
    loaded(late, window=(0.0, 255.0))
    said = "1 of 60 train images have values beyond the window [0,255]: 1."
    assert said in capsys.readouterr().out
    loaded(late, window=(0.0, 555.0))
    assert "have values beyond" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"image 0: .*real numbers from 0 to 0.5 \(from 0 to 1 in all 60 .*\[0,1\]"):
        loaded(lambda i: COLOURS[i] / (255 if i else 510))


def test_pictures_that_are_deep_are_named_once() -> None:
    def item(index: int) -> Image.Image:
        return Image.fromarray(COLOURS[index][..., 0].astype(np.uint16) * 200)

    said = r"^MapDataset-Given, train image 0: expected 8 bits a value, got more than 8 bits.*window \[0,51000\]"
    with pytest.raises(ValueError, match=said):
        loaded(item)
    assert loaded(item, window=(0.0, 51000.0)).image_shape == (1, 6, 5)
    with pytest.raises(ValueError, match="pictures of one depth, got item 0, which is deeper than 8 bits, and item 37"):
        loaded(lambda i: Image.fromarray(COLOURS[i][..., 0]) if i == 37 else item(i), window=(0.0, 51000.0))


def test_axes_are_not_guessed_wrong() -> None:
    last, first = COLOURS, COLOURS.transpose(0, 3, 1, 2)
    with pytest.raises(ValueError, match=r"first in a tensor, got .*\(6, 5, 3\): say .* last, --data.source.axes HWC"):
        loaded(lambda i: torch.from_numpy(last[i]))
    with pytest.raises(ValueError, match=r"last in an array, got .*\(3, 6, 5\): say .* first, --data.source.axes CHW"):
        loaded(lambda i: first[i])
    for item, axes in ((lambda i: torch.from_numpy(last[i]), "HWC"), (lambda i: first[i], "CHW")):
        data = loaded(item, axes=axes)
        assert {row.tobytes() for it in data.splits.values() for row in it.image.numpy()} == {
            np.ascontiguousarray(row).tobytes() for row in first
        }
    assert loaded(lambda i: first[i], axes="HWC").image_shape == (5, 3, 6)  # any number of channels that is said


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (None, r"got NoneType: give one, or leave the item out"),
        ((3, COLOURS[0]), r"got int 3: give the image first, then its label"),
        ({"picture": COLOURS[0]}, r"got picture: say which is the image, --data.source.image picture"),
        ((), "got tuple: give one"),
        ([[1, 2], [3]], "got list: give one"),
        (torch.zeros(3, 6, 5, dtype=torch.bfloat16), "that is no array"),
    ],
)
def test_items_without_an_image_are_named_with_what_to_do(odd: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"MapDataset-Given, train image 37: .*{said}"):
        loaded(lambda i: odd if i == 37 else COLOURS[i])


def test_columns_of_mappings_can_be_named() -> None:
    data = loaded(lambda i: {"picture": COLOURS[i], "kind": "ab"[i % 2]}, image="picture", label="kind")
    assert data.spec.classes == ("a", "b")
    with pytest.raises(ValueError, match="expected a column of the data set, picture, got photo"):
        loaded(lambda i: {"picture": COLOURS[i]}, image="photo")


def test_an_item_that_fails_is_named() -> None:
    def item(index: int) -> np.ndarray:
        if index == 37:
            raise RuntimeError("disk\non fire")
        return COLOURS[index]

    said = r"^MapDataset-Given: expected an item, got an error from train item 37 \(RuntimeError: disk on fire\): mend"
    with pytest.raises(ValueError, match=said):
        loaded(item)
