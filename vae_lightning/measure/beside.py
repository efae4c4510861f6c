"""What stands beside a model's numbers: baselines that it has to beat, and what no model can go below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_lightning.data import ImageData
from vae_lightning.metrics import held_out_rate_distortion, independent_pixels_nll, mean_error, nats_per_bit_per_dim
from vae_lightning.report.results import Section
from vae_lightning.train.module import Experiment

BESIDE, NATS = "Beside it", "nats/image"


def baselines(experiment: Experiment, data: ImageData, kept: dict[str, Tensor]) -> Section:
    """What knows nothing of how pixels hang together, and what no model can go below."""
    section = Section(BESIDE)
    train, test = data.fixed("train"), data.fixed("test")[torch.arange(experiment.evaluation.images)]
    independent = independent_pixels_nll(train.chunks(), test.chunks(), data.levels)
    kept["independent_nll"] = independent
    kept["independent_bits_per_dim"] = independent / nats_per_bit_per_dim(test.stored)
    for name, unit in (("independent_nll", NATS), ("independent_bits_per_dim", "bits/dim")):
        section.add(name, "independent pixels, -log p(x)", mean_error(kept[name]), unit)
    if "rate" in experiment.results:
        rate = max(0.0, experiment.results["rate"][0])
        limit = held_out_rate_distortion(train.chunks(), test.chunks(), data.levels, [rate]).item()
        label = "PCA with ideal coding at the model's rate, squared error"
        section.add("rate_distortion_limit", label, (limit, math.nan), "per image")
    if data.binarization_entropy is not None:
        kept["binarization_entropy"] = floor = data.binarization_entropy[: experiment.evaluation.images]
        label = "entropy of the binarisation, which no model goes below"
        section.add("binarization_entropy", label, mean_error(floor), NATS)
    return section
