"""Lossless coding of images with any latent-variable model: bits-back is two draws over an unmodified model.

Encoding pops every latent with its posterior, pushes the image with the likelihood, and pushes the latents with their
priors; decoding is the reverse. What popping takes off the stack is gotten back when the decoder pushes the latents
with their posteriors, so an image costs -log p(x|z) - log p(z) + log q(z|x), minus the ELBO on average (Townsend, Bird
& Barber 2019, "Practical lossless compression with latent variables using bits back coding"; Kingma, Abbeel & Ho 2019,
"Bit-Swap"), on a stack of bits by asymmetric numeral systems (Duda 2013).

All latents of a story are popped before the image is pushed: a story may draw the deepest one first. What Bit-Swap's
order saves of initial bits is saved here by batches that begin with one image and grow as the stack can pay for them.

The decoder must find the encoder's parameters again bit for bit: the same weights, library versions, kind of device
and number of threads. The shapes of the batches are kept with the words, since networks' outputs depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from vae_lightning.compression.codecs import Grid
from vae_lightning.compression.coded import Coded, Settings
from vae_lightning.compression.densities import image_codec
from vae_lightning.compression.draws import Inspect, PopPosterior, PopPrior, Retell, StoryTold
from vae_lightning.compression.exactness import batch_of, copied, exactly, made_up_labels
from vae_lightning.compression.stack import RESERVE, WORD_BITS, Integers, Stack, StackExhaustedError, seeded
from vae_lightning.core import Batch, LatentModel, Shape, rows

FEWEST_WORDS = 4
"""Words of initial bits that are tried first; twice as many where they are too few."""
SAFETY = 1.2
"""A batch is as large as the stack can pay for, were each image this much dearer than those before."""
Progress = Callable[[int, float], None]


def encode(
    model: LatentModel,
    images: Tensor,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    progress: Progress | None = None,
    others: Batch | None = None,
) -> Coded:
    """Codes images (N, C, H, W) of integers 0..levels-1, uint8, with a model that is on `device`.

    Args:
        model: any LatentModel whose densities have codecs.
        images: at least one.
        settings: of the coder.
        device: where the networks run.
        progress: called after each batch with the images done and the net bits so far.
        others: what else the model is told of each image, such as "label" (N,); the decoder needs the same.

    Raises:
        ValueError: the model has no codec for a density, its parameters are not finite, or the images are not such.
    """
    _require_images(images)
    with exactly(model):
        num_words = FEWEST_WORDS
        while True:
            try:
                return _encode(model, images, others or {}, settings, num_words, device, progress)
            except StackExhaustedError:
                num_words *= 2


def decode(
    model: LatentModel,
    coded: Coded,
    image_shape: Shape,
    device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    progress: Progress | None = None,
    others: Batch | None = None,
) -> Tensor:
    """The images (N, C, H, W) uint8 that `encode` coded with the same model.

    The stack must end as the words that it was seeded with: other words, another model or other parameters pass that
    check by a chance of 2^-initial_bits.

    Args:
        model: the model they were coded with, on `device`.
        coded: from `encode`.
        image_shape: (C, H, W).
        device: where the networks run, the same kind as in encoding.
        progress: called after each batch with the images done and the net bits so far.
        others: what else `encode` was told of each image, in the order of the images.

    Raises:
        ValueError: the words do not decode with this model.
    """
    layout, settings = coded.layout, coded.settings
    if any(size < 1 or size > settings.batch_size for size in layout) or coded.initial_bits < FEWEST_WORDS * WORD_BITS:
        raise ValueError(
            f"expected batches of 1 to {settings.batch_size} images and {FEWEST_WORDS * WORD_BITS} or more initial "
            f"bits, got {layout} and {coded.initial_bits}: give them as they were coded."
        )
    stack = Stack(coded.words)
    images = torch.empty(sum(layout), *image_shape, dtype=torch.uint8)
    left = len(images)
    with exactly(model):
        for size in reversed(layout):
            part = rows(others or {}, slice(left - size, left))
            try:
                images[left - size : left] = _pop_batch(stack, model, (size, *image_shape), part, settings.grid, device)
            except StackExhaustedError as error:
                raise _undecodable("the bits ended before the images did") from error
            left -= size
            if progress is not None:
                progress(len(images) - left, coded.gross_bits - stack.num_bits)
    if stack.num_bits != coded.initial_bits or not np.array_equal(
        stack.words(), seeded(coded.initial_bits // WORD_BITS, settings.seed)
    ):
        raise _undecodable("what is left is not the initial bits")
    return images


def require_codable(model: LatentModel, image_shape: Shape, levels: int) -> None:
    """Raises ValueError, with the reason, for a model that cannot code images: by one story about one black image."""
    with exactly(model):
        inspect = Inspect(Settings().grid)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        blank = torch.zeros(1, *image_shape, dtype=torch.uint8)
        px = model(inspect, batch_of(model, blank, device, made_up_labels(model, 1, 1)))
        codec = image_codec(px)
    if codec.levels != levels or tuple(px.event_shape) != tuple(image_shape):
        raise ValueError(
            f"expected a likelihood over images of shape {tuple(image_shape)} with {levels} levels, got one over "
            f"{tuple(px.event_shape)} with {codec.levels}: code the images that the model was trained for."
        )


def _encode(
    model: LatentModel,
    images: Tensor,
    others: Batch,
    settings: Settings,
    num_words: int,
    device: torch.device,
    progress: Progress | None,
) -> Coded:
    stack, layout = Stack(seeded(num_words, settings.seed)), []
    done, size = 0, 1
    initial_bits = stack.num_bits
    while done < len(images):
        size = min(size, len(images) - done, settings.batch_size)
        copy, part = stack.copy(), slice(done, done + size)
        try:
            taken = _push_batch(stack, model, images[part], rows(others, part), settings.grid, device)
        except StackExhaustedError:
            if size == 1:
                raise
            stack, size = copy, size // 2
            continue
        layout.append(size)
        done += size
        if progress is not None:
            progress(done, stack.num_bits - initial_bits)
        affordable = stack.num_bits - WORD_BITS * (RESERVE + 1)
        size = max(1, int(affordable * size / (SAFETY * (taken + WORD_BITS))))
    return Coded(stack.words(), tuple(layout), initial_bits, settings)


def _push_batch(
    stack: Stack, model: LatentModel, images: Tensor, others: Batch, grid: Grid, device: torch.device
) -> int:
    """Pushes images (B, C, H, W); how many bits its latents took."""
    before = stack.num_bits
    draw = PopPosterior(stack, grid)
    px = model(draw, batch_of(model, images, device, others))
    taken = before - stack.num_bits
    codec = image_codec(px)
    symbols = images.numpy().astype(np.int32).ravel()
    if symbols.max() >= codec.levels:
        raise ValueError(
            f"expected images of the model's {codec.levels} levels, 0..{codec.levels - 1}, got {symbols.max()}: "
            "code the images that the model was trained for."
        )
    codec.push(stack, symbols)
    draw.push()
    return taken


def _pop_batch(
    stack: Stack, model: LatentModel, shape: Shape, others: Batch, grid: Grid, device: torch.device
) -> Tensor:
    """The inverse of `_push_batch`: images (B, C, H, W)."""
    draw = PopPrior(stack, grid, shape[0])
    images = _images(image_codec(model(draw, copied(others, device))).pop(stack), shape)
    retell = Retell(stack, grid, draw.latents)
    with suppress(StoryTold):
        model(retell, batch_of(model, images, device, others))
    retell.push()
    return images


def _images(symbols: Integers, shape: Shape) -> Tensor:
    return torch.from_numpy(symbols).to(torch.uint8).view(shape)


def _require_images(images: Tensor) -> None:
    if images.dim() != 4 or images.dtype != torch.uint8 or images.device.type != "cpu" or not images.numel():
        raise ValueError(
            f"expected images (N, C, H, W) of integers, uint8, on the CPU, at least one, got {images.dtype} of shape "
            f"{tuple(images.shape)} on {images.device}: give the integers 0..levels-1 by .to(torch.uint8).cpu()."
        )


def _undecodable(reason: str) -> ValueError:
    return ValueError(
        f"the words do not decode: {reason}. Expected the words as they were coded, and the model that coded them "
        "with the same library versions, kind of device and number of threads."
    )
