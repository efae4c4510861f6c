"""Images of a user's own, scored and encoded: all of them, by the name of each, and nothing written over."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import GENERATED, REPOSITORY
from tests.test_experiment import DIGITS, SHORT
from vae_lightning import load_model
from vae_lightning.commands.arguments import with_images
from vae_lightning.commands.main import main
from vae_lightning.core import Spec
from vae_lightning.data import Digits, ImageData, ImageFolder
from vae_lightning.images.given import read_given
from vae_lightning.images.input import read_images

GREY = (load_digits().images * 255 / 16).round().astype(np.uint8)
RUN = "--ckpt_path=runs/digits/1"


def folder(path: str, names: list[str], start: int = 0, size: tuple[int, int] | None = None) -> Path:
    """Digits as PNG files."""
    for i, name in enumerate(names):
        file = Path(path) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(GREY[start + i])
        (picture if size is None else picture.resize(size)).save(file)
    return Path(path)


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(place):
        assert main(["fit", "-c", str(DIGITS), *SHORT, "--trainer.max_epochs=2"]) == 0
    return place / "runs"


@pytest.fixture
def run(cli: Callable, trained: Path, tmp_path: Path) -> Callable:
    """The command line in a folder with a run of its own."""
    shutil.copytree(trained, tmp_path / "runs")
    return cli


def test_predict_takes_folders_files_arrays_and_splits(run: Callable) -> None:
    folder("odd", [f"{i}.png" for i in range(10)])
    done = run("predict", "odd", RUN)
    assert done.status == 0, done.err
    assert "10 in all" in done.out
    assert "an estimate by one posterior sample" in done.out
    rows = table("runs/digits/1/predictions.csv")
    assert [row["name"] for row in rows] == [f"{i}.png" for i in range(10)]
    np.save("same.npy", load_digits().images[:10].astype(np.uint8))  # the model's own levels
    assert run("predict", RUN, "same.npy", "--output", "same.csv").status == 0
    same = table("same.csv")
    assert "name" not in same[0]
    for ours, theirs in zip(rows, same, strict=True):
        assert float(ours["elbo"]) == pytest.approx(float(theirs["elbo"]), rel=1e-5)
    assert run("predict", "odd/3.png", "odd/1.png", RUN, "--output=two.csv").status == 0
    assert [row["name"] for row in table("two.csv")] == ["3.png", "1.png"]
    assert run("predict", "train", RUN, "--output=train.csv").status == 0
    trained = len(table("train.csv"))
    assert run("predict", RUN, "--output=test.csv").status == 0
    assert len(table("test.csv")) == 360 != trained


def test_images_of_another_size_are_said_and_unreadable_ones_are_named(run: Callable) -> None:
    folder("large", ["a.png", "b.png"], size=(20, 30))
    done = run("predict", "large", RUN)
    assert done.status == 0, done.err
    assert "2 of 2 images (a.png is 30x20) are scaled to cover the model's 8x8 pixels." in done.out
    Path("large/c.png").write_bytes(b"no image")
    refused = run("predict", "large", RUN)
    assert refused.status == 1
    assert "1 of 3 files cannot be read" in refused.error
    assert "c.png" in refused.error
    assert "nothing there" in run("predict", "nowhere", RUN).error
    assert "expected the images once" in run("predict", "large", "--images=[odd]", RUN).error


def test_codes_and_reconstructions_have_the_files_names(run: Callable) -> None:
    folder("odd", ["x/a.png", "y/b.png", "c.png"])
    assert run("encode", "odd", RUN, "--output=codes.npz").status == 0
    with np.load("codes.npz") as codes:
        assert codes["name"].tolist() == ["c.png", "x/a.png", "y/b.png"]
        assert len(codes["mean"]) == 3
    assert run("reconstruct", "odd", RUN, "--output=back.npz").status == 0
    with np.load("back.npz") as back:
        assert back["name"].tolist() == ["c.png", "x/a.png", "y/b.png"]
        expected = load_model("runs/digits/1").reconstruct(torch.from_numpy(back["image"])).mean
        np.testing.assert_allclose(back["reconstruction"], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_anomaly_says_which_other_images_are_the_models_own(run: Callable) -> None:
    np.save("same.npy", load_digits().images[:40].astype(np.uint8))
    done = run("anomaly", "same.npy", RUN, "--num_samples=2")
    said = re.search(r"Of 40 other images some have the pixels of the model's own, (.*): leave them out", done.out)
    assert sum(int(count) for count in re.findall(r"\d+", said.group(1))) == 40
    np.save("none.npy", 16 - load_digits().images[:40].astype(np.uint8))
    assert "leave them out" not in run("anomaly", "none.npy", RUN, "--num_samples=2").out


def test_anomaly_looks_at_all_images_of_a_folder(run: Callable) -> None:
    """Ten and one: areas with counts and an interval, a row an image, and no number that JSON does not know."""
    folder("odd", [f"{i}.png" for i in range(10)])
    for words in (["odd"], ["--ood=ImageFolder", "--ood.path=odd", "--ood.channels=1"]):
        done = run("anomaly", *words, RUN, "--num_samples=2")
        assert done.status == 0, done.err
        name = "images-odd" if words == ["odd"] else "ImageFolder-odd"
        found = json.loads(Path(f"runs/digits/1/anomaly-{name}.json").read_text())
        assert found["images"] == found["auroc_elbo"]["images"] == [360, 10]
        assert found["auroc_elbo"]["low"] < found["auroc_elbo"]["mean"] < found["auroc_elbo"]["high"]
        rows = table(f"runs/digits/1/anomaly-{name}.csv")
        assert [row["image"] for row in rows if row["other"] == "1"] == [f"{i}.png" for i in range(10)]
        assert len(rows) == 370
    folder("one", ["a.png"])
    assert run("anomaly", "one", RUN, "--num_samples=2").status == 0
    text = Path("runs/digits/1/anomaly-images-one.json").read_text()
    assert "NaN" not in text
    alone = json.loads(text)["auroc_elbo"]
    assert alone["error"] is None
    assert alone["low"] < alone["high"]
    assert "give either IMAGES or --ood" in run("anomaly", RUN).error
    assert "give either IMAGES or --ood" in run("anomaly", "odd", f"--ood={GENERATED}", RUN).error


def test_a_folders_settings_hold_for_what_is_given() -> None:
    """Size, crop and background are those that the model's own images were read with."""
    ink = np.zeros((10, 20, 4), np.uint8)
    ink[:, 15:, 3] = 255
    Path("ink").mkdir()
    Image.fromarray(ink, "RGBA").save("ink/a.png")
    source = ImageFolder("ink", (10, 20), crop=False, channels=1, background=255)
    data = ImageData(source)
    given = read_given(["ink"], Spec((1, 5, 10), 256), data).images.image
    assert given[0, 0, :, :7].min() == 255
    assert given[0, 0, :, 8:].max() == 0
    assert source.size == (10, 20)  # as it was
    covered = read_given(["ink"], Spec((1, 5, 10), 256), ImageData(Digits())).images.image
    assert covered.shape == (1, 1, 5, 10)
    binary = read_given(["ink"], Spec((1, 5, 10), 2), data).images.image
    assert set(binary.unique().tolist()) == {0, 1}


def test_words_without_a_flag_are_the_images() -> None:
    assert with_images(["a", "--x", "1", "b c", "--y=2"]) == ["--x", "1", "--y=2", '--images=["a", "b c"]']
    assert with_images(["--x", "1"]) == ["--x", "1"]
    assert with_images(["--print_config", "a"]) == ["--print_config", '--images=["a"]']


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["sample", "--num_samples=4"], "out.png"),
        (["reconstruct"], "out.png"),
        (["encode"], "out.npz"),
        (["predict"], "out.csv"),
        (["surprise", "test", "--num_samples=2"], "out.png"),
    ],
)
def test_a_named_output_is_not_written_over_unasked(run: Callable, command: list[str], file: str) -> None:
    Path(file).write_text("mine")
    refused = run(*command, RUN, "--output", file)
    assert refused.status == 1
    assert f"{file} exists and is not overwritten: choose another with --output, or add --overwrite." in refused.error
    assert Path(file).read_text() == "mine"
    again = ["--overwrite"]
    assert run(*command, RUN, "--output", file, *again).status == 0
    assert Path(file).read_bytes() != b"mine"


def test_a_terminated_command_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    """SIGTERM while a file is written: status 143, and nothing beside what was there. `encode`, Lightning's own."""
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from vae_lightning.files import whole\n"
        "def run(command, options):\n"
        "    with whole(Path('codes.npz')) as stream:\n"
        "        stream.write(b'part'), Path('begun').touch(), time.sleep(600)\n"
    )
    program = (
        "import sys; from vae_lightning.commands import main as commands\n"
        "commands.COMMANDS['encode'] = commands.COMMANDS['encode']._replace(runs='slow:run')\n"
        "sys.exit(commands.main(['encode']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)})
    limit = time.monotonic() + 240
    while not (tmp_path / "begun").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert list(tmp_path.glob(".*.part"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob(".*.part"))
    assert not (tmp_path / "codes.npz").exists()


@pytest.mark.parametrize(
    "meaning",
    [{"window": (500, 3000)}, {"percentiles": (1, 99)}, {"levels": 4096}, {"window": (0, 4095), "levels": 16}],
)
def test_deep_files_are_read_as_training_read_them(tmp_path: Path, meaning: dict) -> None:
    place = tmp_path / "deep"
    place.mkdir()
    for i in range(30):
        Image.fromarray((load_digits().images[i] * 255).astype(np.uint16)).save(place / f"{i:02}.png")
    data = ImageData(ImageFolder(str(place), channels=1, cache=False, **meaning), val_size=5, batch_size=8)
    data.setup()
    given = read_given([str(place)], data.spec, data).images
    found = {str(name): image for name, image in zip(given.names, given.image, strict=True)}
    assert len(found) == 30
    for split in data.splits.values():
        for name, image in zip(split.names, split.image, strict=True):
            assert torch.equal(found[str(name)].long(), image.long()), name


def test_what_a_models_window_clips_of_files_and_arrays_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place := tmp_path / "deep").mkdir()
    values = np.stack([load_digits().images[i] * 200 for i in range(30)]).astype(np.uint16)
    for i, image in enumerate(values):
        Image.fromarray(image).save(place / f"{i:02}.png")
    data = ImageData(ImageFolder(str(place), channels=1, cache=False, window=(0, 3200)), val_size=5, batch_size=8)
    bright = values.copy()
    bright[7, 3] = 60000
    (new := tmp_path / "new").mkdir()
    Image.fromarray(bright[7]).save(new / "07.png")
    Image.fromarray(bright[8]).save(new / "08.png")
    given = read_given([str(new)], data.spec, data)
    assert "1 of 2 images have values beyond the model's window, which become its ends." in given.notes
    np.save(tmp_path / "x.npy", bright)
    capsys.readouterr()
    found = read_given([str(tmp_path / "x.npy")], data.spec, data).images.image  # by the window, as training read files
    assert "1 of 30 images have values beyond the window [0,3200]" in capsys.readouterr().out
    assert torch.equal(found[8:9], given.images.image[1:])
    assert torch.equal(found[7:8], given.images.image[:1])


def test_files_deeper_than_a_models_are_not_told_the_flags_of_fit(tmp_path: Path) -> None:
    (plain := tmp_path / "plain").mkdir()
    (deep := tmp_path / "deep").mkdir()
    for i in range(20):
        image = load_digits().images[i] * 15
        Image.fromarray(image.astype(np.uint8)).save(plain / f"{i:02}.png")
        Image.fromarray(image.astype(np.uint16) * 200).save(deep / f"{i:02}.png")
    data = ImageData(ImageFolder(str(plain), channels=1, cache=False), val_size=5, batch_size=8)
    with pytest.raises(
        ValueError, match=r"deep/\d\d.png: expected 8 bits a value, as the model was trained on"
    ) as raised:
        read_given([str(deep)], data.spec, data)
    assert "--data" not in str(raised.value)


def test_a_grey_array_for_a_model_of_colours_is_told_how_to_get_them(tmp_path: Path) -> None:
    grey = np.zeros((4, 6, 5), np.uint8)
    np.save(tmp_path / "x.npy", grey)
    spec = Spec((3, 6, 5), 256)
    with pytest.raises(ValueError, match=r"give grey its three channels, x.reshape\(-1, 6, 5, 1\).repeat\(3, -1\)"):
        read_images([str(tmp_path / "x.npy")], spec, tmp_path)
    np.save(tmp_path / "x.npy", grey.reshape(-1, 6, 5, 1).repeat(3, -1))
    assert read_images([str(tmp_path / "x.npy")], spec, tmp_path).image.shape == (4, 3, 6, 5)
