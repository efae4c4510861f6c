"""What is trained, and what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.core.data import Batch, without_image
from vae_lightning.core.draws import FromPrior, traced
from vae_lightning.core.story import Conditional, Draw, Story, Trace


class Model(nn.Module, ABC):
    """Anything that is trained. It promises no latents: a dual encoder has none."""

    def init_from_data(self, batch: Batch) -> None:
        """Sets what is better set from training images than at random. Does nothing by default."""
        return

    @property
    def needs(self) -> tuple[str, ...]:
        """What it must be told of a batch beside the images: ("label",) where any of its conditionals needs that."""
        parts = (part for part in self.modules() if isinstance(part, Conditional))
        return tuple(sorted({name for part in parts for name in part.needs}))


class LatentModel(Model):
    """A generative story over latents and an image."""

    @abstractmethod
    def about(self, given: Batch) -> Story:
        """The story about what is given: encoders run here, once, and the story may be told many times."""

    @property
    def is_conditional(self) -> bool:
        """Whether its density is p(x|y); labels that an encoder alone is told leave it p(x)."""
        return bool(self.needs)

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
        if "image" not in given:
            raise ValueError(f"expected an image in the batch, got {', '.join(given) or 'an empty one'}.")
        return traced(self.about(given), given["image"], num_samples, instead, until)

    def sample(self, given: Batch, num_samples: int | None = None) -> Distribution:
        """p(x|z) for latents drawn from the prior: batch_shape (K,), and (K, B) where B labels are given."""
        given = without_image(given)
        lead = () if num_samples is None else (num_samples,)
        batch = next((value.shape[:1] for value in given.values()), ())
        return self(FromPrior((*lead, *batch)), given)


@dataclass(frozen=True)
class Loss:
    value: Tensor  # (), minimised
    logs: dict[str, Tensor]  # {name: ()}


class Objective(nn.Module, ABC):
    """What training minimises: a pure function of the model, the batch and the step."""

    @abstractmethod
    def forward(self, model: Model, batch: Batch, step: int) -> Loss: ...

    def check(self, model: Model, batch: Batch) -> None:
        """Called once before training with a few images; raises ValueError for a pair without sense."""
        return

    @property
    def last_scheduled_step(self) -> int:
        """The step after which the objective stays as it is; 0 without a schedule."""
        return 0
