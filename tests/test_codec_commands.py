"""Images to a file and back through the command line: bit for bit, or a sentence and nothing half-written."""

from __future__ import annotations

import errno
import functools
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.codec_models import DIGITS, train
from tests.conftest import REPOSITORY, Generated, generated_flags
from tests.test_bad_input import refused
from tests.test_container import fuzzed, parts
from vae_lightning import load_model
from vae_lightning.compression import container
from vae_lightning.experiment import checkpoint, coding, image_output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def grey(folder: Path) -> Path:
    return train("grey", folder)


@pytest.fixture(scope="module")
def colour(folder: Path) -> Path:
    return train("colour", folder)


@pytest.fixture(scope="module")
def binary(folder: Path) -> Path:
    return train("binary", folder)


@pytest.fixture(scope="module")
def linked(folder: Path) -> Path:
    return train("linked", folder)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model is built once, which takes half a second; and denormals are as they were."""
    monkeypatch.setattr(checkpoint, "load_model", built)
    yield
    torch.set_flush_denormal(False)


built = functools.cache(checkpoint.load_model)


def some(count: int, channels: int = 1, top: int = 255) -> np.ndarray:
    """(count, channels, 4, 4) uint8."""
    chance = np.random.default_rng(0)
    return chance.integers(0, top, (count, channels, 4, 4), np.uint8, endpoint=True)


def saved(pixels: np.ndarray, name: str) -> Path:
    """(C, H, W) -> an image file."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
    return path


def loaded(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def leftovers() -> list[Path]:
    return [path for path in Path().rglob("*") if ".part" in path.name]


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


def sixteen_bits(path: str) -> None:
    """A PNG of 4x4 colours of 16 bits, which Pillow halves in silence."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_images_that_would_not_come_back_are_refused(cli: Callable, grey: Path, colour: Path) -> None:
    saved(some(1, 3)[0], "colour.png")
    saved(some(1)[0], "grey.png")
    see_through = some(1, 4)[0]
    saved(see_through, "alpha.png")
    Image.fromarray(some(1)[0, 0].astype(np.uint16) * 200).save("deep.png")
    sixteen_bits("deep_colour.png")
    Image.fromarray(some(1)[0, 0].astype(np.float32)).save("float.tiff")
    first, second = (Image.fromarray(image[0]) for image in some(2))
    first.save("two.gif", save_all=True, append_images=[second])
    Image.fromarray(some(1)[0, 0]).resize((5, 4)).save("wide.png")
    Image.fromarray(some(1)[0, 0]).resize((500, 400)).save("huge.png")
    Path("text.png").write_text("no picture")
    palette = Image.fromarray(some(1)[0, 0]).convert("P")
    palette.save("clear.png", transparency=int(np.asarray(palette)[0, 0]))
    for name, model, words in (
        ("colour.png", grey, "got mode RGB"),
        ("alpha.png", colour, "got mode RGBA"),
        ("clear.png", colour, "got mode RGBA"),
        ("deep.png", grey, "16"),
        ("deep_colour.png", colour, "got 16 bits a channel"),
        ("float.tiff", grey, "got mode F"),
        ("two.gif", grey, "expected one picture in a file, got 2"),
        ("wide.png", grey, "expected 4x4 pixels, as the model was built for, got 4x5"),
        ("huge.png", grey, "expected 4x4 pixels, as the model was built for, got 400x500"),
        ("text.png", grey, "expected an image"),
    ):
        refused(cli("compress", "grey.png", name, "-o", "out.vlz", "--ckpt_path", model), name, words)
    for name, array, words in (
        ("real.npy", some(2) / 255, "expected integers 0..255, got an array of float64"),
        ("many.npy", some(2).astype(int) + 200, "expected the integers 0..255"),
        ("below.npy", some(2).astype(int) - 100, "expected the integers 0..255"),
        ("large.npy", np.zeros((2, 1, 5, 5), np.uint8), "expected an array (N, 1, 4, 4) or (N, 4, 4, 1) or (N, 4, 4)"),
        ("none.npy", np.zeros((0, 1, 4, 4), np.uint8), "got (0, 1, 4, 4)"),
        ("flat.npy", np.uint8(3), "expected an array (N"),
        ("object.npy", np.array([None, 1], dtype=object), "something else"),
    ):
        np.save(name, array)
        refused(cli("compress", name, "-o", "out.vlz", "--ckpt_path", grey), name, words)
    np.savez("labels.npz", image=some(3), label=np.zeros(2, int))
    np.savez("other.npz", pictures=some(3))
    Path("broken.npz").write_bytes(b"PK\3\4nothing")
    for name, words in (
        ("labels.npz", "as many integers in `label`"),
        ("other.npz", "image"),
        ("broken.npz", "expected an"),
    ):
        refused(cli("compress", name, "-o", "out.vlz", "--ckpt_path", grey), name, words)
    assert not Path("out.vlz").exists()
    assert not leftovers()


def test_other_things_that_are_the_users_to_mend(cli: Callable, grey: Path, colour: Path, folder: Path) -> None:
    saved(some(1)[0], "in/a.png")
    Path("empty").mkdir()
    command = ["compress", "in", "-o", "out.vlz", "--ckpt_path"]
    for args, words in (
        (["compress", "nowhere.png", "-o", "out.vlz", "--ckpt_path", grey], ["nowhere.png", "got nothing there"]),
        (["compress", "nowhere.npy", "-o", "out.vlz", "--ckpt_path", grey], ["nowhere.npy", "got nothing there"]),
        (["compress", "empty", "-o", "out.vlz", "--ckpt_path", grey], ["empty: expected images, got none"]),
        (["compress", "in", "test", "-o", "out.vlz", "--ckpt_path", grey], ["or one split, got test among 2"]),
        (["compress", "in", "-o", "out.zip", "--ckpt_path", grey], ["out.zip: expected a file that ends in .vlz"]),
        ([*command, "nowhere"], ["nowhere: expected a checkpoint file or the folder of a run"]),
        ([*command, grey, "--batch_size", "0"], ["--batch_size: expected 1..", "got 0"]),
        ([*command, grey, "--batch_size", "9999999"], ["got 9999999"]),
        (["decompress", "nowhere.vlz", "-o", "back", "--ckpt_path", grey], ["nowhere.vlz", "got nothing there"]),
        (["decompress", "in/a.png", "-o", "back", "--ckpt_path", grey], ["in/a.png", "another kind"]),
        (["inspect", "in"], ["in: expected a file that `vae-lightning compress` wrote, got a folder"]),
    ):
        refused(cli(*args), *words)
    assert not Path("out.vlz").exists()
    if not torch.cuda.is_available():
        refused(cli(*command, grey, "--device", "cuda"), "expected a CUDA device")
    assert cli(*command, grey).status == 0
    before = Path("out.vlz").read_bytes()
    refused(cli(*command, grey), "out.vlz exists and is not overwritten")
    assert cli(*command, grey, "--overwrite", "--batch_size", "1").status == 0
    assert Path("out.vlz").read_bytes() != before
    for model, words in (
        (colour, "of images (1, 4, 4) with 256 levels"),
        (train("grey", folder, 7), "made with another mod"),
    ):
        refused(cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", model), "out.vlz: expected the model", words)
    assert not Path("back").exists()


def test_nothing_is_overwritten_that_was_there(cli: Callable, grey: Path) -> None:
    for i, image in enumerate(some(3)):
        saved(image, f"in/sub/{i}.png")
    assert cli("compress", "in", "-o", "out.vlz", "--ckpt_path", grey).status == 0
    Path("back/sub").mkdir(parents=True)
    Path("back/sub/1.png").write_text("mine")
    Path("back/notes.txt").write_text("mine too")
    command = ["decompress", "out.vlz", "-o", "back", "--ckpt_path", grey]
    refused(cli(*command), "back/sub/1.png exists and is not overwritten", "--overwrite")
    assert files("back") == ["notes.txt", "sub/1.png"]
    assert Path("back/sub/1.png").read_text() == "mine"
    assert cli(*command, "--overwrite").status == 0
    np.testing.assert_array_equal(loaded(Path("back/sub/1.png")), some(3)[1])
    assert Path("back/notes.txt").read_text() == "mine too"
    Path("elsewhere").mkdir()
    Path("linked").mkdir()
    Path("linked/sub").symlink_to(Path("elsewhere").resolve())
    refused(cli("decompress", "out.vlz", "-o", "linked", "--ckpt_path", grey), "a link that leads out of it")
    refused(cli("decompress", "out.vlz", "-o", "out.vlz", "--ckpt_path", grey), "expected a folder to write to")
    assert not list(Path("elsewhere").iterdir())
    assert not leftovers()


@pytest.mark.parametrize("output", [".", "..", "./", "there"])
def test_a_folder_that_is_there_is_written_to_on_its_own_disk(
    cli: Callable, grey: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """A folder without a name, or a mounted one, to which nothing can be renamed from beside it."""
    saved(some(1)[0], "in/sub/a.png")
    assert cli("compress", "in", "-o", "out.vlz", "--ckpt_path", grey).status == 0
    Path("work/there").mkdir(parents=True)
    monkeypatch.chdir("work")
    root, rename = Path(output).resolve(), os.replace

    def on_one_disk(source: Path, target: Path) -> None:
        if not source.resolve().is_relative_to(root):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(image_output.os, "replace", on_one_disk)
    file = "../out.vlz"
    done = cli("decompress", file, "-o", output, "--ckpt_path", grey)
    assert done.status == 0, done.err
    np.testing.assert_array_equal(loaded(root / "sub" / "a.png"), some(1)[0])
    assert not [path for path in root.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError("23040 requested and 8064 written")]
)
def test_a_full_disk_is_said_in_a_sentence(
    cli: Callable, grey: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    np.save("in.npy", some(2))
    command = ["compress", "in.npy", "-o", "out.vlz", "--ckpt_path", grey]

    def full(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(container, "write", full)
        refused(cli(*command), "out.vlz: expected a file that can be written, got", str(error), "make room")
    assert cli(*command).status == 0
    monkeypatch.setattr(image_output.np, "save", full)
    refused(
        cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", grey), "back: expected a folder", str(error), "room"
    )
    assert sorted(os.listdir()) == ["in.npy", "out.vlz"]


def test_an_interruption_leaves_nothing(cli: Callable, grey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(some(1)[0], "in/a.png")
    saved(some(1)[0], "in/b.png")
    assert cli("compress", "in", "-o", "good.vlz", "--ckpt_path", grey).status == 0

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for module, name, command in (
        (coding, "encode", ["compress", "in", "-o", "out.vlz"]),
        (coding, "decode", ["compress", "in", "-o", "out.vlz"]),
        (coding, "decode", ["decompress", "good.vlz", "-o", "back"]),
        (image_output, "_write_files", ["decompress", "good.vlz", "-o", "back"]),
        (image_output.os, "replace", ["decompress", "good.vlz", "-o", "back"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            stopped = cli(*command, "--ckpt_path", grey)
        assert stopped.status == 130
        assert "interrupted" in stopped.error
        assert sorted(os.listdir()) == ["good.vlz", "in"]


def test_a_kill_in_the_middle_leaves_nothing_under_the_name(grey: Path) -> None:
    np.save("many.npy", some(200_000))
    command = ["compress", "many.npy", "-o", "out.vlz", "--ckpt_path", str(grey), "--batch_size", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([sys.executable, "-m", "vae_lightning", *command], env=environment)
    limit = time.monotonic() + 60
    while not leftovers() and running.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert leftovers()
    assert not Path("out.vlz").exists()


def test_a_file_that_does_not_give_the_images_back_is_not_kept(
    cli: Callable, grey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(some(1)[0], "a.png")
    decode = coding.decode
    monkeypatch.setattr(coding, "decode", lambda *args: decode(*args) ^ 1)
    for flags in ([], ["--no-verify"]):
        wrong = cli("compress", "a.png", "-o", "out.vlz", "--ckpt_path", grey, *flags)
        assert (wrong.status, Path("out.vlz").exists()) == ((0, True) if flags else (1, False))
    refused(cli("decompress", "out.vlz", "-o", "back", "--ckpt_path", grey), "expected content of the SHA-256")
    assert not Path("back").exists()


def test_damaged_and_forged_files_get_one_line_and_leave_nothing(cli: Callable, grey: Path) -> None:
    """As in test_container, by the commands."""
    np.save("in.npy", some(24))
    assert cli("compress", "in.npy", "-o", "good.vlz", "--ckpt_path", grey).status == 0
    data = Path("good.vlz").read_bytes()
    for seed in range(70):
        kind, forged = fuzzed(data, seed, {})
        if kind == "another" or (kind == "header" and parts(forged) == parts(data)):
            continue
        Path("bad.vlz").write_bytes(forged)
        result = cli("decompress", "bad.vlz", "-o", "back", "--ckpt_path", grey)
        refused(result, "bad.vlz")
        assert result.error.count("\n") == 1, result.error
        assert cli("inspect", "bad.vlz").status in (0, 1)  # a forgery that is whole may be explained
        assert sorted(os.listdir()) == ["bad.vlz", "good.vlz", "in.npy"]


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
