"""The class as a latent, which some training images tell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from vae_lightning.conditionals import ClassifierFactory, ClassPosterior, class_distribution
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story, Trace, image_of, traced
from vae_lightning.models.two_stage import TwoStageVAE


class SemiSupervisedVAE(LatentModel):
    """y ~ even over the classes, then the story of a model that is told y: z ~ p(z) or p(z|y), x ~ p(x|z, y), with
    q(y|x) from a classifier and q(z|x, y) (Kingma et al. 2014, model M2). An image's label is inferred, whether it is
    known or not: its density is p(x). Without an image, a label that is given is the class of what is generated.

    Args:
        spec: of the images, with their classes.
        conditional: spec -> the model of images by class, such as a `VAE` of `LabelledEncoder`, `LabelledLikelihood`
            and either prior; or a `TwoStageVAE`, which makes M1 followed by M2.
        classifier: spec -> q(y|x) given the image scaled to [0, 1], over y (1,) int64. Of a `TwoStageVAE` it is told
            the image's code (1, 1, d) in the image's place.

    Raises:
        ValueError: data without classes, or a model whose images do not hang on the class.
    """

    logits: Tensor

    def __init__(
        self,
        spec: Spec,
        conditional: Callable[[Spec], LatentModel],
        classifier: ClassifierFactory = ClassPosterior,
    ) -> None:
        super().__init__()
        self.classes, self.levels = spec.require_classes("SemiSupervisedVAE"), spec.levels
        self.conditional = conditional(spec)
        if not self.conditional.is_conditional:
            raise ValueError(
                "SemiSupervisedVAE.conditional: expected a model of images by class, got "
                f"{type(self.conditional).__name__} whose density is told none: give it a LabelledLikelihood or a "
                "LabelledGaussian prior, and a TwoStageVAE a LabelledEncoder as its decoder."
            )
        self.classifier = classifier(self.conditional.code_spec if isinstance(self.conditional, TwoStageVAE) else spec)
        self.register_buffer("logits", torch.zeros(self.classes), persistent=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """Nothing: a label that is not told is inferred."""
        return tuple(name for name in self.conditional.needs if name != "label")

    @property
    def generates_by_class(self) -> bool:
        return True

    def about(self, given: Batch) -> Story:
        q = class_distribution(self.class_log_prob(given)) if "image" in given else None
        asked = given.get("label") if q is None else None

        def story(draw: Draw) -> Distribution:
            y = draw("y", p=class_distribution(self.logits), q=q)[..., 0] if asked is None else asked
            return self.conditional.about({**given, "label": y})(draw)

        return story

    def class_log_prob(self, given: Batch) -> Tensor:
        """log q(y|x) of every class, (B, classes); labels in the batch are not looked at."""
        found = self.classifier(self._seen(given))
        assert isinstance(found.base_dist, Categorical)
        return found.base_dist.logits[..., 0, :]

    def _seen(self, given: Batch) -> Tensor:
        """What the classifier is told of the images."""
        image = image_of(given)
        if isinstance(self.conditional, TwoStageVAE):
            return self.conditional.code(given)
        return image if self.levels == 2 else image / (self.levels - 1)

    def by_class(self, given: Batch) -> Trace:
        """The story of the images under each class in turn: its scores and log weights have the shape (classes, B), and
        lack log p(y)."""
        image = image_of(given)
        label = torch.arange(self.classes, device=image.device)[:, None].expand(-1, len(image))
        return traced(self.conditional.about({**given, "label": label}), image)

    def log_p_y(self) -> Tensor:
        """log p(y) of every class, nats, (classes,): the same for each."""
        return self.logits.log_softmax(-1)

    def init_from_data(self, batch: Batch) -> None:
        if not isinstance(self.conditional, TwoStageVAE):
            self.classifier.init_from_data(image_of(batch))
        self.conditional.init_from_data(batch)
