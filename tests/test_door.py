"""Whatever a source yields is looked at once at the door: one sentence for what is wrong, copies are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY, Generated
from vae_lightning.data import ImageData, Images, Splits
from vae_lightning.data.door import admitted

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"


class Changed(Generated):
    """The generated images as a careless source would return them."""

    def __init__(self, change: Callable[[Images], Any], levels: int = 256, shape: tuple = (1, 28, 28)) -> None:
        super().__init__(levels=levels)
        self.change, self.declared = change, shape

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.declared

    def load(self, root: Path, download: bool) -> Splits:
        train, test = (self.change(self.make(count, seed)) for count, seed in ((96, 0), (32, 1)))
        return Splits(train, test)


def of(pixels: Callable[[torch.Tensor], Any], label: bool = True) -> Callable[[Images], Images]:
    return lambda images: Images(pixels(images.stored), images.label if label else None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of(lambda x: x.float() / 255), r"uint8 \(N, 1, 28, 28\) holding 0..255, got float32 from 0 to 1: .*by 255"),
        (of(lambda x: x.double()), "got float64 from 0 to 255"),
        (of(lambda x: x.long()), "got int64 from 0 to 255"),
        (of(lambda x: x > 99), "got bool"),
        (of(lambda x: x.numpy()), r"got a NumPy array of uint8: torch.from_numpy"),
        (of(lambda x: x.numpy().tolist()), "got list"),
        (of(lambda x: x[:, 0]), r"got the shape \(96, 28, 28\)"),
        (of(lambda x: x.permute(0, 2, 3, 1)), r"got the shape \(96, 28, 28, 1\): .*channels first"),
        (of(lambda x: x[:0], label=False), "expected some, got none"),
        (lambda images: images.stored, "expected Images, got torch.Tensor"),
        (lambda images: Images(images.stored, images.label.numpy()), "their labels: .*got numpy.ndarray"),
        (lambda images: Images(images.stored, images.label.float()), "their labels: .*got float32"),
        (lambda images: Images(images.stored, images.label[:5]), r"int64 \(96,\) .*the shape \(5,\)"),
        (lambda images: Images(images.stored, images.label + 1), "holding 0..9, got values from 1 to 10"),
        (lambda images: Images(images.stored, images.label - 1), "got values from -1 to 8"),
        (lambda images: Images(images.stored, None, torch.arange(1, 97)), "their rows: .*got values from 1 to 96"),
        (lambda images: Images(images.stored, names=np.array(["a"])), "as many names as images, 96, got 1"),
    ],
)
def test_what_is_not_as_declared_is_refused(change: Callable[[Images], Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"Changed: training images.*{said}"):
        ImageData(Changed(change), batch_size=16, val_size=16).setup()


def test_values_beyond_the_levels_and_wrong_declarations() -> None:
    same = of(lambda x: x)
    with pytest.raises(ValueError, match=r"integers 0..16 of 17 levels, got values from 0 to 2[0-9][0-9]"):
        ImageData(Changed(of(lambda x: x * 15), levels=17), batch_size=16).setup()
    for levels in (1, 2**16 + 1, 17.0):
        with pytest.raises(ValueError, match=r"Changed\.levels: expected a whole number from 2 to 65536"):
            admitted(Changed(same, levels=levels), None)
    for shape in ((28, 28), (0, 28, 28), (1.0, 28, 28)):
        with pytest.raises(ValueError, match=r"Changed.image_shape: expected \(channels, height, width\)"):
            admitted(Changed(same, shape=shape), None)
    with pytest.raises(ValueError, match=r"Changed.load: expected Splits of Images, got tuple"):
        admitted(Changed(same), (1, 2))


def test_labels_without_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generated, "classes", None)
    with pytest.raises(ValueError, match="got labels, but the source names no classes"):
        ImageData(Generated(), batch_size=16).setup()


def test_deep_images_are_served_as_they_are() -> None:
    deep = of(lambda x: x.to(torch.int32).mul(257).to(torch.uint16))
    data = ImageData(Changed(deep, levels=2**16), batch_size=16, val_size=16)
    data.setup()
    x = data.splits["test"].image
    assert x.dtype == torch.int32
    assert torch.equal(x, Generated(levels=2**16).make(32, 1).image.to(torch.int32) * 257)
    with pytest.raises(ValueError, match="of 4096 levels, got values from 0 to 65"):
        ImageData(Changed(deep, levels=4096), batch_size=16).setup()
    with pytest.raises(ValueError, match=r"expected a tensor of uint16 \(N, 1, 28, 28\) holding 0..65535, got uint8"):
        ImageData(Changed(of(lambda x: x), levels=2**16), batch_size=16).setup()


def test_identical_training_images_are_refused() -> None:
    with pytest.raises(ValueError, match="got 86 that are the same, every value 7"):
        ImageData(Changed(of(lambda x: torch.full_like(x, 7))), batch_size=16).setup()


def test_copies_between_splits_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    def copied(images: Images) -> Images:
        first = Generated().make(96, 0).stored[:3] if len(images) == 32 else images.stored[:3]
        return Images(torch.cat([images.stored[3:], first]), images.label)

    data = ImageData(Changed(copied), batch_size=16, val_size=1)
    data.setup()
    assert data.copies["test", "train"] + data.copies["test", "val"] == 3
    assert "of 32 test images have the very pixels of a training image" in capsys.readouterr().out
    clean = ImageData(Generated(), batch_size=16)
    clean.setup()
    assert set(clean.copies.values()) == {0}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("of_a_level", "said"), [(9, "take only the levels 0 to 28 of 0..255"), (7, "")])
def test_images_in_a_corner_of_their_levels_are_said(
    of_a_level: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by a window that is far too wide."""
    ImageData(Changed(of(lambda x: x // of_a_level)), batch_size=16).setup()
    printed = capsys.readouterr().out
    assert said in printed if said else not printed


FLOATS = "tests.test_door.Floats"


class Floats(Generated):
    def load(self, root: Path, download: bool) -> Splits:
        parts = (self.make(count, seed) for count, seed in ((96, 0), (32, 1)))
        return Splits(*(Images(it.stored.float() / 255, it.label) for it in parts))


def test_fit_refuses_floats_in_one_sentence_and_leaves_nothing(cli: Callable) -> None:
    result = cli("fit", "-c", DIGITS, f"--data.source={FLOATS}", "--trainer.max_epochs=1", "--trainer.callbacks=null")
    assert result.status == 1
    assert "got float32 from 0 to 1: where they lie in [0, 1], multiply by 255" in result.error
    assert "Traceback" not in result.err
    assert not list(Path().glob("runs/*/*"))
