"""The commands `generate`, `variations`, `interpolate` and `edit` of text-to-image models. What is heavy is imported
where it is used."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from vae_lightning.models import UnCLIP
    from vae_lightning.trained import TrainedModel

LARGEST_GUIDANCE = 20


class Opened(NamedTuple):
    """What the four have in common, once it is read."""

    trained: TrainedModel
    model: UnCLIP
    picture: Path
    checkpoint: Path

    def read(self, file: str) -> Tensor:
        """An image file of the model's shape, (C, H, W), integers."""
        from vae_lightning.images.input import read_images

        images = read_images([file], self.trained.spec, self.checkpoint).image
        if len(images) != 1:
            raise ValueError(f"{file}: expected one image, got {len(images)}: name an image file.")
        return images[0].to(self.trained.device).float()

    def save(self, images: Tensor, columns: int) -> None:
        """A grid of images (N, C, H, W)."""
        from vae_lightning.images.pictures import grid, save_picture

        save_picture(grid(images.cpu(), columns, self.trained.spec.levels), self.picture)
        print(f"{len(images)} images: {self.picture}")


def generate(command: str, arguments: list[str]) -> None:
    """vae-lightning generate TEXT... --ckpt_path RUN [-n N] [--guidance W] [--draw] [--real] [--nearest] [-o FILE]"""
    import torch

    from vae_lightning.commands.scoring import require_some

    parser = _parser(command, "Images of what texts say, a row or more a text.")
    parser.add_argument("text", metavar="TEXT", nargs="+", help='such as "a thick left-slanted seven"')
    parser.add_argument("-n", "--num_samples", type=int, default=8, help="images of each text")
    _add_guidance(parser)
    parser.add_argument("--draw", action="store_true", help="draw from p(x|z) in place of its mean")
    real = "above the images of each text as many test images that it can be said of; reads the run's data"
    parser.add_argument("--real", action="store_true", help=real)
    nearest = "below the images of each text the training image that each is nearest to; reads the run's data"
    parser.add_argument("--nearest", action="store_true", help=nearest)
    options = parser.parse_args(arguments)
    require_some("num_samples", options.num_samples)
    opened = _guided(options, "generate")
    images = opened.trained.generate(options.text, options.num_samples, options.draw).cpu()
    lines = [images]
    if options.real:
        lines.insert(0, _real(opened, options.text, images))
    if options.nearest:
        lines.append(_nearest(opened, options.text, images))
    one = len(options.text) == len(lines) == 1
    columns = round(options.num_samples**0.5) or 1 if one else options.num_samples
    opened.save(torch.stack(lines, 1).flatten(0, 2), columns)


def _real(opened: Opened, texts: Sequence[str], images: Tensor) -> Tensor:
    """Test images that each text can be said of, evenly over all of them, of the shape of images (texts, n, C, H, W);
    blank where there are too few."""
    import torch

    from vae_lightning.images.input import read_data

    data = read_data(opened.checkpoint)
    data.check_matches(opened.trained.spec, opened.model.needs)
    test, found = data.fixed("test"), torch.full_like(images, opened.trained.spec.levels - 1.0)
    assert test.captions is not None
    for text, line in zip(texts, found, strict=True):
        chosen = test.captions.said_by(text)
        print(f"{text}: {len(chosen)} test images")
        chosen = chosen[torch.linspace(0, len(chosen) - 1, min(len(chosen), len(line))).round().long()]
        line[: len(chosen)] = test.take(chosen).float()
    return found


def _nearest(opened: Opened, texts: Sequence[str], images: Tensor) -> Tensor:
    """The training images that images (texts, n, C, H, W) are nearest to, of the same shape; prints their captions and
    distances, of pixels in [0, 1]."""
    from vae_lightning.images.input import read_data
    from vae_lightning.metrics.samples import nearest_distances

    data = read_data(opened.checkpoint)
    data.check_matches(opened.trained.spec)
    train = data.fixed("train")
    found = nearest_distances(images.flatten(0, 1), train.image)
    near = train[found.indices]
    said = [""] * len(near) if near.captions is None else near.captions.texts()
    count = images.shape[1]
    print(f"{'distance':>8}  nearest training image")
    for i, text in enumerate(texts):
        print(f"{text}:")
        for row in range(i * count, (i + 1) * count):
            print(f"{found.distances[row].item() / (opened.trained.spec.levels - 1):8.2f}  {said[row]}".rstrip())
    return near.image.view(images.shape).float()


def variations(command: str, arguments: list[str]) -> None:
    """vae-lightning variations IMAGE --ckpt_path RUN [-n N] [--guidance W] [--seed S] [-o FILE.png] [--device D]"""
    import torch

    from vae_lightning.commands.scoring import require_some
    from vae_lightning.models import edits

    parser = _parser(command, "Other images with the embedding of one, which comes first.")
    parser.add_argument("image", metavar="IMAGE", help="an image file of the size that the model was trained on")
    parser.add_argument("-n", "--num_samples", type=int, default=15, help="how many")
    _add_guidance(parser)
    options = parser.parse_args(arguments)
    require_some("num_samples", options.num_samples)
    opened = _guided(options, "variations")
    image = opened.read(options.image)
    made = edits.variations(opened.model, image[None], options.num_samples).mean
    opened.save(torch.cat((image[None], made.flatten(0, 1))), round((options.num_samples + 1) ** 0.5))


def interpolate(command: str, arguments: list[str]) -> None:
    """vae-lightning interpolate IMAGE IMAGE --ckpt_path RUN [-n N] [-o FILE.png] [--device D]"""
    from vae_lightning.models import edits

    parser = _parser(command, "The way from one image to another, through embeddings and noise on their spheres.")
    parser.add_argument("image", metavar="IMAGE", nargs=2, help="image files of the size that the model was trained on")
    parser.add_argument("-n", "--num_steps", type=int, default=8, help="images, both ends included")
    options = parser.parse_args(arguments)
    if options.num_steps < 2:
        raise ValueError(f"--num_steps: expected at least 2, the two ends, got {options.num_steps}.")
    opened = _open(options, "interpolate")
    ends = [opened.read(file) for file in options.image]
    opened.save(edits.interpolated(opened.model, ends[0], ends[1], options.num_steps).mean, options.num_steps)


def edit(command: str, arguments: list[str]) -> None:
    """vae-lightning edit IMAGE --from TEXT --to TEXT --ckpt_path RUN [--strengths S...] [-o FILE.png] [--device D]"""
    import torch

    from vae_lightning.models import edits

    parser = _parser(command, "An image as the difference of two texts has it changed, the more the further right.")
    parser.add_argument("image", metavar="IMAGE", help="an image file of the size that the model was trained on")
    parser.add_argument("--from", required=True, metavar="TEXT", dest="before", help='such as "a thin seven"')
    parser.add_argument("--to", required=True, metavar="TEXT", dest="after", help='such as "a thick seven"')
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        metavar="S",
        help="how far towards the difference, 0 to 1; an image each",
    )
    options = parser.parse_args(arguments)
    if wrong := [share for share in options.strengths if not 0 <= share <= 1]:
        raise ValueError(f"--strengths: expected shares from 0 to 1, got {wrong[0]:g}.")
    opened = _open(options, "edit")
    before, after = opened.trained.tokens([options.before, options.after])
    image = opened.read(options.image)
    strengths = torch.tensor(options.strengths, device=opened.trained.device)
    made = edits.edited(opened.model, image, before, after, strengths).mean
    opened.save(torch.cat((image[None], made)), len(made) + 1)


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"vae-lightning {command}", description=description, allow_abbrev=False)
    parser.add_argument("--ckpt_path", required=True, metavar="RUN", help="checkpoint file or run folder")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="the picture; by default in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="an older file of that name may be lost")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def _add_guidance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="W",
        help="how far the decoder's images follow what it is told: 0 not at all, 1 as trained, more for images that "
        "are more alike; by default the model's own",
    )


def _guided(options: argparse.Namespace, name: str) -> Opened:
    """The model, its decoder with the guidance that is asked for."""
    from vae_lightning.models.edits import decoder_of

    if options.guidance is not None and not 0 <= options.guidance <= LARGEST_GUIDANCE:
        raise ValueError(f"--guidance: expected a number from 0 to {LARGEST_GUIDANCE}, got {options.guidance:g}.")
    opened = _open(options, name)
    if options.guidance is not None:
        decoder_of(opened.model).guidance = options.guidance
    return opened


def _open(options: argparse.Namespace, name: str) -> Opened:
    import torch

    from vae_lightning.checkpoint import find_checkpoint
    from vae_lightning.commands.scoring import output_file
    from vae_lightning.trained import load_model

    checkpoint = find_checkpoint(options.ckpt_path)
    picture = output_file(options.output, checkpoint, f"{name}.png", (".png",), options.overwrite)
    trained = load_model(str(checkpoint), options.device)
    torch.manual_seed(options.seed)
    return Opened(trained, trained.text_to_image, picture, checkpoint)
