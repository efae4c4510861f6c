"""10 000 samples and 10 000 reconstructions beside the bare forward passes.

python -m benchmarks.sampling
"""

from __future__ import annotations

import torch

from benchmarks.harness import arguments, compare, seconds
from benchmarks.likelihood import burda
from vae_lightning.train.process import tune_process
from vae_lightning.trained import TrainedModel

COUNT, BATCH = 10_000, 512


def run(rounds: int) -> None:
    tune_process()  # as the command line does
    model = burda()
    trained = TrainedModel(model, (1, 28, 28), 2).eval()
    image = torch.bernoulli(torch.full((COUNT, 1, 28, 28), 0.15))
    whole = image.to(torch.uint8)  # as data sets hold them

    @torch.no_grad()
    def bare_decoder() -> None:
        for part in torch.randn(COUNT, 50).split(BATCH):
            torch.sigmoid(model.likelihood.head.last(model.likelihood.net.layers(part)))

    @torch.no_grad()
    def bare_both() -> None:
        for part in image.split(BATCH):
            z = model.encoder.mu(model.encoder.net.layers(part))
            torch.sigmoid(model.likelihood.head.last(model.likelihood.net.layers(z)))

    def samples() -> None:
        for start in range(0, COUNT, BATCH):
            _ = trained.sample(min(BATCH, COUNT - start)).mean

    def reconstructions() -> None:
        for part in whole.split(BATCH):
            _ = trained.reconstruct(part).mean

    per = ("images", float(COUNT))
    compare(
        "sample",
        {"bare decoder": lambda: seconds(bare_decoder), "sample": lambda: seconds(samples)},
        "bare decoder",
        rounds,
        per=per,
    )
    compare(
        "reconstruct",
        {"bare nets": lambda: seconds(bare_both), "reconstruct": lambda: seconds(reconstructions)},
        "bare nets",
        rounds,
        per=per,
    )


if __name__ == "__main__":
    run(arguments(__doc__, 5).parse_args().rounds)
