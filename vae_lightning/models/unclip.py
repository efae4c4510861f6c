"""From text to image: the story text -> embedding -> latent -> image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals import Diffusion, SiteDensity, SiteFactory
from vae_lightning.core import Batch, Delta, Draw, ImageTextModel, LatentModel, Site, Spec, Story, rows, seeded, traced
from vae_lightning.models.frozen import Frozen, FrozenImageText
from vae_lightning.models.pixels import Pixels

CHUNK = 500
"""Images that are embedded at a time when the densities are fitted."""


class UnCLIP(LatentModel):
    """embedding ~ p(embedding | text), z ~ p(z | embedding, text), x ~ p(x | z) (Ramesh et al. 2022, section 2), with
    the text told as its embedding.

    A frozen image-text model gives the embeddings: that of the image is the posterior of the site "embedding", a point
    mass. A frozen VAE gives the posterior of its latent, under its own name ("z"), and the images' density: its story
    is told with the decoder in the place of its prior. `SiteNLL` trains prior and decoder, each at its own site and
    from the image's own embedding. Text and image may be missing: without text the densities are those of no condition.

    Args:
        spec: of the images, with their text.
        clip: the image-text model.
        vae: the VAE whose latent is decoded into; it tells a story of one latent and needs no labels. Null for the
            pixels themselves, a map (C, H, W), which wants a decoder for maps.
        prior: (embedding's shape, {"text": E}) -> p(embedding | text).
        decoder: (latent's shape, {"embedding": E, "text": E}) -> p(z | embedding, text); null for the VAE's own prior,
            which knows of neither, while the prior alone is trained.

    Raises:
        ValueError: the two parts have seen other images than these, or the VAE is told labels or has more latents.
    """

    def __init__(
        self,
        spec: Spec,
        clip: FrozenImageText,
        vae: Frozen | None,
        prior: SiteFactory = Diffusion,
        decoder: SiteFactory | None = Diffusion,
    ) -> None:
        super().__init__()
        for name, part in (("clip", clip), ("vae", vae)):
            if part is not None and (part.spec.image_shape, part.spec.levels) != (tuple(spec.image_shape), spec.levels):
                raise ValueError(
                    f"UnCLIP.{name}: expected a run of images of shape {tuple(spec.image_shape)} with {spec.levels} "
                    f"levels, got one of {part.spec.image_shape} with {part.spec.levels}: choose another."
                )
        if clip.spec.text != spec.text:
            raise ValueError(
                "UnCLIP.clip: expected data whose captions have the tokens that it was trained with, got others: take "
                "its data's settings, data.text among them."
            )
        pixels = Pixels(spec)
        self.clip = clip
        self.vae: LatentModel = pixels if vae is None else vae
        embedding, site = self._shapes(spec, pixels if vae is None else vae.model)
        self.latent_name = site.name
        self.prior = prior((embedding,), {"text": embedding})
        self.decoder: SiteDensity | None = None
        if decoder is not None:
            self.decoder = decoder(site.q.event_shape, {"embedding": embedding, "text": embedding})

    def _shapes(self, spec: Spec, vae: LatentModel) -> tuple[int, Site]:
        """E and the VAE's site, of a blank image; the parts may wait for their weights."""
        if needs := vae.needs:
            raise ValueError(f"UnCLIP.vae: expected one that is told nothing, got one told {needs[0]}s.")
        blank = torch.zeros(1, *spec.image_shape)
        with torch.no_grad(), seeded(None):
            sites = traced(vae.about({"image": blank}), blank).sites
            embedding = self.clip.model.embed_image(blank).shape[-1]
        if len(sites) != 1 or "embedding" in sites:
            raise ValueError(f"UnCLIP.vae: expected a story of one latent, such as z, got {', '.join(sites)}.")
        return embedding, next(iter(sites.values()))

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def embedder(self) -> tuple[ImageTextModel, str | None]:
        return self.clip.model, self.clip.run

    def told(self, given: Batch) -> dict[str, Tensor]:
        """{"text": (B, E)}, the texts' embeddings; {} where no text is given."""
        return {"text": self.clip.embed_text(given["text"])} if "text" in given else {}

    def about(self, given: Batch) -> Story:
        told, render = self.told(given), self.vae.about(given)
        q = Delta(self._embedding(given)) if "image" in given else None

        def story(draw: Draw) -> Distribution:
            embedding = draw("embedding", p=self.prior(told), q=q)

            def decoded(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
                return draw(name, p if self.decoder is None else self.decoder({"embedding": embedding, **told}), q)

            return render(decoded)

        return story

    def _embedding(self, given: Batch) -> Tensor:
        """Of the images, (B, E): worked out before, where training gives it, else now."""
        return given["embedding"] if "embedding" in given else self.clip.embed_image(given["image"])

    @torch.no_grad()
    def init_from_data(self, batch: Batch) -> None:
        """Fits the densities' standardisations to the posteriors' draws for training images."""
        found: list[Mapping[str, Tensor]] = []
        for first in range(0, len(batch["image"]), CHUNK):
            some = rows(batch, slice(first, first + CHUNK))
            image = some["image"]
            latent = next(iter(traced(self.vae.about({"image": image}), image).sites.values())).z
            found.append({"embedding": self._embedding(some), "latent": latent, **self.told(some)})
        data = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        latent = data.pop("latent")
        if self.decoder is not None:
            self.decoder.fit(latent, data)
        self.prior.fit(data.pop("embedding"), data)
