"""Images to a file and back through the command line, bit for bit; and images by their code length."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.codec_models import DIGITS, files, leftovers, loaded, saved, some
from tests.conftest import Generated, generated_flags
from tests.test_bad_input import refused
from vae_lightning import load_model
from vae_lightning.compression import container
from vae_lightning.data import ImageData, ImageFolder
from vae_lightning.images.input import split_files

pytestmark = pytest.mark.usefixtures("quick")


def test_a_folder_of_classes_comes_back(cli: Callable, grey: Path) -> None:
    pixels = some(9)
    names = [
        "b/2.png",
        "b/10.png",
        "a/x.PNG",
        "a/deep/er/é 1.png",
        "a/y.png",
        "b/1.bmp",
        "c/z.tiff",
        "c/0.png",
        "c/q.png",
    ]
    for image, name in zip(pixels, names, strict=True):
        saved(image, f"in/{name}")
    done = cli("compress", "in", "-o", "out.vlz", "--ckpt_path", grey)
    assert done.status == 0, done.err
    line = done.out.strip()
    assert re.search(
        r"^9 images: \d+\.\d{4} bits/dim net, .* initial bits\), \d+ bytes, .* images/s, round trip ver", line
    )
    header = container.read(Path("out.vlz")).header
    assert header.form.names == tuple(sorted(names, key=lambda name: name.split("/")))  # in the order of the folder
    assert header.form.classes == ("a", "b", "c")
    assert header.form.labels == tuple("abc".index(name[0]) for name in header.form.names)
    back = cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", grey)
    assert back.status == 0, back.err
    assert files("back") == sorted(name if name.lower().endswith(".png") else f"{name}.png" for name in names)
    for image, name in zip(pixels, names, strict=True):
        (found,) = (
            path for path in Path("back").rglob("*.[pP]*") if path.as_posix() in (f"back/{name}", f"back/{name}.png")
        )
        np.testing.assert_array_equal(loaded(found), image)
    told = cli("inspect", "out.vlz")
    assert told.status == 0
    for words in (
        "9 of 1x4x4 values, 256 levels, from files",
        "a/deep/er",
        "a, b, c",
        "bits/dim net",
        header.model,
    ):
        assert words in told.out
    assert not leftovers()


def test_files_by_name_and_several_folders(cli: Callable, colour: Path) -> None:
    pixels = some(4, 3)
    given = [
        saved(image, name) for image, name in zip(pixels, ("one.png", "p/a.png", "q/a.png", "q/b.png"), strict=True)
    ]
    assert cli("compress", given[0], "p", "q", "-o", "out.vlz", "--ckpt_path", colour).status == 0
    assert cli("decompress", "out.vlz", "-o", "to/back", "--ckpt_path", colour).status == 0
    assert files("to/back") == ["one.png", "p/a.png", "q/a.png", "q/b.png"]
    for image, path in zip(pixels, given, strict=True):
        np.testing.assert_array_equal(loaded(Path("to/back") / path), image)
    clash = cli("compress", given[1], given[2], "-o", "two.vlz", "--ckpt_path", colour)
    refused(clash, "expected different files, of which 'a.png' would be one", "one folder")
    assert not Path("two.vlz").exists()


def test_the_files_themselves_are_compared(cli: Callable, grey: Path, tmp_path: Path) -> None:
    for i, image in enumerate(some(60)):
        saved(image, f"many/train/{i:02}.png")
    saved(some(1)[0], "one.png")
    saved(some(1)[0], "one.bmp")
    np.save("array.npy", some(60).astype(np.int64))
    sources = {
        "many": ("60 .png files", sorted(Path("many/train").iterdir())),
        "array.npy": ("1 .npy file", [Path("array.npy")]),
        "one.png": ("1 .png file", [Path("one.png")]),
    }
    for name, (kinds, given) in sources.items():
        done = cli("compress", name, "-o", f"{name}.vlz", "--ckpt_path", grey)
        size, count = sum(file.stat().st_size for file in given), 1 if name == "one.png" else 60
        assert f"the {kinds} themselves: {size} bytes, {8 * size / count / 16:.4f} bits/dim" in done.out
        factor = Path(f"{name}.vlz").stat().st_size / size
        if name == "one.png":  # a header of hundreds of bytes for sixteen pixels
            assert f"compressed file is {factor:.2f} times larger" in done.out
            assert f"warning: the compressed file is {factor:.2f} times as large as the {kinds}" in done.err
            assert "keep the files themselves" in done.err
        else:
            assert f"compressed file is {1 / factor:.2f} times smaller" in done.out
            assert "warning" not in done.err
    mixed = cli("compress", "one.bmp", "many", "-o", "mixed.vlz", "--ckpt_path", grey)
    assert "the 61 .png, .bmp files themselves" in mixed.out


def test_a_splits_own_files_are_compared_where_they_are_its_images(cli: Callable, grey: Path) -> None:
    for i, image in enumerate(some(40)):
        saved(image, f"photos/train/{i:02}.png")
        saved(image, f"photos/test/{i:02}.png")
    for size, expected in ((None, sorted(Path("photos/test").iterdir())), ((2, 2), [])):
        data = ImageData(ImageFolder("photos", size, channels=1, cache=False), val_size=8, batch_size=16)
        data.setup()
        assert sorted(split_files(data, "test")) == expected
        assert len(split_files(data, "val")) == 8 * bool(expected)
    done = cli("compress", "test", "-o", "test.vlz", "--ckpt_path", grey)  # of a source without files
    assert "the split's decoded pixels" in done.out
    assert "themselves" not in done.out


def test_images_whose_channels_know_each_other(cli: Callable, linked: Path) -> None:
    pixels = some(40, 3)
    for i, image in enumerate(pixels):
        saved(image, f"in/{i:02}.png")
    done = cli("compress", "in", "-o", "out.vlz", "--ckpt_path", linked)
    assert done.status == 0, done.err
    assert cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", linked).status == 0
    for i, image in enumerate(pixels):
        np.testing.assert_array_equal(loaded(Path(f"back/{i:02}.png")), image)
    elbo = load_model(str(linked)).elbo(torch.from_numpy(pixels).repeat(50, 1, 1, 1)).double().mean()
    net = container.read(Path("out.vlz")).coded.net_bits / len(pixels)
    assert net == pytest.approx(-elbo.item() / math.log(2), rel=0.01)


def test_arrays_keep_their_axes_and_type(cli: Callable, grey: Path, colour: Path) -> None:
    one, three = some(5), some(5, 3)
    for model, array in (
        (grey, one),
        (grey, one[:, 0].astype(">u2")),
        (grey, one.transpose(0, 2, 3, 1)),
        (colour, three.astype(int)),
        (colour, three.transpose(0, 2, 3, 1)),
    ):
        np.save("in.npy", array)
        assert cli("compress", "in.npy", "-o", "out.vlz", "--ckpt_path", model, "--overwrite").status == 0
        back = cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", model, "--overwrite")
        assert back.status == 0, back.err
        found = np.load("back/images.npy")
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert files("back") == ["images.npy"]


def test_an_archive_brings_its_labels(cli: Callable, grey: Path) -> None:
    np.savez("in.npz", image=some(5), label=np.array([3, -1, 3, 2**40, 0]))
    assert cli("compress", "in.npz", "-o", "out.vlz", "--ckpt_path", grey, "--no-verify").out.count("not verified") == 1
    assert cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", grey).status == 0
    np.testing.assert_array_equal(np.load("back/images.npy"), some(5))
    np.testing.assert_array_equal(np.load("back/labels.npy"), [3, -1, 3, 2**40, 0])


def test_splits_of_the_models_own_data(cli: Callable, grey: Path, binary: Path) -> None:
    assert cli("compress", "test", "-o", "out.vlz", "--ckpt_path", grey).status == 0
    assert cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", grey).status == 0
    expected = Generated((1, 4, 4), 256).load(Path(), False).test
    np.testing.assert_array_equal(np.load("back/images.npy"), expected.image)
    np.testing.assert_array_equal(np.load("back/labels.npy"), expected.label)
    for split in ("train", "val"):  # binarised at random, and once and for all
        arrays = []
        for i in range(2):
            assert cli("compress", split, "-o", f"{split}{i}.vlz", "--ckpt_path", binary).status == 0
            assert cli("decompress", f"{split}{i}.vlz", "-o", f"{split}{i}", "--ckpt_path", binary).status == 0
            arrays.append(np.load(f"{split}{i}/images.npy"))
        np.testing.assert_array_equal(*arrays)
        assert set(np.unique(arrays[0])) == {0, 1}
        assert len(arrays[0]) == {"train": 80, "val": 16}[split]


def test_binary_images_in_either_spelling(cli: Callable, binary: Path) -> None:
    bits = some(6, top=1)
    for name, pixels in (("ones", bits), ("white", bits * 255), ("black", bits * 0)):
        for i, image in enumerate(pixels):
            saved(image, f"{name}/{i}.png")
        assert cli("compress", name, "-o", f"{name}.vlz", "--ckpt_path", binary).status == 0
        assert cli("decompress", f"{name}.vlz", "-o", f"{name}_back", "--ckpt_path", binary).status == 0
        for i, image in enumerate(pixels):
            np.testing.assert_array_equal(loaded(Path(f"{name}_back/{i}.png")), image)
    Image.fromarray(bits[0, 0] * 255).convert("1").save("bilevel.png")
    np.save("bool.npy", bits[:, 0] == 1)
    for name in ("bilevel.png", "bool.npy"):
        assert cli("compress", name, "-o", f"{name}.vlz", "--ckpt_path", binary).status == 0
        assert cli("decompress", f"{name}.vlz", "-o", "back", "--ckpt_path", binary, "--overwrite").status == 0
    np.testing.assert_array_equal(loaded(Path("back/bilevel.png")), bits[0] * 255)
    np.testing.assert_array_equal(np.load("back/images.npy"), bits[:, 0] == 1)
    mixed = bits.copy()
    mixed[3, 0, 0, :2] = 1, 255
    for name, pixels in (("grey.npy", some(3)), ("mixed.npy", mixed)):
        np.save(name, pixels)
        refused(
            cli("compress", name, "-o", "no.vlz", "--ckpt_path", binary), name, "expected binary images", "binarise"
        )
    assert not Path("no.vlz").exists()


def test_modes_that_hold_the_same_pixels_are_taken(cli: Callable, grey: Path, colour: Path) -> None:
    pixels = some(1)[0, 0]
    Path("same").mkdir()
    picture = Image.fromarray(pixels)
    picture.convert("RGB").save("same/rgb.png")
    picture.convert("LA").save("same/opaque.png")
    picture.convert("P").save("same/palette.png")
    assert cli("compress", "same", "-o", "same.vlz", "--ckpt_path", grey).status == 0
    assert cli("decompress", "same.vlz", "-o", "back", "--ckpt_path", grey).status == 0
    for name in ("rgb", "opaque", "palette"):
        np.testing.assert_array_equal(loaded(Path(f"back/{name}.png"))[0], pixels)
    Image.fromarray(some(1, 3)[0].transpose(1, 2, 0)).convert("RGBA").save("opaque.png")
    assert cli("compress", "opaque.png", "-o", "opaque.vlz", "--ckpt_path", colour).status == 0
    assert cli("decompress", "opaque.vlz", "-o", "back2", "--ckpt_path", colour).status == 0
    np.testing.assert_array_equal(loaded(Path("back2/opaque.png")), some(1, 3)[0])


def test_surprise_sorts_images_by_their_code_length(cli: Callable, grey: Path) -> None:
    usual = Generated((1, 4, 4), 256).load(Path(), False).test.image[:20]
    odd = torch.randint(256, (1, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, image in enumerate(torch.cat([usual, odd])):
        saved(image.numpy(), f"in/{i:02}.png")
    done = cli("surprise", "in", "--ckpt_path", grey, "-o", "picture.png", "--num_samples", "2000")
    assert done.status == 0, done.err
    head, *rows, mean, picture = done.out.strip().splitlines()
    assert "in bits, bits/dim" in head
    found = [row.split() for row in rows]
    lengths = [float(row[0]) for row in found]
    assert found[0][3] == "20.png"
    assert lengths == sorted(lengths, reverse=True)
    assert float(mean.split()[0]) == pytest.approx(sum(lengths) / 21, abs=0.02)
    for length, per_dim, bound, name in found:
        assert float(length) / 16 == pytest.approx(float(per_dim), abs=1e-3)
        assert float(bound) > float(length) - 30
        assert Path(f"in/{name}").is_file()
    assert "most surprising" in picture
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
    trained = load_model(str(grey))
    again = -trained.log_prob(torch.cat([usual, odd]), 2000) / math.log(2)
    by_name = {row[3]: float(row[0]) for row in found}
    np.testing.assert_allclose([by_name[f"{i:02}.png"] for i in range(21)], again, rtol=0.02)
    refused(cli("surprise", "in", "--ckpt_path", grey, "--num_samples", "0"), "--num_samples: expected at least 1")


def test_a_density_is_no_code_length(cli: Callable) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
    density = ["--model.latent_model.likelihood=GaussianLearnedScaleLikelihood"]
    assert cli("fit", "-c", DIGITS, *generated_flags((1, 4, 4), 256), *short, *density).status == 0
    refused(cli("compress", "test", "-o", "out.vlz", "--ckpt_path", "last"), "has no codec", "continuous values")
    weighed = cli("surprise", "test", "--ckpt_path", "last")
    assert "in nats (a density's, no code length)" in weighed.out
    assert "bits" not in weighed.out
    assert Path("runs/digits/1/surprising.png").is_file()
