"""Map-style torch data sets, Hugging Face's, and torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from tests.conftest import REPOSITORY, Generated
from vae_lightning.data import HuggingFace, ImageData, MapDataset

DIGITS = REPOSITORY / "configs" / "experiment" / "digits.yaml"
COLOURS = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


class Mine(Dataset[Any]):
    """A user's own, in one of the usual forms."""

    def __init__(self, form: str = "tensor", count: int = 40, start: int = 0) -> None:
        self.form, self.count, self.start = form, count, start

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if index >= self.count:
            raise IndexError
        image, label = COLOURS[(self.start + index) % 40], (self.start + index) % 3
        first = torch.from_numpy(image).permute(2, 0, 1)
        return {
            "tensor": (first, label),
            "numpy": (image, np.int64(label)),
            "picture": (Image.fromarray(image), torch.tensor(label)),
            "words": (first, ["cat", "dog", "eel"][label]),
            "mapping": {"img": image, "label": label},
            "alone": first,
            "one": (first,),
            "floats": (first / 255, label),
            "sizes": (first[:, : 6 - (index == 7)], label),
            "strange": {"pixels": image},
        }[self.form]


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def loaded(source: Any, **settings: Any) -> ImageData:
    data = ImageData(source, **{"batch_size": 4, "val_size": 4, **settings})
    data.setup()
    return data


@pytest.mark.parametrize("form", ["tensor", "numpy", "picture", "words", "mapping", "alone", "one"])
def test_items_of_any_usual_form(form: str) -> None:
    data = loaded(MapDataset(Mine(form)))
    assert data.image_shape == (3, 6, 5)
    names = {"words": ("cat", "dog", "eel"), "alone": None, "one": None}.get(form, ("0", "1", "2"))
    assert data.spec.classes == names
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 32, "val": 4, "test": 4}
    known = {row.transpose(2, 0, 1).tobytes(): i % 3 for i, row in enumerate(COLOURS)}
    for part in data.splits.values():
        for i, row in enumerate(part.image.numpy()):
            assert known[row.tobytes()] == (part.label[i] if names else known[row.tobytes()])


def test_splits_levels_and_what_does_not_fit() -> None:
    data = loaded(MapDataset(Mine(count=20), Mine(count=10, start=20), Mine(count=10, start=30)))
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 20, "val": 10, "test": 10}
    with pytest.raises(
        ValueError, match=r"MapDataset-Mine, train image 0: expected integers, got real numbers.*levels 256"
    ):
        loaded(MapDataset(Mine("floats")))
    assert (
        loaded(MapDataset(Mine("floats"), levels=256)).record()["sha256"]
        == loaded(MapDataset(Mine())).record()["sha256"]
    )
    with pytest.raises(
        ValueError, match=r"train image 7: expected the shape of the first one, \(3, 6, 5\), got \(3, 5, 5\)"
    ):
        loaded(MapDataset(Mine("sizes")))
    with pytest.raises(ValueError, match=r"expected items with image or img or .*, got pixels"):
        loaded(MapDataset(Mine("strange")))
    with pytest.raises(ValueError, match="expected training images, got none"):
        loaded(MapDataset(Mine(count=0)))
    with pytest.raises(ValueError, match="a data set with a length and items, got Stream"):
        MapDataset(Mine(), test=Stream())


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog", "eel"]),
            "id": datasets.Value("int32"),
        }
    )
    columns = {
        "picture": [Image.fromarray(it) for it in COLOURS],
        "kind": [i % 3 for i in range(40)],
        "id": list(range(40)),
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    parts = {
        "train": whole.select(range(30)),
        "validation": whole.select(range(30, 36)),
        "test": whole.select(range(36, 40)),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    data = loaded(HuggingFace("saved"), root=str(tmp_path))
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 30, "val": 6, "test": 4}
    assert data.spec.classes == ("cat", "dog", "eel")
    assert np.array_equal(data.splits["test"].image.permute(0, 2, 3, 1).numpy(), COLOURS[36:])
    assert data.splits["test"].label.tolist() == [i % 3 for i in range(36, 40)]
    whole.save_to_disk(str(tmp_path / "one"))
    assert loaded(HuggingFace(str(tmp_path / "one"), size=(4, 4), channels=1)).image_shape == (1, 4, 4)
    with pytest.raises(ValueError, match=r"expected a column of the data set, .*, got photo"):
        loaded(HuggingFace(str(tmp_path / "one"), image="photo"))
    with pytest.raises(
        ValueError, match=r"nowhere: expected a data set's folder \(save_to_disk\) or its name.*no folder"
    ):
        loaded(HuggingFace(str(tmp_path / "nowhere")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the hub answers to a name, and what it has been asked."""
    datasets = pytest.importorskip("datasets")
    hub = SimpleNamespace(asked=[], answer=None)

    def load_dataset(*asked: Any) -> Any:
        hub.asked.append(asked)
        if isinstance(hub.answer, Exception):
            raise hub.answer
        return hub.answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return hub


def test_a_name_is_asked_of_the_hub(hub: SimpleNamespace, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [Image.fromarray(it) for it in COLOURS], "label": [0, 1] * 20}
    whole = datasets.Dataset.from_dict(columns, features=features)
    hub.answer = datasets.DatasetDict({"train": whole.select(range(30)), "test": whole.select(range(30, 40))})
    data = loaded(HuggingFace("owner/colours"), root=str(tmp_path))
    assert np.array_equal(data.splits["test"].image.permute(0, 2, 3, 1).numpy(), COLOURS[30:])
    assert data.spec.classes == ("a", "b")
    loaded(HuggingFace("colours", "large"), root=str(tmp_path))
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    loaded(HuggingFace("pictures"), root=str(tmp_path / "data"))  # a folder that the library reads itself
    asked = [("owner/colours", None), ("colours", "large"), (str(tmp_path / "data" / "pictures"), None)]
    assert list(dict.fromkeys(hub.asked)) == asked


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            ConnectionError("Couldn't reach 'owner/colours' on the Hub (LocalEntryNotFoundError)"),
            "no such folder, and no answer from the hub: connect to the network, or save",
        ),
        ("missing", r"no such folder, and no such name at the hub: correct --data.source.path, or log in"),
        (
            ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['small', 'large']\nE.g."
            ),
            r"give --data.source.name, one of 'small', 'large'\.$",
        ),
        (
            ValueError("BuilderConfig 'huge' not found. Available: ['small', 'large']"),
            r"give --data.source.name, one of 'small', 'large'\.$",
        ),
        (RuntimeError("Dataset scripts\nare no longer supported"), "RuntimeError: Dataset scripts are no longer"),
    ],
    ids=["network", "name", "configuration", "wrong", "other"],
)
def test_what_the_hub_does_not_give_is_said_in_one_sentence(hub: SimpleNamespace, answer: Any, words: str) -> None:
    import datasets

    missing = datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub or cannot be accessed.")
    hub.answer = missing if answer == "missing" else answer
    expected = r"^owner/colours: expected a data set's folder \(save_to_disk\) or its name at the hub, got .*"
    with pytest.raises(ValueError, match=expected + words) as raised:
        loaded(HuggingFace("owner/colours"))
    assert "\n" not in str(raised.value)


def test_what_is_no_name_is_not_asked_of_the_hub(hub: SimpleNamespace, tmp_path: Path) -> None:
    for path in (str(tmp_path / "nowhere"), "a/b/c", "~/nowhere"):
        with pytest.raises(ValueError, match="no folder there"):
            loaded(HuggingFace(path))
    assert not hub.asked


def test_transforms_change_each_training_image_by_itself_and_no_other() -> None:
    rotate = v2.RandomRotation([-30, 30])
    data = loaded(Generated(), augment=[v2.RandomHorizontalFlip(), rotate], batch_size=16, val_size=16)
    image = data.splits["train"].image[:1].expand(12, -1, -1, -1)
    assert data.is_augmented
    assert torch.equal(data.on_after_batch_transfer({"image": image}, 0)["image"], image.float())
    data.trainer = SimpleNamespace(training=True)  # type: ignore[assignment]
    changed = data.on_after_batch_transfer({"image": image}, 0)["image"]
    assert changed.dtype == torch.float32
    assert len({row.numpy().tobytes() for row in changed}) > 6
    assert torch.equal(changed, changed.round())
    assert 0 <= changed.min() <= changed.max() <= 255
    data.trainer = SimpleNamespace(training=False)  # type: ignore[assignment]
    assert torch.equal(data.on_after_batch_transfer({"image": image}, 0)["image"], image.float())


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (v2.RandomCrop(20), r"got \(1, 20, 20\) of torch.uint8: .*crop to \[28,28\]"),
        (v2.ToDtype(torch.float32, scale=True), r"got \(1, 28, 28\) of torch.float32"),
        (torch.nn.Linear(3, 3), "got Linear, which fail"),
    ],
)
def test_transforms_that_do_not_fit_are_refused_before_training(transform: torch.nn.Module, said: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"data.augment: .*{said}"):
        loaded(Generated(), augment=[transform], batch_size=16, val_size=16)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_users_data_set_with_transforms_from_the_command_line(cli: Callable) -> None:
    flags = ["--trainer.max_epochs=1", "--trainer.callbacks=null", "--data.batch_size=8", "--data.val_size=8"]
    flags += ["--model.latent_model.encoder.net.hidden=[8]", "--model.latent_model.likelihood.net.hidden=[8]"]
    mine = ["--data.source=MapDataset", "--data.source.train=tests.test_items.Mine", "--data.source.train.form=mapping"]
    augment = REPOSITORY / "configs" / "augment" / "photos.yaml"
    result = cli("fit", "-c", DIGITS, "-c", augment, *flags, *mine)
    assert result.status == 0, result.err
    assert "MapDataset-Mine: 36 images for train, 4 images for test; 3 classes" in result.out
    tested = cli(
        "test", "--ckpt_path=runs/digits/1", "--model.evaluation.studies=false", "--model.evaluation.samples=2"
    )
    assert tested.status == 0, tested.err
