"""The commands beside Lightning's own: methods of the Trainer, whose signatures become the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_lightning.commands.scoring import ScoringTrainer, output_file, require_some
from vae_lightning.core import image_of
from vae_lightning.data import ImageData
from vae_lightning.data.module import Split
from vae_lightning.distributions import Choice
from vae_lightning.files import write_atomically
from vae_lightning.images.pictures import grid, reconstruction_grid, save_picture
from vae_lightning.train.module import Experiment
from vae_lightning.trained import TrainedModel

PICTURES = (".png",)


class CommandTrainer(ScoringTrainer):
    """Lightning's Trainer with `doctor`, `sample` and `reconstruct`, and the commands of `ScoringTrainer`."""

    def doctor(self, model: Experiment, datamodule: ImageData, ckpt_path: str | None = None) -> None:
        """Looks a configuration (or a run, by its checkpoint) and its data over; status 1 where there is something."""
        from vae_lightning.doctor.examine import examine, table

        model = model.to(self.strategy.root_device)
        findings = examine(model, datamodule, self.max_epochs, self.gradient_clip_val, self.max_steps)
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
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        output: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Draws images from the prior: a picture, or an array.

        Args:
            ckpt_path: checkpoint file or run folder.
            num_samples: how many.
            label: a class's name or number, for a model that generates by class; null for as many of each class, in a
                row of their own, num_samples or a few more in all.
            mean: E[x|z] of each z; false draws x from p(x|z).
            temperature: of an autoregressive prior of codes, divides its logits: below 1 for likelier codes.
            top_k: of the same, draw each code among the k likeliest alone; null for all.
            top_p: of the same, among the likeliest whose probabilities sum to this.
            output: file to write, .png for a picture, .npy for the integer images (N, C, H, W); null means samples.png
                in the run's folder.
            overwrite: an older file of that name may be lost.
        """
        require_some("num_samples", num_samples)
        trained = self._trained(model)
        if (choice := Choice(temperature, top_k, top_p)) != Choice():
            trained.choose_codes(choice)
        file = output_file(output, Path(ckpt_path), "samples.png", (*PICTURES, ".npy"), overwrite)
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
        images: list[str] | None = None,
        num_images: int | None = None,
        output: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Shows images and their reconstructions at the posterior's mean (or a flow's centre), originals above theirs.

        Args:
            ckpt_path: checkpoint file or run folder.
            split: which images.
            images: others: image files and folders, or one array (.npy, .npz).
            num_images: how many at most, evenly over them; null means 32 of a split, and all of other images.
            output: file to write, .png for a picture, .npz for the arrays `image`, `reconstruction` and `index`, their
                places in the split, and `name` of files; null means reconstructions.png in the run's folder.
            overwrite: an older file of that name may be lost.
        """
        require_some("num_images", 1 if num_images is None else num_images)
        trained = self._trained(model)
        file = output_file(output, Path(ckpt_path), "reconstructions.png", (*PICTURES, ".npz"), overwrite)
        given = self._given(model, datamodule, images, split)
        index = given.images.some_rows(num_images or (32 if images is None else len(given.images)))
        chosen = given.images[index]
        image = chosen.image
        if file.suffix == ".npz":
            named = {} if chosen.names is None else {"name": chosen.names}
            batches = chosen.batches(datamodule.eval_batch_size)
            mean = torch.cat([trained.reconstruct(image_of(part), part.get("label")).mean.cpu() for part in batches])
            arrays: dict[str, Any] = {"image": image, "reconstruction": mean, "index": index, **named}
            write_atomically(file, lambda stream: np.savez(stream, **arrays))
        else:
            batch = next(chosen.batches(len(chosen)))
            batch = {name: value.to(self.strategy.root_device) for name, value in batch.items()}
            with torch.no_grad():
                pairs = reconstruction_grid(trained.latent_model, batch)
            save_picture(grid(pairs, min(8, len(image)), trained.spec.levels), file)
        of = f" of the {split} split" if images is None else ""
        print(f"{len(image)} images{of} and their reconstructions: {file}")

    @staticmethod
    def _asked(trained: TrainedModel, label: str | None) -> list[int]:
        """The classes to draw from: none for a model that does not generate by class, where no label is given."""
        if others := set(trained.latent_model.needs) - {"label"}:
            raise ValueError(
                f"sample: expected a model of images, by class or not, got {type(trained.latent_model).__name__}, "
                f"which is told a {min(others)}: use vae-lightning generate."
            )
        if not trained.latent_model.generates_by_class:
            if label is not None:
                trained.require_by_class()
            return []
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
