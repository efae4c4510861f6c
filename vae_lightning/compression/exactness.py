"""What makes networks say the same numbers, bit for bit, to the encoder and to the decoder; which model wrote a file,
and whether this machine computes the numbers that the writer's did."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core import Batch, LatentModel
from vae_lightning.distributions import AutoregressiveCategorical, AutoregressiveMixture, Codes

SPREAD = 3.0
"""The made-up latents lie within this of zero."""


def batch_of(
    model: LatentModel, images: Tensor, device: torch.device, others: Batch | None = None
) -> dict[str, Tensor]:
    """What the model is given, of the type of its weights: made anew, so that even the memory's alignment and order
    are the same for the encoder and the decoder. ValueError for weights of half precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected a model with weights of float32 or float64, got {dtype}: give it by .float().")
    return {
        **copied(others or {}, device),
        "image": images.to(device).to(dtype, copy=True, memory_format=torch.contiguous_format),
    }


def copied(others: Batch, device: torch.device) -> dict[str, Tensor]:
    """What else is given of images, made anew on the device."""
    return {name: value.to(device, copy=True) for name, value in others.items()}


def made_up_labels(model: LatentModel, size: int, classes: int) -> dict[str, Tensor]:
    """Labels of `size` images, one class after the other, for a model that needs labels; else nothing."""
    return {"label": torch.arange(size) % max(1, classes)} if "label" in model.needs else {}


@contextmanager
def exactly(model: LatentModel) -> Iterator[None]:
    """Evaluation mode, no gradients, and the same algorithms for the same shapes; the modes as they were afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    cudnn = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True)
    try:
        with torch.inference_mode(), cudnn:
            yield
    finally:
        for module in training:
            module.training = True


def model_hash(model: LatentModel, image_shape: Sequence[int], levels: int) -> str:
    """SHA-256 of the names, types, shapes and bytes of all weights, in order, and of the images' shape and levels."""
    digest = hashlib.sha256(json.dumps([list(image_shape), levels]).encode())
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
            digest.update(_bytes(value))
    return digest.hexdigest()


def probe(
    model: LatentModel,
    image_shape: Sequence[int],
    levels: int,
    sizes: Sequence[int],
    device: torch.device,
    classes: int = 0,
) -> str:
    """SHA-256 of every parameter of every distribution that the story makes of made-up images and latents, for each
    size of batch. A code can be read only where these are the same to the last bit: another torch, another number of
    threads, other vector instructions or another device may sum in another order.

    Args:
        model: on the device.
        image_shape: (C, H, W).
        levels: images hold the integers 0..levels-1.
        sizes: how many images a batch has, in the order in which they are tried.
        device: where the model is.
        classes: how many there are, for a model that needs labels.
    """
    digest = hashlib.sha256()
    raw = np.random.PCG64(0)  # whose stream is the same everywhere

    def draw(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
        for value in (*_tensors(q), *_tensors(p)):
            digest.update(_bytes(value))
        shape = (size, *p.event_shape)
        unit = (raw.random_raw(math.prod(shape)) >> 40) / 2.0**23 - 1
        z = torch.from_numpy((SPREAD * unit).astype(np.float32).reshape(shape)).to(device, dtype)
        for value in _parameters_given(p, z):
            digest.update(_bytes(value))
        return z

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    with exactly(model):
        for size in sizes:
            shape = (size, *image_shape)
            image = (raw.random_raw(math.prod(shape)) % levels).astype(np.float32).reshape(shape)
            labels = copied(made_up_labels(model, size, classes), device)
            given = {**labels, "image": torch.from_numpy(image).to(device, dtype)}
            for value in _tensors(model(draw, given)):
                digest.update(_bytes(value))
    return digest.hexdigest()


def _tensors(found: Any) -> Iterator[Tensor]:
    """Of a distribution and of those it is made of, by the names they are kept under."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _tensors(value)
    elif isinstance(found, Distribution):
        for _, value in sorted(vars(found).items()):
            yield from _tensors(value)


def _parameters_given(p: Distribution, z: Tensor) -> Iterator[Tensor]:
    """The parameters that follow from latents (B, d) in an autoregressive density, in the order and the shapes in which
    its codec computes them; of another density none."""
    if isinstance(p, AutoregressiveMixture):
        for i in range(p.event_shape[0]):
            yield from p.parameters(z, i)
    elif isinstance(p, Codes) and isinstance(p.of_indices, AutoregressiveCategorical):
        step, before = p.of_indices.begin(z.shape[:-1]), None
        for index in p.indices_of(z).unbind(-1):
            yield step(before)
            before = index


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
