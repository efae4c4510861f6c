"""The command `detect`: which images are anomalous, and where. What is heavy is imported where it is used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vae_lightning.data import Images
    from vae_lightning.trained import TrainedModel

IMAGES = (
    "image files and folders, an array (.npy, .npz), a split of the model's data (train, val, test), or a benchmark's "
    "folder with test/good, test/DEFECT and ground_truth/DEFECT"
)


def detect(command: str, arguments: list[str]) -> None:
    """vae-lightning detect IMAGES... --ckpt_path RUN [--false_alarms RATE] [--normal IMAGES] [--score S] [-o DIR]"""
    parser = argparse.ArgumentParser(
        f"vae-lightning {command}",
        description="Which images are anomalous under a model, and where.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help=IMAGES)
    parser.add_argument("--ckpt_path", required=True, metavar="RUN", help="checkpoint file or run folder")
    parser.add_argument("--false_alarms", type=float, default=0.01, help="rate of normal images called anomalous; 0.01")
    normal = "normal images, not trained on, that set the threshold; by default the model's validation images"
    parser.add_argument("--normal", nargs="+", default=["val"], metavar="IMAGES", help=normal)
    parser.add_argument("--score", help="that verdicts are by; by default the peak of the map of bits a pixel")
    parser.add_argument("--num_samples", type=int, default=20, help="draws from the posterior an image; 20")
    parser.add_argument("--pictures", type=int, default=500, help="images that get maps, the least likely first; 500")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to write to; by default detect in the run's"
    )
    parser.add_argument("--overwrite", action="store_true", help="what an earlier detect wrote there may be lost")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from vae_lightning.checkpoint import folder_of
    from vae_lightning.commands.compress import load
    from vae_lightning.commands.scoring import require_some
    from vae_lightning.core import seeded
    from vae_lightning.files import replaced, require_replaceable
    from vae_lightning.images.defects import find_benchmark, read_masks
    from vae_lightning.images.given import read_files_as, read_given, reader
    from vae_lightning.images.input import data_of
    from vae_lightning.measure.detect import areas
    from vae_lightning.measure.detect import detect as find
    from vae_lightning.measure.detect_files import PAGE, RECORD, TABLE, areas_as_lines, describe, listed, write
    from vae_lightning.metrics.detection import require_rate

    require_some("num_samples", options.num_samples)
    require_rate(options.false_alarms)
    trained, checkpoint = load(options.ckpt_path, options.device)
    if others := [name for name in trained.latent_model.needs if name != "label"]:
        raise ValueError(f"detect: expected a model of images, by class or not, got one that is told a {others[0]}.")
    folder = folder_of(checkpoint) / "detect" if options.output is None else options.output.expanduser()
    require_replaceable(folder, RECORD, options.overwrite or options.output is None)
    data, spec = data_of(checkpoint), trained.spec
    benchmark = find_benchmark(Path(options.images[0]).expanduser()) if len(options.images) == 1 else None
    if benchmark is None:
        given = read_given(options.images, spec, data)
    else:
        given = read_files_as(benchmark.files, benchmark.names, spec, data, skip=False)
    normal = read_given(options.normal, spec, data)
    with seeded(0, trained.device):
        p_y = _frequencies(trained, normal.images)
        rate, samples = options.false_alarms, options.num_samples
        found = find(trained, given.images, given.names, normal.images, rate, samples, options.score, p_y)
    if benchmark is not None:
        masks = read_masks(benchmark, reader(spec, data))
        found = replace(found, defects=benchmark.defects, masks=masks, areas=areas(found, benchmark, masks))
    which = "validation images" if options.normal == ["val"] else f"images of {', '.join(options.normal)}"
    sentences = [*given.notes, *normal.notes, *describe(found, which)]
    facts = {"images": ", ".join(options.images), "checkpoint": str(checkpoint), "normal": which}
    with replaced(folder) as part:
        write(found, given.images, spec.levels, options.pictures, sentences, part, facts)
    print("\n".join([*listed(found), *areas_as_lines(found.areas), *sentences]))
    print(f"kept: {folder / PAGE}, {TABLE}, {RECORD}, maps")


def _frequencies(trained: TrainedModel, images: Images) -> Tensor | None:
    """How often each class comes among the normal images, of a model that is told classes; all as often where these
    images have none."""
    import torch

    from vae_lightning.metrics.classifier import frequencies

    if "label" not in trained.latent_model.needs:
        return None
    classes = trained.spec.require_classes("detect")
    if images.label is None:
        return torch.full((classes,), 1 / classes, dtype=torch.float64)
    return frequencies(images.label, classes)
