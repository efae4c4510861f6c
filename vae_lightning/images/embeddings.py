"""Embeddings of all images of a split, worked out once a frozen tower."""

from __future__ import annotations

import hashlib
import pickle
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vae_lightning.checkpoint import find_checkpoint, folder_of
from vae_lightning.core import ImageTextModel, Model, image_of
from vae_lightning.data import ImageData, Images
from vae_lightning.data.source import sha256
from vae_lightning.files import write_atomically


def digest(module: nn.Module) -> str:
    """The beginning of the digest of all weights and their names."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


@torch.no_grad()
def embedded(model: ImageTextModel, images: Images, folder: Path | None, batch_size: int = 512) -> Tensor:
    """The embedding of each image, (N, E) on the CPU: from folder/embeddings/<weights>-<images>.pt, where these very
    weights have embedded these very images before, else worked out and, where the folder can be written, kept there.

    Args:
        model: in evaluation mode, on any device.
        images: N of them.
        folder: of the model's run; None to keep nothing.
        batch_size: images at a time.
    """
    file = None if folder is None else folder / "embeddings" / f"{digest(model)}-{sha256(images)}.pt"
    if file is not None and file.is_file():
        try:
            kept: Tensor = torch.load(file, map_location="cpu", weights_only=True)
            return kept
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            print(
                f"{file}: expected kept embeddings, got a damaged file, which is written anew ({type(error).__name__})"
            )
    device = next(model.parameters()).device
    found = torch.cat([model.embed_image(image_of(part).to(device)).cpu() for part in images.batches(batch_size)])
    with suppress(OSError):
        if file is not None:
            write_atomically(file, lambda stream: torch.save(found, stream))
    return found


def remember(model: Model, data: ImageData, folder: Path | None) -> None:
    """Gives training and validation images the embeddings that a frozen part of a model has of them, so that a step
    need not work them out; kept with the run of that part, or where that is gone, in `folder`. Does nothing for a model
    without such a part, and for data whose images change at each visit."""
    if model.embedder is None or data.is_augmented:
        return
    tower, run = model.embedder
    with suppress(FileNotFoundError):
        folder = folder if run is None else folder_of(find_checkpoint(run))
    for split in ("train", "val"):
        images = replace(data.splits[split], embedding=None)
        data.splits[split] = replace(images, embedding=embedded(tower, images, folder, data.eval_batch_size))
