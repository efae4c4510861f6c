"""Embeddings of all images of a split, worked out once a frozen tower."""

from __future__ import annotations

import hashlib
import pickle
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from vae_lightning.core import ImageTextModel, image_of
from vae_lightning.data import Images
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
def embedded(model: ImageTextModel, images: Images, folder: Path, batch_size: int = 512) -> Tensor:
    """The embedding of each image, (N, E) on the CPU: from folder/embeddings/<weights>-<images>.pt, where these very
    weights have embedded these very images before, else worked out and, where the folder can be written, kept there.

    Args:
        model: in evaluation mode, on any device.
        images: N of them.
        folder: of the model's run.
        batch_size: images at a time.
    """
    file = folder / "embeddings" / f"{digest(model)}-{sha256(images)}.pt"
    if file.is_file():
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
        write_atomically(file, lambda stream: torch.save(found, stream))
    return found
