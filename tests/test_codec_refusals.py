"""What the commands of compression refuse, and what is left when they are stopped: nothing half-written."""

from __future__ import annotations

import errno
import os
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

from tests.codec_models import files, leftovers, loaded, saved, some, train
from tests.conftest import REPOSITORY
from tests.test_bad_input import refused
from tests.test_container import fuzzed, parts
from vae_lightning.compression import archive as coding
from vae_lightning.compression import container
from vae_lightning.images import output as image_output

pytestmark = pytest.mark.usefixtures("quick")


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_the_middle_leaves_nothing_under_the_name(grey: Path, number: signal.Signals) -> None:
    np.save("many.npy", some(200_000))
    command = ["compress", "many.npy", "-o", "out.vlz", "--ckpt_path", str(grey), "--batch_size", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "vae_lightning", *command], env=environment, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 60
    while not leftovers() and running.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    assert leftovers()
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    if number == signal.SIGKILL:  # nobody can clean up
        assert running.returncode == -signal.SIGKILL
    else:
        assert running.returncode == 143
        assert "error: terminated: no file was left unfinished" in said
        assert not leftovers()
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


def test_names_as_long_as_a_file_system_has_them(cli: Callable, grey: Path) -> None:
    """255 bytes, .png included, which comes behind a name that ends otherwise."""
    for suffix, longest in ((".png", 251), (".bmp", 247)):
        saved(some(1)[0], f"in{suffix}/{'n' * longest}{suffix}")
        assert cli("compress", f"in{suffix}", "-o", "out.vlz", "--ckpt_path", grey, "--overwrite").status == 0
        assert cli("decompress", "out.vlz", "-o", f"back{suffix}", "--ckpt_path", grey).status == 0
        (name,) = files(f"back{suffix}")
        assert len(name) == 255
    saved(some(1)[0], f"long/{'n' * 248}.bmp")
    refused(cli("compress", "long", "-o", "no.vlz", "--ckpt_path", grey), "a name: expected a relative path")


def test_a_place_that_cannot_be_written_to_is_said_before_the_work(cli: Callable, grey: Path) -> None:
    saved(some(1)[0], "in/a.png")
    Path("file").write_text("")
    for command, output in (("compress", "file/deep/out.vlz"), ("surprise", "file/out.png")):
        said = cli(command, "in", "-o", output, "--ckpt_path", grey)
        refused(said, f"{output}: expected a file that can be written, got Not a directory at ", "choose another place")
    Path("out.png").mkdir()
    said = cli("surprise", "in", "-o", "out.png", "--ckpt_path", grey)
    refused(said, "out.png: expected a file that can be written, got a folder there")
    said = cli("compress", "in", "-o", f"{'n' * 252}.vlz", "--ckpt_path", grey)
    refused(said, "expected a file that can be written, got File name too long")
    assert cli("compress", "in", "-o", f"{'n' * 251}.vlz", "--ckpt_path", grey).status == 0
    assert sorted(os.listdir()) == ["file", "in", f"{'n' * 251}.vlz", "out.png"]
