"""Images to a file and back, with a trained model: what the commands of compression do, for any script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

import vae_lightning
from vae_lightning.compression import container
from vae_lightning.compression.bits_back import decode, encode, require_codable
from vae_lightning.compression.coded import Coded, Settings
from vae_lightning.compression.container import Contents
from vae_lightning.compression.exactness import model_hash, probe
from vae_lightning.compression.form import Form, InputImages
from vae_lightning.compression.header import MOST_THREADS, Header, Writer, content_hash, largest_batch, runs
from vae_lightning.core import LatentModel, Spec
from vae_lightning.files import whole

SLACK = 2**20
"""Bits. Decoding takes bits away; forged words under a poor posterior can bring ever more of them instead, and would be
decoded for as many images as a forged count says."""
Progress = Callable[[int, float], None]


class Trained(Protocol):
    """A model with what its images are and where it is, such as a `TrainedModel`."""

    latent_model: LatentModel
    spec: Spec

    @property
    def device(self) -> torch.device: ...


def compress(
    trained: Trained,
    images: InputImages,
    output: Path,
    settings: Settings,
    verify: bool = True,
    progress: Progress | None = None,
) -> Contents:
    """Writes images into a file, which is read back and decoded before it gets its name.

    Raises:
        OSError: no room on the disk, or no right to write there.
        ValueError: the model cannot code such images, or the file does not give them back (an error of this program
            or of the machine).
    """
    if trained.spec.levels > 256:
        raise ValueError(
            f"compress: expected a model of at most 256 levels, a byte a value, got one of {trained.spec.levels}: use "
            "a model trained with --data.source.window, or a lossless coder for such depth."
        )
    require_codable(trained.latent_model, trained.spec.image_shape, trained.spec.levels)
    labels = told(trained, images.form)
    with threads(min(torch.get_num_threads(), MOST_THREADS)), whole(output) as stream:
        coded = encode(trained.latent_model, images.image, settings, trained.device, progress, labels)
        try:
            container.write(stream, _header(trained, images, coded), coded.words)
            stream.flush()
        except OSError as error:
            raise OSError(
                f"{output}: expected a file that can be written, got {error}: make room or choose another place."
            ) from error
        written = container.read(Path(stream.name))
        if verify and not torch.equal(_decode(trained, written), images.image):
            raise ValueError(
                f"{output}: expected the file to give the images back, got others: nothing was written; report this "
                "with your versions and the model."
            )
    return written


def decompress(trained: Trained, contents: Contents, progress: Progress | None = None) -> Tensor:
    """The images (N, C, H, W) uint8 of a file, every bit of them as it was.

    Raises:
        ValueError: another model wrote the file, this machine computes other numbers than the writer's, or what came
            out is not what went in.
    """
    header = contents.header
    shape, levels = tuple(trained.spec.image_shape), trained.spec.levels
    if (shape, levels) != (header.image_shape, header.levels):
        raise ValueError(
            f"expected the model that wrote the file, of images {header.image_shape} with {header.levels} levels, got "
            f"one of images {shape} with {levels}: give the checkpoint that it was made with by --ckpt_path."
        )
    if (ours := model_hash(trained.latent_model, shape, levels)) != header.model:
        raise ValueError(
            f"expected the model that wrote the file, {header.model[:16]}, got {ours[:16]}: the file was made with "
            "another model; give the checkpoint that it was made with by --ckpt_path."
        )
    told(trained, header.form)
    with threads(header.writer.threads):
        here = this_machine(trained)
        if torch.get_num_threads() != header.writer.threads or _probe(trained, header.probed) != header.probe:
            raise ValueError(
                "this machine computes other numbers than the one that wrote the file and would decode other images "
                f"({_apart(here, header.writer)}): take the writer's versions, kind of processor and device."
            )
        return _decode(trained, contents, progress)


def told(trained: Trained, form: Form) -> dict[str, Tensor]:
    """What the model is told of each image beside the image, from the file's own labels: "label" (N,) int64, on the
    CPU, or nothing for a model that needs nothing.

    Raises:
        ValueError: the model needs labels, and there are none or others than its classes'.
    """
    if "label" not in trained.latent_model.needs:
        return {}
    classes = trained.spec.classes or ()
    if form.labels is None:
        raise ValueError(
            "expected images with their classes, since the model codes p(x|y), got images without: give a folder with "
            "a sub-folder a class, a .npz array with `label`, or a split of the model's data."
        )
    if form.classes != classes:
        shown = "none" if form.classes is None else ", ".join(form.classes[:10])
        raise ValueError(
            f"expected labels of the model's classes, {', '.join(classes[:10])}, got those of {shown}: name the "
            "classes as the model does."
        )
    return {"label": torch.tensor(form.labels, dtype=torch.int64)}


def coder_settings(batch_size: int | None, trained: Trained) -> Settings:
    """The coder's, with batches no larger than a file may have.

    Raises:
        ValueError: a larger batch was asked for.
    """
    most = min(largest_batch(trained.spec.image_shape), 2**20)
    if batch_size is None:
        return replace(Settings(), batch_size=min(Settings().batch_size, most))
    if not 1 <= batch_size <= most:
        raise ValueError(f"--batch_size: expected 1..{most} images of this shape, got {batch_size}.")
    return replace(Settings(), batch_size=batch_size)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads for arithmetic, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def this_machine(trained: Trained) -> Writer:
    """What the model's numbers depend on, here."""
    return Writer(
        vae_lightning=vae_lightning.__version__,
        torch=torch.__version__,
        constriction=version("constriction"),
        device=trained.device.type,
        threads=torch.get_num_threads(),
        cpu=torch.backends.cpu.get_cpu_capability(),
    )


def _header(trained: Trained, images: InputImages, coded: Coded) -> Header:
    header = Header(
        model=model_hash(trained.latent_model, trained.spec.image_shape, trained.spec.levels),
        image_shape=tuple(trained.spec.image_shape),
        levels=trained.spec.levels,
        count=len(images.image),
        settings=coded.settings,
        layout=runs(coded.layout),
        initial_bits=coded.initial_bits,
        form=images.form,
        writer=this_machine(trained),
        probe="0" * 64,
    )
    header = replace(header, probe=_probe(trained, header.probed))
    return replace(header, content=content_hash(images.image.numpy(), header))


def _probe(trained: Trained, sizes: list[int]) -> str:
    model, spec = trained.latent_model, trained.spec
    return probe(model, spec.image_shape, spec.levels, sizes, trained.device, len(spec.classes or ()))


def _decode(trained: Trained, contents: Contents, progress: Progress | None = None) -> Tensor:
    """The images, once they and the header have been found to be those that were written."""
    coded, header = contents.coded, contents.header

    def watched(done: int, bits: float) -> None:
        if bits < -(coded.gross_bits + SLACK):
            raise ValueError("the words do not decode: they become more and more; the file was altered.")
        if progress is not None:
            progress(done, bits)

    labels = told(trained, header.form)
    image = decode(trained.latent_model, coded, header.image_shape, trained.device, watched, labels)
    if (found := content_hash(image.numpy(), header)) != header.content:
        raise ValueError(
            f"expected content of the SHA-256 {header.content[:16]}, got {found[:16]}: the file was altered, "
            "or this machine computes other numbers than the writer's; nothing was written."
        )
    return image


def _apart(here: Writer, there: Writer) -> str:
    """What this machine and the writer's say of themselves that is not the same."""
    ours, theirs = asdict(here), asdict(there)
    found = [f"{name} {theirs[name]} there, {ours[name]} here" for name in ours if ours[name] != theirs[name]]
    same = f"both with torch {here.torch}, {here.device}, {here.cpu}: the processors or their libraries must differ"
    return "; ".join(found) or same
