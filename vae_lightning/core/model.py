"""What is trained, and what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.core.data import Batch, image_of, without_image
from vae_lightning.core.draws import FromPrior, PosteriorMean, Recorded, traced
from vae_lightning.core.story import Conditional, Draw, Story, Trace


class Model(nn.Module, ABC):
    """Anything that is trained. It promises no latents: a dual encoder has none."""

    def init_from_data(self, batch: Batch) -> None:
        """Sets what is better set from training images than at random. Does nothing by default."""
        return

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes what the loss of a step found, `Loss.statistics`, into the model's buffers: training calls it once a
        step, and nothing else does. Does nothing by default."""
        return

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of its own parameters, {"params": [...], "lr": ..., "name": ...}, which ask the optimiser for settings
        of their own; those that are in none get the optimiser's. None by default."""
        return []

    @property
    def embedder(self) -> tuple[ImageTextModel, str | None] | None:
        """What embeds each image for it and is never trained, and the run that it is of: training then works out the
        embeddings once and tells them in batches, as "embedding" (B, E). None by default."""
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """What it must be told of a batch beside the images: ("label",) where any of its conditionals needs that."""
        parts = (part for part in self.modules() if isinstance(part, Conditional))
        return tuple(sorted({name for part in parts for name in part.needs}))


@runtime_checkable
class Counting(Protocol):
    """A p(x|z) of which training keeps count, see `LatentModel.statistics`."""

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """Of images (B, C, H, W): name -> (), without gradient."""


@runtime_checkable
class Classifier(Protocol):
    """A model that says which class an image is of."""

    def class_log_prob(self, given: Batch) -> Tensor:
        """log q(y|x) of every class, (B, classes); labels in the batch are not looked at."""


@runtime_checkable
class SumsOutClass(Classifier, Protocol):
    """One whose class is a latent, which can be summed out."""

    def by_class(self, given: Batch) -> Trace:
        """The story of the images under each class in turn, without log p(y): of the shape (classes, B)."""

    def log_p_y(self) -> Tensor:
        """log p(y) of every class, nats, (classes,)."""


class LatentModel(Model):
    """A generative story over latents and an image."""

    @abstractmethod
    def about(self, given: Batch) -> Story:
        """The story about what is given: encoders run here, once, and the story may be told many times."""

    @property
    def is_conditional(self) -> bool:
        """Whether its density is p(x|y); labels that an encoder alone is told leave it p(x)."""
        return bool(self.needs)

    @property
    def generates_by_class(self) -> bool:
        """Whether a label that is given without an image is the class of what is generated."""
        return self.is_conditional and "label" in self.needs

    def generates(self, trace: Trace) -> bool:
        """Whether draws from its priors make images, told a trace of it. By default wherever there is a rate, which
        holds codes and prior together; an autoencoder's codes follow no prior, unless one was fitted to them."""
        return trace.has_rate

    def forward(self, draw: Draw, given: Batch) -> Distribution:
        """Tells the story once: p(x|z), over integer images, with batch_shape S."""
        return self.about(given)(draw)

    def trace(
        self,
        given: Batch,
        num_samples: int | None = None,
        instead: Mapping[str, Distribution] | None = None,
        until: str | None = None,
    ) -> Trace:
        """The story with its latents drawn from their posteriors given the images.

        Args:
            given: a batch with "image" (B, C, H, W).
            num_samples: K draws an image: latents (K, B, *event); None for (B, *event).
            instead: posteriors by their sites' names, in the place of the story's.
            until: the site behind which the story is stopped.

        Raises:
            ValueError: no image, or a name that no latent has.
        """
        image = image_of(given)
        return traced(self.about(given), image, num_samples, instead, until)

    def posteriors(self, given: Batch) -> dict[str, Distribution]:
        """q of each latent by its name, batch_shape (B,), given the centres of the latents before it: an image's code,
        without the noise of a draw."""
        path = Recorded(PosteriorMean())
        self(path, given)
        return {name: site.q for name, site in path.sites.items()}

    def statistics(self, trace: Trace) -> dict[str, Tensor]:
        """What the model keeps count of in training, of a story told there: name -> (), without gradient. Changes
        nothing: an objective puts it into its loss, and training hands it to `observe`. By default what p(x|z) says of
        itself, if it is `Counting`."""
        return trace.px.statistics(trace.x) if isinstance(trace.px, Counting) else {}

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Hands the statistics to every conditional that is being trained."""
        for module in self.modules() if statistics else ():
            if isinstance(module, Conditional) and module.training:
                module.observe(statistics)

    def sample(self, given: Batch, num_samples: int | None = None) -> Distribution:
        """p(x|z) for latents drawn from the prior: batch_shape (K,), and (K, B) where B labels are given."""
        given = without_image(given)
        lead = () if num_samples is None else (num_samples,)
        batch = next((value.shape[:1] for value in given.values()), ())
        return self(FromPrior((*lead, *batch)), given)


class ImageTextModel(Model):
    """Gives images and captions places on one sphere: what belongs together lies close."""

    @abstractmethod
    def embed_image(self, image: Tensor) -> Tensor:
        """(B, C, H, W), integers 0..levels-1 -> (B, E), unit vectors."""

    @abstractmethod
    def embed_text(self, text: Tensor) -> Tensor:
        """(B, T) int64 token ids -> (B, E), unit vectors."""

    @abstractmethod
    def inverse_temperature(self) -> Tensor:
        """What a cosine is multiplied by to be a logit, (), at most 100."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text",)


@dataclass(frozen=True)
class Loss:
    value: Tensor  # (), minimised
    logs: dict[str, Tensor]  # {name: ()}
    statistics: dict[str, Tensor] = field(default_factory=dict)  # {name: ()}, for `observe` of model and objective


class Objective(nn.Module, ABC):
    """What training minimises: a pure function of the model, the batch and the share of the training that is done. One
    that traces a latent model gives `LatentModel.statistics` of the trace with its loss. What it has of its own to keep
    from step to step, such as a weight that follows the rate, changes by `observe` alone."""

    bound_samples = 1
    """Importance samples an image of the bound that it maximises, by which validation chooses among the epochs: 1 for
    the ELBO."""

    @abstractmethod
    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        """The loss at a share of 0.0 .. 1.0, be the training's length given in epochs, steps or time. In a compiled
        training the share comes as a tensor (), which can change without being compiled anew."""

    def begin(self, images: int) -> None:
        """Told how many training images there are, once before training and before `check`. Does nothing by default."""
        return

    def check(self, model: Model, batch: Batch) -> None:
        """Called once before training with a few images; raises ValueError for a pair without sense."""
        return

    def observe(self, statistics: Mapping[str, Tensor]) -> None:
        """Takes what its loss found at a step, `Loss.statistics`, into its own buffers, which checkpoints keep:
        training calls it once a step, after the model's, and nothing else does. Does nothing by default."""
        return

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of its own parameters, {"params": [...], "lr": ..., "name": ...}, which ask the optimiser for settings
        of their own; those that are in none get the optimiser's. None by default."""
        return []
