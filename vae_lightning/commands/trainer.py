"""The commands beside Lightning's own: methods of the Trainer, whose signatures become the flags."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from vae_lightning.checkpoint import folder_of
from vae_lightning.core import LatentModel, centre, has_mean, image_of, seeded
from vae_lightning.data import ImageData, ImageSource, admitted
from vae_lightning.data.module import Split
from vae_lightning.files import require_writable, write_atomically
from vae_lightning.images.pictures import grid, reconstruction_grid, save_picture
from vae_lightning.metrics.classifier import frequencies
from vae_lightning.report.results import Results
from vae_lightning.train.module import Experiment
from vae_lightning.trained import TrainedModel

PICTURES, ARRAYS = (".png",), (".npy", ".npz")


class CommandTrainer(Trainer):
    """Lightning's Trainer with `doctor`, `sample`, `reconstruct` and `encode`."""

    def doctor(self, model: Experiment, datamodule: ImageData) -> None:
        """Looks a configuration and its data over before training; status 1 where something wants a look."""
        from vae_lightning.doctor.examine import examine, table

        model = model.to(self.strategy.root_device)
        findings = examine(model, datamodule, self.max_epochs, self.gradient_clip_val)
        print(table(findings))
        if not all(finding.ok for finding in findings):
            raise SystemExit(1)

    def sample(
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        num_samples: int = 64,
        label: str | None = None,
        mean: bool = True,
        output: str | None = None,
    ) -> None:
        """Draws images from the prior: a picture, or an array.

        Args:
            ckpt_path: checkpoint file or run folder.
            num_samples: how many.
            label: a class's name or number, for a model that generates by class; null for as many of each class, in a
                row of their own, num_samples or a few more in all.
            mean: E[x|z] of each z; false draws x from p(x|z).
            output: file to write, .png for a picture, .npy for the integer images (N, C, H, W); null means samples.png
                in the run's folder.
        """
        require_some("num_samples", num_samples)
        trained = self._trained(model)
        file = output_file(output, Path(ckpt_path), "samples.png", (*PICTURES, ".npy"))
        labels, columns, of = self._asked(trained, label), max(1, round(num_samples**0.5)), ""
        if len(labels) > 1:
            columns = -(-num_samples // len(labels))
            of = f", {columns} of each class in a row, from {model.spec.classes[0]} on"  # type: ignore[index]
        elif label is not None:
            of = f" of {model.spec.classes[labels[0]]}"  # type: ignore[index]
        images = self._drawn(trained, labels, columns if len(labels) > 1 else num_samples, datamodule, mean)
        if file.suffix == ".npy":  # a Gaussian also draws what is darker than black
            dtype = torch.uint8 if (top := trained.spec.levels - 1) < 256 else torch.uint16
            levels = images.round().clamp(0, top).to(dtype)
            write_atomically(file, lambda stream: np.save(stream, levels.numpy()))
        else:
            save_picture(grid(images, columns, trained.spec.levels), file)
        print(f"{len(images)} samples{of}: {file}")

    def reconstruct(
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        split: Split = "test",
        num_images: int = 32,
        output: str | None = None,
    ) -> None:
        """Shows images and their reconstructions at the posterior's mean (or a flow's centre), originals above theirs.

        Args:
            ckpt_path: checkpoint file or run folder.
            split: which images.
            num_images: how many at most, evenly over the split.
            output: file to write, .png for a picture, .npz for the arrays `image`, `reconstruction` and `index`, their
                places in the split; null means reconstructions.png in the run's folder.
        """
        require_some("num_images", num_images)
        trained = self._trained(model)
        file = output_file(output, Path(ckpt_path), "reconstructions.png", (*PICTURES, ".npz"))
        self._read(model, datamodule)
        index = datamodule.splits[split].some_rows(num_images)
        images = datamodule.splits[split][index]
        image = images.image
        if file.suffix == ".npz":
            batches = images.batches(datamodule.eval_batch_size)
            mean = torch.cat([trained.reconstruct(image_of(part), part.get("label")).mean.cpu() for part in batches])
            write_atomically(file, lambda stream: np.savez(stream, image=image, reconstruction=mean, index=index))
        else:
            batch = next(datamodule.splits[split].batches(len(index), index))
            batch = {name: value.to(self.strategy.root_device) for name, value in batch.items()}
            with torch.no_grad():
                pairs = reconstruction_grid(trained.latent_model, batch)
            save_picture(grid(pairs, min(8, len(image)), trained.spec.levels), file)
        print(f"{len(image)} images of the {split} split and their reconstructions: {file}")

    @torch.no_grad()
    def encode(
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        split: Split = "test",
        output: str | None = None,
    ) -> None:
        """Writes the posterior of every image of a split: arrays `mean` and `scale`, (N, d), or of a posterior that has
        neither in closed form (a flow) `centre`; of several latents by their names, such as `z1_mean`; and `label`
        where there are classes.

        Args:
            ckpt_path: checkpoint file or run folder.
            split: which images.
            output: the .npz file to write; null means codes.npz in the run's folder.
        """
        trained = self._trained(model)
        file = output_file(output, Path(ckpt_path), "codes.npz", (".npz",))
        self._read(model, datamodule)
        images = datamodule.splits[split]
        found = [trained.encode(image_of(b), b.get("label")) for b in images.batches(datamodule.eval_batch_size)]
        arrays, size = dict[str, Any](), 0
        for name, first in found[0].items():
            prefix = "" if len(found[0]) == 1 else f"{name}_"
            code = torch.cat([centre(posterior[name]).cpu() for posterior in found]).numpy()
            arrays[f"{prefix}mean" if has_mean(first) else f"{prefix}centre"] = code
            with suppress(NotImplementedError):  # such as a flow's
                spread = torch.cat([posterior[name].variance.sqrt().cpu() for posterior in found])
                arrays |= {} if spread.isnan().all() else {f"{prefix}scale": spread.numpy()}  # nan of what is no number
            size += first.event_shape.numel()
        if images.label is not None:
            arrays["label"] = images.label.numpy()
        write_atomically(file, lambda stream: np.savez(stream, **arrays))
        print(f"codes of {len(images)} images of the {split} split, {size} latents: {file}")

    def anomaly(
        self,
        model: Experiment,
        datamodule: ImageData,
        ckpt_path: str,
        ood: ImageSource,
        num_samples: int = 100,
        num_images: int = 2000,
        background: str | None = None,
    ) -> None:
        """Tells how well the model's scores tell another data set's test images from its own: areas under the ROC
        curve, also written to anomaly-<ood>.json in the run's folder.

        Args:
            ckpt_path: checkpoint file or run folder.
            ood: the other data set; brought to the model's size, channels, levels and binarisation.
            num_samples: importance samples an image of -log p(x).
            num_images: of each kind at most, evenly over each test split.
            background: checkpoint or run of a model of such images. Its -log p(x) is taken off, common parts cancel.
        """
        from vae_lightning.measure.anomaly import fit_in, load_background, tell_apart

        require_some("num_samples", num_samples)
        require_some("num_images", num_images)
        require_writable(file := folder_of(Path(ckpt_path)) / f"anomaly-{ood.name}.json")
        trained = self._trained(model)
        common = None if background is None else load_background(background, trained)
        self._read(model, datamodule)
        ood.find(datamodule.root)
        own, theirs = datamodule.splits["test"], admitted(ood, ood.load(datamodule.root, datamodule.download)).test
        normal, other = own.some(num_images).image.float(), fit_in(theirs.some(num_images), ood.levels, datamodule)
        p_y = None
        if "label" in trained.latent_model.needs and (label := datamodule.splits["train"].label) is not None:
            p_y = frequencies(label, model.spec.require_classes("anomaly"))
        with seeded(1, trained.device):
            section = tell_apart(
                trained.latent_model, normal, other, model.spec.levels, num_samples, trained.device, common, p_y
            )
        results = Results(str(file.parent), len(normal), {"ood": ood.name}, [section])
        rows = {row.name: {"mean": row.mean, "error": row.error} for row in section.rows}
        print(results.table())
        write_atomically(file, json.dumps({"ood": ood.name, "images": [len(normal), len(other)], **rows}))
        print(f"kept: {file}")

    def _trained(self, model: Experiment) -> TrainedModel:
        if not isinstance(model.latent_model, LatentModel):
            got = type(model.latent_model).__name__
            raise ValueError(f"expected a model with latents, got {got}, which draws, encodes and scores no images.")
        trained = TrainedModel(model.latent_model, model.spec)
        return trained.eval().to(self.strategy.root_device)

    def _read(self, model: Experiment, data: ImageData) -> None:
        data.check_matches(model.spec, model.latent_model.needs)
        data.setup()

    @staticmethod
    def _asked(trained: TrainedModel, label: str | None) -> list[int]:
        """The classes to draw from: none for a model that does not generate by class, where no label is given."""
        if not trained.latent_model.is_conditional:
            if label is not None:
                trained.require_by_class()
            return []
        if "label" not in (needs := trained.latent_model.needs):
            raise ValueError(
                f"sample: expected a model of images, by class or not, got {type(trained.latent_model).__name__}, "
                f"which is told a {needs[0]}: use vae-lightning generate."
            )
        if label is None:
            return list(range(trained.spec.require_classes("sample")))
        return [trained.spec.class_number(label)]

    @staticmethod
    def _drawn(trained: TrainedModel, labels: list[int], count: int, data: ImageData, mean: bool) -> Tensor:
        """`count` images of each class, one class after the other, or of none, (N, C, H, W), on the CPU."""
        parts: list[Tensor] = []
        wanted: list[Tensor | None] = [torch.tensor([number]) for number in labels]
        for label in wanted or [None]:
            for start in range(0, count, data.eval_batch_size):
                px = trained.sample(min(data.eval_batch_size, count - start), label)
                drawn = (px.mean if mean else px.sample()).cpu()
                parts.append(drawn if label is None else drawn.flatten(0, 1))
        return torch.cat(parts)


def require_some(name: str, count: int) -> None:
    """Raises ValueError where nothing is asked for."""
    if count < 1:
        raise ValueError(f"--{name}: expected at least 1, got {count}.")


def output_file(output: str | None, checkpoint: Path, default: str, suffixes: tuple[str, ...]) -> Path:
    """Where to write; raises ValueError for a kind of file that the command does not write."""
    file = folder_of(checkpoint) / default if output is None else Path(output).expanduser()
    if file.suffix not in suffixes:
        raise ValueError(f"--output {file}: expected a file that ends in {' or '.join(suffixes)}.")
    return file
