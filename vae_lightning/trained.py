"""A trained model for any script: rebuilt from a checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals import CodeTransformer
from vae_lightning.core import Batch, FromPrior, Given, LatentModel, PosteriorMean, Spec, Trace, seeded
from vae_lightning.distributions import Choice
from vae_lightning.metrics import log_prob
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.models import UnCLIP
from vae_lightning.models.build import spec_of, trained
from vae_lightning.models.edits import decoder_of
from vae_lightning.tokens import Tokens


class TrainedModel(nn.Module):
    """A trained model for any script. Images are integers 0..levels-1, (B, C, H, W), of any dtype; densities are in
    nats per image. A model that needs labels is told them too, (B,) integers, the classes' numbers in `spec.classes`;
    one that needs none leaves those of its images out.

    The methods compute no gradients; `latent_model` is the module itself for those who want them.
    """

    def __init__(self, latent_model: LatentModel, spec: Spec) -> None:
        super().__init__()
        self.latent_model, self.spec = latent_model, spec

    def _given(self, x: Tensor, label: Tensor | None = None) -> Batch:
        """Raises ValueError for images of another shape or range, and for labels that are not theirs."""
        if tuple(x.shape[1:]) != self.spec.image_shape or not len(x):
            raise ValueError(
                f"expected images of shape (B, {', '.join(map(str, self.spec.image_shape))}), got {tuple(x.shape)}."
            )
        x = x.to(self.device)
        integer = torch.uint8 if self.spec.levels <= 256 else torch.int32
        whole = x.to(integer)  # a comparison with this finds fractions, nan, and what is beyond its range
        beyond = whole.min() < 0 or whole.max() > self.spec.levels - 1
        if (x.dtype != integer and not torch.equal(x, whole.to(x.dtype))) or beyond:
            raise ValueError(
                f"expected images that hold the integers 0..{self.spec.levels - 1}, got values between "
                f"{x.min().item():g} and {x.max().item():g}: scale them to that range and round."
            )
        return {"image": x.to(self._dtype), **self._labelled(label, len(x))}

    def _labelled(self, label: Tensor | None, count: int | None = None) -> dict[str, Tensor]:
        if label is None or not ("label" in self.latent_model.needs or self.latent_model.generates_by_class):
            return {}
        known = len(self.spec.classes) if self.spec.classes else torch.iinfo(torch.long).max  # not named by the source
        try:
            label = torch.as_tensor(label).to(self.device)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"label: expected integers 0..{known - 1}, one an image, got {label!r}.") from None
        good = label.dim() == 1 and len(label) == (count or len(label)) and not label.is_floating_point()
        if not good or not len(label) or label.min() < 0 or label.max() >= known:
            raise ValueError(
                f"label: expected a vector of integers 0..{known - 1}, one an image, got "
                f"{label.flatten()[:8].tolist()} of shape {tuple(label.shape)}: give the classes' numbers."
            )
        return {"label": label.long()}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        dtype = next(self.parameters()).dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"expected weights of float32 or float64, got {dtype}: use torch.autocast in its place.")
        return dtype

    @torch.no_grad()
    def encode(self, x: Tensor, label: Tensor | None = None) -> dict[str, Distribution]:
        """q(z|x) of each latent by its name, batch_shape (B,), given the centres of the latents before it."""
        return self.latent_model.posteriors(self._given(x, label))

    @torch.no_grad()
    def decode(self, z: Tensor | Mapping[str, Tensor], label: Tensor | None = None) -> Distribution:
        """p(x|z) for z (*S, d), or latents by their names: batch_shape S, over integer images. A z alone is the story's
        first latent; latents that are not given are drawn from their priors."""
        values = z if isinstance(z, Mapping) else {next(iter(self._blank_story.sites)): z}
        known = self._blank_story.sites
        if not values or not values.keys() <= known.keys():
            raise ValueError(f"z: expected latents among {', '.join(known)}, got {', '.join(values) or 'none'}.")
        values = {
            name: value.to(self.device, self._dtype if value.is_floating_point() else None)
            for name, value in values.items()
        }
        name, value = next(iter(values.items()))
        lead = value.shape[: value.dim() - len(known[name].q.event_shape)]
        told = self._labelled(label)
        if lead:  # one label for all of them: each has draws of its own of the other latents
            told = {name: it.expand(lead[-1]) if len(it) == 1 else it for name, it in told.items()}
        return self.latent_model(Given(values, FromPrior(tuple(lead))), told)

    @torch.no_grad()
    def sample(self, num_samples: int, label: Tensor | None = None) -> Distribution:
        """p(x|z) for z from the prior, batch_shape (num_samples,), or (num_samples, B) for B labels: `.mean` the
        expected image, `.sample()` draws one.

        Raises:
            ValueError: the model is an autoencoder, whose codes follow no prior; or it needs labels and got none, or
                takes none and got some.
        """
        if label is not None:
            self.require_by_class()
        if num_samples < 1:
            raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
        if not self.latent_model.generates(self._blank_story):
            raise ValueError(
                "expected a model with a prior that its codes follow, got an autoencoder (point-mass posterior), which "
                "cannot be sampled: train a VAE (encoder GaussianPosterior, objective ELBO), or fit a prior to its "
                "codes (configs/experiment/digits_autoencoder_second_stage.yaml)."
            )
        return self.latent_model.sample(self._labelled(label), num_samples)

    def choose_codes(self, choice: Choice) -> None:
        """Has an autoregressive prior of codes draw each by its temperature, top_k and top_p, from here on: its
        probabilities, and the bound, are then those of what it draws. `Choice()` for what was learned.

        Raises:
            ValueError: the model has no such prior.
        """
        found = [part for part in self.latent_model.modules() if isinstance(part, CodeTransformer)]
        if not found:
            raise ValueError(
                "temperature, top_k, top_p: expected a model whose prior is a CodeTransformer, got another: leave them "
                "out, or train such a model (configs/experiment/digits_vq.yaml)."
            )
        for part in found:
            part.choice = choice

    def require_by_class(self) -> None:
        """Raises ValueError for a model that does not generate by class."""
        if not self.latent_model.generates_by_class:
            raise ValueError(
                "label: expected none, since this model does not generate by class, got one: leave it out, or train a "
                "model that does (configs/prior/labelled.yaml, configs/likelihood/labelled.yaml)."
            )

    @property
    def text_to_image(self) -> UnCLIP:
        """The model, if it makes images of texts; else ValueError."""
        if not isinstance(self.latent_model, UnCLIP):
            raise ValueError(
                f"expected a text-to-image model, got {type(self.latent_model).__name__}: train one (make "
                "text2image-digits, or configs/text2image)."
            )
        return self.latent_model

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """(B, T) int64 of captions; ValueError for a word that no training caption has, with the nearest ones."""
        return Tokens(self.spec.require_text("captions")).encode(captions).to(self.device)

    @torch.no_grad()
    def generate(self, text: str | Sequence[str], num_samples: int, draw: bool = False) -> Tensor:
        """Images (texts, num_samples, C, H, W) of what texts say: the mean of p(x|z), or a draw of integers.

        Raises:
            ValueError: the model makes no images of texts, has no decoder yet, or does not know a word.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
        captions = [text] if isinstance(text, str) else list(text)
        decoder_of(model := self.text_to_image)
        px = model.sample({"text": self.tokens(captions)}, num_samples)
        return (px.sample() if draw else px.mean).transpose(0, 1)

    @property
    def is_autoencoder(self) -> bool:
        """Whether the posterior is a point mass."""
        return not self._blank_story.has_rate

    @cached_property
    @torch.no_grad()
    def _blank_story(self) -> Trace:
        with seeded(None, self.device):
            blank = torch.zeros(1, *self.spec.image_shape, device=self.device, dtype=self._dtype)
            return self.latent_model.trace({"image": blank, **self._labelled(torch.zeros(1, dtype=torch.long))})

    @torch.no_grad()
    def reconstruct(self, x: Tensor, label: Tensor | None = None) -> Distribution:
        """p(x|z) at the posterior's mean (a flow's centre), batch_shape (B,)."""
        return self.latent_model(PosteriorMean(), self._given(x, label))

    @torch.no_grad()
    def elbo(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The evidence lower bound of each image by one posterior sample, (B,); -inf for an autoencoder."""
        scores = self.latent_model.trace(self._given(x, label)).scores()
        return scores.get("elbo", torch.full_like(scores["distortion"], -torch.inf))

    @torch.no_grad()
    def log_prob(self, x: Tensor, num_samples: int = 1000, refinement: int = 0, label: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x|y) with labels, of each image by `num_samples` importance samples, (B,), from the
        encoder's posterior or, with 50 or so gradient steps of `refinement`, from one of the image's own."""
        if refinement < 0:
            raise ValueError(f"refinement: expected a number of steps, or 0 for none, got {refinement}.")
        given = self._given(x, label)
        proposal = refined(self.latent_model, given, refinement).widened() if refinement else None
        return log_prob(self.latent_model, given, num_samples, proposal=proposal)


def load_model(path: str, device: str = "cpu") -> TrainedModel:
    """The trained model of a checkpoint file or a run's folder, in evaluation mode. The checkpoint alone is enough.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the file is no checkpoint of this project, is damaged, or is of a model without latents.
    """
    latent_model, record, file = trained(path)
    if not isinstance(latent_model, LatentModel):
        raise ValueError(
            f"{file}: expected a model with latents, got {type(latent_model).__name__}, which draws, encodes and "
            "scores no images: rebuild it with vae_lightning.models.build.trained."
        )
    return TrainedModel(latent_model, spec_of(record)).eval().to(device)
