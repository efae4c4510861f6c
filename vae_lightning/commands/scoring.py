"""The commands that score and encode images, a split's or a user's own: methods of the Trainer, whose signatures become
the flags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from vae_lightning.checkpoint import folder_of
from vae_lightning.core import LatentModel, centre, has_mean, image_of, seeded
from vae_lightning.data import ImageData, ImageFolder, ImageSource, admitted
from vae_lightning.data.door import count_copies
from vae_lightning.data.module import Split
from vae_lightning.data.reading.levels import LEVELS
from vae_lightning.files import require_new, require_writable, write_atomically
from vae_lightning.images.given import Given, fit_in, read_given
from vae_lightning.metrics.classifier import frequencies
from vae_lightning.report.predictions import write_predictions
from vae_lightning.report.results import plain
from vae_lightning.train.evaluation import EVALUATION_SEED
from vae_lightning.train.module import Experiment
from vae_lightning.trained import TrainedModel

OF_A_SPLIT = 2000
"""Images of each kind that `anomaly` looks at, unless it is told otherwise."""


class ScoringTrainer(Trainer):
    """Lightning's Trainer with `predict` for any images, `encode` and `anomaly`."""

    @torch.no_grad()
    def predict(  # type: ignore[override]
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        images: list[str] | None = None,
        output: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Scores images, a row each of a CSV: the lower its ELBO, the more bits it takes, the less likely an image is.

        Args:
            ckpt_path: checkpoint file or run folder.
            images: image files and folders, or one array (.npy, .npz), or a split (train, val, test); null means the
                test images.
            output: the .csv file to write; null means predictions.csv in the run's folder.
            overwrite: an older file of that name may be lost.
        """
        if self.world_size > 1:
            raise ValueError(f"predict: expected one process, got {self.world_size}: set --trainer.devices 1.")
        file = output_file(output, Path(ckpt_path), "predictions.csv", (".csv",), overwrite)
        trained = self._trained(model)
        given = self._given(model, datamodule, images, "test")
        with seeded(EVALUATION_SEED, trained.device):
            found = [
                {name: value.cpu() for name, value in model.predict_step(batch, number).items()}
                for number, batch in enumerate(self._batches(given, datamodule))
            ]
        names = write_predictions(found, file, None if given.images.names is None else given.names)
        of = "test image" if images is None else "image"
        print(f"{', '.join(names)} of each {of}, {len(given.images)} in all, nats (bits where so named): {file}")
        if not trained.is_autoencoder:
            print("Each is an estimate by one posterior sample: the same image twice has two numbers, nearly the same.")

    @torch.no_grad()
    def encode(
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        split: Split = "test",
        images: list[str] | None = None,
        output: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes the posterior of every image: arrays `mean` and `scale`, (N, d), or of a posterior that has neither in
        closed form (a flow) `centre`; of several latents by their names, such as `z1_mean`; `label` where there are
        classes, and `name` of files.

        Args:
            ckpt_path: checkpoint file or run folder.
            split: which images.
            images: others, all of them: image files and folders, or one array (.npy, .npz).
            output: the .npz file to write; null means codes.npz in the run's folder.
            overwrite: an older file of that name may be lost.
        """
        trained = self._trained(model)
        file = output_file(output, Path(ckpt_path), "codes.npz", (".npz",), overwrite)
        given = self._given(model, datamodule, images, split)
        found = [trained.encode(image_of(b), b.get("label")) for b in self._batches(given, datamodule)]
        arrays, size = dict[str, Any](), 0
        for name, first in found[0].items():
            prefix = "" if len(found[0]) == 1 else f"{name}_"
            code = torch.cat([centre(posterior[name]).cpu() for posterior in found]).numpy()
            arrays[f"{prefix}mean" if has_mean(first) else f"{prefix}centre"] = code
            with suppress(NotImplementedError):  # such as a flow's
                spread = torch.cat([posterior[name].variance.sqrt().cpu() for posterior in found])
                arrays |= {} if spread.isnan().all() else {f"{prefix}scale": spread.numpy()}  # nan of what is no number
            size += first.event_shape.numel()
        if given.images.label is not None:
            arrays["label"] = given.images.label.numpy()
        if given.images.names is not None:
            arrays["name"] = given.images.names
        write_atomically(file, lambda stream: np.savez(stream, **arrays))
        of = f" of the {split} split" if images is None else ""
        print(f"codes of {len(given.images)} images{of}, {size} latents: {file}")

    def anomaly(
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        ood: ImageSource | None = None,
        images: list[str] | None = None,
        num_samples: int = 100,
        num_images: int | None = None,
        background: str | None = None,
    ) -> None:
        """Tells how well the model's scores tell other images from its own test images: areas under the ROC curve, also
        written to anomaly-<name>.json in the run's folder, and the scores of each image to anomaly-<name>.csv.

        Args:
            ckpt_path: checkpoint file or run folder.
            ood: the other data set, of which its test images are taken, or of an ImageFolder all images; brought to the
                model's size, channels, levels and binarisation.
            images: in its place image files and folders, all of them.
            num_samples: importance samples an image of -log p(x).
            num_images: of each kind at most, evenly over them; null means 2000 of each test split, and all of a folder.
            background: checkpoint file or run folder of a model of images of the same kind, whose -log p(x) is
                taken off the model's own: what is common to both kinds of images cancels.
        """
        from vae_lightning.measure.anomaly import load_background, tell_apart

        require_some("num_samples", num_samples)
        require_some("num_images", 1 if num_images is None else num_images)
        if (ood is None) == (images is None):
            raise ValueError(
                "anomaly: expected other images, got none or two kinds: give either IMAGES or --ood, once."
            )
        name = ood.name if ood is not None else f"images-{Path((images or [''])[0]).resolve().stem}"
        require_writable(file := folder_of(Path(ckpt_path)) / f"anomaly-{name}.json")
        trained = self._trained(model)
        common = None if background is None else load_background(background, trained)
        own = self._given(model, datamodule, None, "test")
        theirs = self._given(model, datamodule, images, "test") if ood is None else self._others(model, datamodule, ood)
        of_a_split = ood is not None and not isinstance(ood, ImageFolder)
        if copies := {} if of_a_split else count_copies(theirs.images, datamodule.splits):
            of = ", ".join(f"{count} of a {kind} image" for kind, count in copies.items())
            print(
                f"Of {len(theirs.images)} other images some have the pixels of the model's own, {of}: leave them out."
            )
        own = Given(own.images.some(num_images or OF_A_SPLIT))
        theirs = Given(theirs.images.some(num_images or (OF_A_SPLIT if of_a_split else len(theirs.images))))
        p_y = None
        if "label" in trained.latent_model.needs and (label := datamodule.splits["train"].label) is not None:
            p_y = frequencies(label, model.spec.require_classes("anomaly"))
        normal, other = (it.images.image.float() for it in (own, theirs))
        with seeded(1, trained.device):
            apart = tell_apart(
                trained.latent_model, normal, other, model.spec.levels, num_samples, trained.device, common, p_y
            )
        print(apart.table())
        rows = {
            f"auroc_{score}": {"mean": 100 * area.value, "error": 100 * area.standard_error}
            | {"low": 100 * area.low, "high": 100 * area.high, "images": [len(normal), len(other)]}
            for score, area in apart.areas.items()
        }
        record = plain({"ood": name, "images": [len(normal), len(other)], **rows})
        write_atomically(table := file.with_suffix(".csv"), apart.csv(own.names, theirs.names))
        write_atomically(file, json.dumps(record, allow_nan=False))
        print(f"kept: {file}, {table.name}")

    def _others(self, model: Experiment, datamodule: ImageData, ood: ImageSource) -> Given:
        """The test images of another data set; of a folder, which is given to be looked at, all images."""
        ood.find(datamodule.root)
        if isinstance(ood, ImageFolder):
            return said(read_given([str(ood.path)], model.spec, datamodule, folder=ood))
        test = admitted(ood, ood.load(datamodule.root, datamodule.download)).test
        image = fit_in(test, ood.levels, model.spec, datamodule.split_seed)
        image = image.to(torch.uint8 if model.spec.levels <= LEVELS else torch.int32)
        return Given(type(test)(image, names=test.names))

    def _given(self, model: Experiment, data: ImageData, words: list[str] | None, split: Split) -> Given:
        """The images that a command is about: what was named on its command line, else a split."""
        self._trained(model)
        needs = model.latent_model.needs
        if words is None:
            data.check_matches(model.spec, needs)
            data.setup()
            return Given(data.splits[split])
        return said(read_given(words, model.spec, data, needs))

    def _batches(self, given: Given, data: ImageData) -> Iterator[dict[str, Tensor]]:
        device = self.strategy.root_device
        batches = given.images.batches(data.eval_batch_size)
        return ({name: value.to(device) for name, value in batch.items()} for batch in batches)

    def _trained(self, model: Experiment) -> TrainedModel:
        if not isinstance(model.latent_model, LatentModel):
            got = type(model.latent_model).__name__
            raise ValueError(f"expected a model with latents, got {got}, which draws, encodes and scores no images.")
        trained = TrainedModel(model.latent_model, model.spec)
        return trained.eval().to(self.strategy.root_device)


def said(given: Given) -> Given:
    """The images, once what was done to them is told."""
    for note in given.notes:
        print(note)
    return given


def require_some(name: str, count: int) -> None:
    """Raises ValueError where nothing is asked for."""
    if count < 1:
        raise ValueError(f"--{name}: expected at least 1, got {count}.")


def output_file(
    output: str | None, checkpoint: Path, default: str, suffixes: tuple[str, ...], overwrite: bool = False
) -> Path:
    """Where to write, before anything is worked out for it: the file named, which must be a new one unless `overwrite`,
    else the command's own in the run's folder.

    Raises:
        ValueError: a kind of file that the command does not write.
        OSError: there is one of that name, or none can be written.
    """
    file = folder_of(checkpoint) / default if output is None else Path(output).expanduser()
    if file.suffix not in suffixes:
        raise ValueError(f"--output {file}: expected a file that ends in {' or '.join(suffixes)}.")
    if output is not None:
        require_new(file, overwrite)
    require_writable(file)
    return file
