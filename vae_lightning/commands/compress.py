"""The commands of lossless compression, compress, decompress and inspect, and `surprise`, which weighs images by their
code length. What is heavy is imported where it is used."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vae_lightning.files import require_writable

if TYPE_CHECKING:
    from vae_lightning.trained import TrainedModel

IMAGES = "image files and folders, or one array (.npy, .npz), or a split of the model's data: train, val or test"
CHECKPOINT = "checkpoint file or run folder of the model"


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"vae-lightning {command}", description=description, allow_abbrev=False)


def compress(command: str, arguments: list[str]) -> None:
    """vae-lightning compress IMAGES... -o FILE.vlz --ckpt_path MODEL [--device D] [--batch_size N] [--no-verify]"""
    from vae_lightning.compression import archive
    from vae_lightning.compression.describe import Sizes, Sources
    from vae_lightning.images.input import read_images

    parser = _parser(command, "Images to a small file, from which `decompress` gets every bit of them back.")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.vlz", help="the file to write")
    parser.add_argument("--ckpt_path", required=True, metavar="MODEL", help=CHECKPOINT)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="decompress needs the same kind")
    parser.add_argument("--batch_size", type=int, help="the most images that are coded at a time")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="do not decode the file to compare")
    parser.add_argument("--overwrite", action="store_true", help="an older file of that name may be lost")
    options = parser.parse_args(arguments)
    output = options.output.expanduser()
    if output.suffix != ".vlz":
        raise ValueError(f"--output {output}: expected a file that ends in .vlz.")
    require_writable(output)
    if os.path.lexists(output) and not options.overwrite:
        raise FileExistsError(f"{output} exists and is not overwritten: choose another with -o, or add --overwrite.")
    trained, checkpoint = _load(options.ckpt_path, options.device)
    settings = archive.coder_settings(options.batch_size, trained)
    images = read_images(options.images, trained.spec, checkpoint, trained.latent_model.needs)
    done_at: list[float] = []
    start = time.perf_counter()
    with _progress("compress", images.image.numel() // len(images.image), len(images.image)) as step:

        def timed(done: int, bits: float) -> None:
            done_at[:] = [time.perf_counter()]
            step(done, bits)

        written = archive.compress(trained, images, output, settings, options.verify, timed)
    sizes, seconds = Sizes.of(written), done_at[0] - start
    print(
        f"{_images(written.header.count)}: {sizes.net:.4f} bits/dim net, {sizes.gross:.4f} gross "
        f"({written.header.initial_bits} initial bits), {written.size} bytes, {sizes.ratio:.2f} times smaller than raw "
        f"({sizes.bits_raw} bits a value), {written.header.count / seconds:.0f} images/s, "
        f"{'round trip verified' if options.verify else 'not verified'}: {output}"
    )
    if images.files:
        sources = Sources.of(written, images.files)
        print(sources)
        if warning := sources.warning():
            print(warning, file=sys.stderr)
    elif images.form.kind == "split":
        print("coded are the split's decoded pixels; what its own files take is not known here")


def decompress(command: str, arguments: list[str]) -> None:
    """vae-lightning decompress FILE.vlz -o DIR --ckpt_path MODEL [--overwrite]"""
    from vae_lightning.compression import archive, container
    from vae_lightning.images.output import require_room, write_images

    parser = _parser(command, "The images of a file that `compress` wrote, every bit of them.")
    parser.add_argument("file", type=Path, metavar="FILE.vlz", help="a file that compress wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write to")
    parser.add_argument("--ckpt_path", required=True, metavar="MODEL", help=f"{CHECKPOINT} that the file was made with")
    parser.add_argument("--overwrite", action="store_true", help="older files of the same names may be lost")
    options = parser.parse_args(arguments)
    file, output = options.file.expanduser(), options.output.expanduser()
    contents = container.read(file)
    header = contents.header
    require_room(header.form, output, options.overwrite, header.image_shape[0])
    trained, _ = _load(options.ckpt_path, header.writer.device)
    with _progress("decompress", header.values, header.count) as step:
        try:
            images = archive.decompress(trained, contents, step)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    written = write_images(images, header.form, output, options.overwrite)
    print(f"{_images(header.count)}, their SHA-256 as it was: {written[0] if len(written) == 1 else output}")


def inspect(command: str, arguments: list[str]) -> None:
    """vae-lightning inspect FILE.vlz"""
    from vae_lightning.compression import container
    from vae_lightning.compression.describe import describe

    parser = _parser(command, "What is in a file that `compress` wrote; it needs no model.")
    parser.add_argument("file", type=Path, metavar="FILE.vlz", help="a file that compress wrote")
    file = parser.parse_args(arguments).file.expanduser()
    print(describe(container.read(file)))


def surprise(command: str, arguments: list[str]) -> None:
    """vae-lightning surprise IMAGES... --ckpt_path MODEL [-o FILE.png] [--num_samples K]"""
    from vae_lightning.commands.trainer import output_file, require_some
    from vae_lightning.images.input import read_images
    from vae_lightning.measure.surprise import show, weigh

    parser = _parser(command, "Each image's code length under a model, its self-information, the longest first.")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
    parser.add_argument("--ckpt_path", required=True, metavar="MODEL", help=CHECKPOINT)
    parser.add_argument("-o", "--output", metavar="FILE.png", help="the picture; surprising.png in the run's folder")
    parser.add_argument("--num_samples", type=int, default=100, help="importance samples an image")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    require_some("num_samples", options.num_samples)
    trained, checkpoint = _load(options.ckpt_path, options.device)
    require_writable(picture := output_file(options.output, checkpoint, "surprising.png", (".png",)))
    images = read_images(options.images, trained.spec, checkpoint, trained.latent_model.needs)
    weighed = weigh(trained, images, options.num_samples)
    shown = show(weighed, images, trained.spec.levels, picture)
    print(f"{weighed.table(images)}\n{shown}")


def _load(ckpt_path: str, device: str) -> tuple[TrainedModel, Path]:
    """The model on its device, and its checkpoint."""
    import torch

    from vae_lightning.checkpoint import find_checkpoint
    from vae_lightning.run.folder import Run, newest_run
    from vae_lightning.trained import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, as the file or --device asks for one, got none that torch can use.")
    checkpoint = find_checkpoint(newest_run(Run(), everywhere=True) if ckpt_path == "last" else ckpt_path)
    return load_model(str(checkpoint), device), checkpoint


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


@contextmanager
def _progress(what: str, values: int, count: int) -> Iterator[Callable[[int, float], None]]:
    """A bar with the bits a value so far, on a terminal alone; called with the images done and their bits."""
    with tqdm(total=count, desc=what, unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:

        def step(done: int, bits: float) -> None:
            bar.set_postfix_str(f"{bits / (done * values):.4f} bits/dim", refresh=False)
            bar.update(done - bar.n)

        yield step
