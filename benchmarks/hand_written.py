"""The loop to beat: the best plain PyTorch we can write for the same model, bound, batches and noise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPVAE(nn.Module):
    """784-400-20 as the project's own, without its abstractions; parameters in the project's order."""

    def __init__(self, pixels: int = 784, hidden: int = 400, latents: int = 20) -> None:
        super().__init__()
        self.encode, self.mu, self.log_scale = (
            nn.Linear(pixels, hidden),
            nn.Linear(hidden, latents),
            nn.Linear(hidden, latents),
        )
        self.decode, self.logits = nn.Linear(latents, hidden), nn.Linear(hidden, pixels)

    def loss(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        h = F.relu(self.encode(x))
        mu, log_scale = self.mu(h), 7 * torch.tanh(self.log_scale(h) / 7)
        scale = log_scale.exp()
        z = mu + scale * torch.randn_like(mu)
        logits = self.logits(F.relu(self.decode(z)))
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = (0.5 * (mu.square() + scale.square() - 1) - log_scale).sum()
        return (distortion + rate) / len(x)


class ConvVAE(nn.Module):
    """The project's ConvEncoder and ConvDecoder of the benchmark, likewise."""

    def __init__(self, channels: tuple[int, ...], hidden: int, latents: int, side: int) -> None:
        super().__init__()
        small = side // 2 ** len(channels)
        widths = (1, *channels)
        down: list[nn.Module] = []
        for a, b in zip(widths, channels, strict=False):
            down += [nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()]
        features = channels[-1] * small**2
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU())
        self.mu, self.log_scale = nn.Linear(hidden, latents), nn.Linear(hidden, latents)
        up: list[nn.Module] = [nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, features)]
        up += [nn.Unflatten(1, (channels[-1], small, small))]
        back = channels[::-1]
        for a, b in zip(back, (*back[1:], back[-1]), strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1)]
        self.up = nn.Sequential(*up, nn.ReLU())
        self.logits = nn.Conv2d(back[-1], 1, 1)

    def loss(self, x: Tensor) -> Tensor:
        h = self.down(x)
        mu, log_scale = self.mu(h), 7 * torch.tanh(self.log_scale(h) / 7)
        scale = log_scale.exp()
        z = mu + scale * torch.randn_like(mu)
        distortion = F.binary_cross_entropy_with_logits(self.logits(self.up(z)), x, reduction="sum")
        rate = (0.5 * (mu.square() + scale.square() - 1) - log_scale).sum()
        return (distortion + rate) / len(x)


def batches(image: Tensor, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """The project's order: of the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    for index in torch.randperm(len(image), generator=generator).split(batch_size):
        yield image.index_select(0, index).float()


def train(
    model: MLPVAE | ConvVAE,
    image: Tensor,
    held_out: Tensor,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    every: int = 50,
    compile: bool = False,
) -> tuple[list[float], list[float], list[float]]:
    """Adam at 1e-3, fused, and the bound of the held-out images after each epoch; with `compile`, the training loss
    goes through torch.compile, as `--model.compile true` does it.

    Returns: seconds of each epoch, validation included; the loss of each `every`th step; the bound of each epoch.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    training_loss = torch.compile(model.loss) if compile else model.loss
    seconds, losses, bounds, step = [], [], [], 0
    for epoch in range(epochs):
        start = time.perf_counter()
        torch.manual_seed((seed + 1_000_003 * (epoch + 1)) % 2**63)
        model.train()
        for x in batches(image, batch_size, seed, epoch):
            loss = training_loss(x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % every == 0:
                losses.append(loss.item())
            if not math.isfinite(loss.item()):
                raise FloatingPointError(step)
            step += 1
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)  # the project's noise of every evaluation
            total = sum(model.loss(part.float()).item() * len(part) for part in held_out.split(512))
        bounds.append(-total / len(held_out))
        seconds.append(time.perf_counter() - start)
    return seconds, losses, bounds
