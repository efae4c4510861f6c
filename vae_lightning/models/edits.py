"""What a text-to-image model does with images that it is given: variations, interpolations and edits by text
(Ramesh et al. 2022, section 3). All of them hold an image as two vectors, its embedding and the noise from which the
decoder makes its latent again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from vae_lightning.conditionals import Diffusion
from vae_lightning.core import FromPrior, Given, centre, traced
from vae_lightning.models.frozen_site import FrozenSite
from vae_lightning.models.unclip import UnCLIP


class Held(NamedTuple):
    """B images as the decoder holds them."""

    embedding: Tensor  # (B, E), unit vectors
    noise: Tensor  # (B, *latent)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """From one vector (..., E) to another along the great circle, the lengths along the line between theirs; of
    opposite vectors, which no circle joins alone, along the line."""
    cosine = F.cosine_similarity(start, end, dim=-1, eps=1e-12).clamp(-1, 1)[..., None]
    angle, sine = cosine.acos(), (1 - cosine**2).sqrt()
    flat = sine < 1e-4
    sine = sine.where(~flat, 1)
    first = ((1 - share) * angle).sin().div(sine).where(~flat, 1 - share)
    last = (share * angle).sin().div(sine).where(~flat, share)
    lengths = [vector.norm(dim=-1, keepdim=True) for vector in (start, end)]
    units = [vector / length.clamp_min(1e-12) for vector, length in zip((start, end), lengths, strict=True)]
    return (first * units[0] + last * units[1]) * ((1 - share) * lengths[0] + share * lengths[1])


def decoder_of(model: UnCLIP) -> Diffusion:
    """The decoder, if noise can be found again that it makes a latent of; else ValueError."""
    decoder = model.decoder.part if isinstance(model.decoder, FrozenSite) else model.decoder
    if not isinstance(decoder, Diffusion):
        raise ValueError(
            "expected a text-to-image model whose decoder is a diffusion, got "
            f"{'none' if decoder is None else type(decoder).__name__}: train that stage "
            "(configs/text2image/mnist/decoder.yaml)."
        )
    return decoder


@torch.no_grad()
def held(model: UnCLIP, image: Tensor) -> Held:
    """Images (B, C, H, W) by their embedding and, of the mean of the VAE's posterior, the noise."""
    decoder = decoder_of(model)
    embedding = model.clip.embed_image(image)
    site = next(iter(traced(model.vae.about({"image": image}), image).sites.values()))
    return Held(embedding, decoder({"embedding": embedding}).invert(centre(site.q)))


@torch.no_grad()
def shown(model: UnCLIP, images: Held) -> Distribution:
    """p(x|z) of what is held, batch_shape (B,)."""
    z = decoder_of(model)({"embedding": images.embedding}).from_noise(images.noise)
    return model(Given({"embedding": images.embedding, model.latent_name: z}), {})


@torch.no_grad()
def variations(model: UnCLIP, image: Tensor, num_samples: int) -> Distribution:
    """p(x|z) of other images with the embeddings of these (B, C, H, W): batch_shape (num_samples, B)."""
    decoder_of(model)
    embedding = model.clip.embed_image(image).expand(num_samples, -1, -1)
    return model(Given({"embedding": embedding}, FromPrior(embedding.shape[:-1])), {})


def interpolated(model: UnCLIP, start: Tensor, end: Tensor, steps: int) -> Distribution:
    """p(x|z) along the way from one image (C, H, W) to another, both ends included: batch_shape (steps,)."""
    ends = held(model, torch.stack((start, end)))
    share = torch.linspace(0, 1, steps).to(start)
    embedding = slerp(ends.embedding[0], ends.embedding[1], share[:, None])
    noise = slerp(ends.noise[0].flatten(), ends.noise[1].flatten(), share[:, None])
    return shown(model, Held(embedding, noise.view(steps, *ends.noise.shape[1:])))


def edited(model: UnCLIP, image: Tensor, before: Tensor, after: Tensor, strengths: Tensor) -> Distribution:
    """p(x|z) of an image (C, H, W) as the difference of two texts (T,) has it changed, from the image's own noise: its
    embedding goes towards the difference of theirs by shares (S,) of the way; batch_shape (S,)."""
    image_held = held(model, image[None])
    texts = model.clip.embed_text(torch.stack((before, after)))
    difference = F.normalize(texts[1] - texts[0], dim=-1)
    embedding = slerp(image_held.embedding[0], difference, strengths[:, None])
    return shown(model, Held(embedding, image_held.noise.expand(len(strengths), *image_held.noise.shape[1:])))
