"""Trained runs as parts of the next: frozen, and inside the checkpoint of what they are a part of.

In a configuration a part names its run; the command line writes what that run's checkpoint says of its model beside the
name, as `record`, and the weights go into the new checkpoint's own. Once they are there, the run is not opened again.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.core import (
    Batch,
    Conditional,
    ImageTextModel,
    LatentModel,
    Model,
    Shape,
    Spec,
    Story,
    Trace,
    seeded,
)
from vae_lightning.models.build import build, spec_of, trained

Self = TypeVar("Self", bound="FromRun")
Whole = TypeVar("Whole", bound="FrozenWhole")


def require_run(part: str, run: str, error: FileNotFoundError) -> str:
    """What to say of a part whose run is not there."""
    return (
        f"{part}: expected the trained run {run}, whose weights a new training begins with, got none ({error}) Train "
        f"it first, or say where it is now by the setting `run` of {part}, its place in the configuration in front. A "
        "run that was trained with it holds its weights already: go on with that by --ckpt_path."
    )


class FromRun(nn.Module):
    """Something of a trained run: always in evaluation mode, without gradients of its own weights, though they pass
    through it to what it is told."""

    has_weights: bool

    def _open(self, run: str, record: str | None) -> tuple[Model, Spec]:
        """The run's model and its data: with its weights from the run's checkpoint, or built by the record alone, to
        take the weights from the checkpoint that it is a part of."""
        self.has_weights = record is None
        with seeded(None):
            model, said = self._trained(run) if record is None else (build(json.loads(record)), json.loads(record))
        return model, spec_of(said)

    def _trained(self, run: str) -> tuple[Model, dict[str, Any]]:
        try:
            return trained(run)[:2]
        except FileNotFoundError as error:
            raise FileNotFoundError(require_run(type(self).__name__, run, error)) from None

    def _freeze(self) -> None:
        self.requires_grad_(False)
        self.train(False)
        self.register_load_state_dict_post_hook(_loaded)

    def train(self: Self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)

    def _require_weights(self) -> None:
        if not self.has_weights:
            raise ValueError(
                f"{type(self).__name__}: expected its weights from the checkpoint that it is a part of, got none: load "
                "that first, or leave `record` out, so that they are read from `run`."
            )


def _loaded(module: nn.Module, _: object) -> None:
    cast(FromRun, module).has_weights = True


class FrozenWhole(FromRun):
    """A trained run's whole model.

    Args:
        run: checkpoint file or run folder.
        record: what the run's checkpoint says of its model, as JSON: the command line fills it in, and what was
            trained once is rebuilt by it, wherever the run has gone.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: it is of a model of another kind.
    """

    kind: type[Model]
    """What the run's model must be."""

    def __init__(self, run: str, record: str | None = None) -> None:
        super().__init__()
        self.model, self.spec = self._open(run, record)
        self.run: str | None = run
        if not isinstance(self.model, self.kind):
            what = f"expected the run of a {self.kind.__name__}, got one of {type(self.model).__name__}"
            raise ValueError(f"{run}: {what}: choose another.")
        self._freeze()

    @classmethod
    def of(cls: type[Whole], model: Model, spec: Spec) -> Whole:
        """A model that is at hand, such as `load_model(run).latent_model`, frozen; no configuration rebuilds it."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.model, made.spec, made.has_weights, made.run = model, spec, True, None
        made._freeze()
        return made


class Frozen(FrozenWhole, LatentModel):
    """A trained run's story, as a part of a user's own: `{class_path: Frozen, init_args: {run: runs/digits}}`; see
    `FrozenWhole`."""

    kind = LatentModel
    model: LatentModel

    def about(self, given: Batch) -> Story:
        self._require_weights()
        return self.model.about(given)

    def generates(self, trace: Trace) -> bool:
        return self.model.generates(trace)

    @property
    def is_conditional(self) -> bool:
        return self.model.is_conditional

    @property
    def generates_by_class(self) -> bool:
        return self.model.generates_by_class


class FrozenImageText(FrozenWhole, ImageTextModel):
    """A trained run's two towers, such as a CLIP's; see `FrozenWhole`."""

    kind = ImageTextModel
    model: ImageTextModel

    def embed_image(self, image: Tensor) -> Tensor:
        self._require_weights()
        return self.model.embed_image(image)

    def embed_text(self, text: Tensor) -> Tensor:
        self._require_weights()
        return self.model.embed_text(text)

    def inverse_temperature(self) -> Tensor:
        self._require_weights()
        return self.model.inverse_temperature()


class FrozenPart(FromRun, Conditional):
    """One conditional of a trained run's model, in the place of such a one.

    Args:
        latent_shape: (d,), as the run has it.
        spec: of the images, which must be of the same shape and levels as the run's.
        run: checkpoint file or run folder.
        record: see `Frozen`.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the run's images or latents are others, or its model has no such part.
    """

    name: str
    """The attribute of the run's model."""

    def __init__(self, latent_shape: Shape, spec: Spec, run: str, record: str | None = None) -> None:
        super().__init__()
        model, self.spec = self._open(run, record)
        if (self.spec.image_shape, self.spec.levels) != (tuple(spec.image_shape), spec.levels):
            raise ValueError(
                f"{type(self).__name__}: expected a run of images of shape {tuple(spec.image_shape)} with "
                f"{spec.levels} levels, got one of {self.spec.image_shape} with {self.spec.levels}: choose another."
            )
        part = getattr(model, self.name, None)
        if not isinstance(part, Conditional):
            raise ValueError(f"{run}: expected a model with a conditional `{self.name}`, got {type(model).__name__}.")
        self.part, self.needs = part, part.needs
        if "text" in self.needs and self.spec.text != spec.text:
            raise ValueError(
                f"{type(self).__name__}: expected data whose captions have the tokens that the run was trained with, "
                "got others: take its data's settings, data.text among them."
            )
        if "label" in self.needs and self.spec.classes != spec.classes:
            raise ValueError(
                f"{type(self).__name__}: expected a run of the classes {spec.classes}, got {self.spec.classes}."
            )
        self._freeze()
        if self.has_weights:  # else it fitted once
            with torch.no_grad(), seeded(None):
                self._check(latent_shape)

    def forward(self, context: Any) -> Distribution:
        self._require_weights()
        distribution: Distribution = self.part(context)
        return distribution

    def _check(self, latent_shape: Shape) -> None:
        """Does nothing by default: what takes latents says itself which it takes."""
        return

    def _require_size(self, latent_shape: Shape, context: Tensor | None) -> None:
        blank = {"label": torch.zeros(1, dtype=torch.long), "text": torch.tensor([[1, 2]])}
        found = self.part.told(context, blank).event_shape
        if tuple(found) != tuple(latent_shape):
            raise ValueError(
                f"{type(self).__name__}: expected a run with latents of shape {tuple(latent_shape)}, got one with "
                f"{tuple(found)}: set --model.latent_model.latent_size {found.numel()}, or choose another run."
            )


class FrozenEncoder(FrozenPart):
    """q(z|x) of a trained run; see `FrozenPart`."""

    name = "encoder"

    def __init__(self, spec: Spec, latent_shape: Shape, run: str, record: str | None = None) -> None:
        super().__init__(latent_shape, spec, run, record)

    def _check(self, latent_shape: Shape) -> None:
        self._require_size(latent_shape, torch.zeros(1, *self.spec.image_shape))


class FrozenLikelihood(FrozenPart):
    """p(x|z) of a trained run; see `FrozenPart`."""

    name = "likelihood"


class FrozenPrior(FrozenPart):
    """p(z) of a trained run; see `FrozenPart`."""

    name = "prior"

    def _check(self, latent_shape: Shape) -> None:
        self._require_size(latent_shape, None)
