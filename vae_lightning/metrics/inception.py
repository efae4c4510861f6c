"""The Inception network whose features published Fréchet and kernel distances of samples are taken in (Heusel et al.
2017): where its weights and torch-fidelity, which can read them, are on this machine. Nothing is ever downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""As torch-fidelity's release v0.2.0 names the file."""


def weights() -> Path:
    """Where they would be: among torch.hub's checkpoints, as torch-fidelity has it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def missing() -> str:
    """What to do so that the features can be had; empty where they can."""
    steps = []
    if not weights().is_file():
        steps.append(f"put torch-fidelity's weights at {weights()}")
    if importlib.util.find_spec("torch_fidelity") is None:
        steps.append("install torch-fidelity")
    return " and ".join(steps) + "." if steps else ""


def extractor() -> nn.Module:
    """RGB images (N, 3, H, W) uint8 of any size -> features (N, 2048), by the network as TensorFlow had it in 2015 and
    torchmetrics runs it, resized as the original was."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights()), antialias=False)
    return network.eval().requires_grad_(False)


def rgb(images: Tensor, levels: int) -> Tensor:
    """(N, C, H, W) of 1 or 3 channels in 0..levels-1 -> (N, 3, H, W) uint8 in 0..255."""
    full = (images.float() * (255 / (levels - 1))).round().clamp(0, 255)
    return full.to(torch.uint8).expand(-1, 3, -1, -1)
