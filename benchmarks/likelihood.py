"""log p(x) by importance sampling beside the machine's own speed on the decoder's matrix products.

python -m benchmarks.likelihood
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import arguments, compare, seconds
from vae_lightning.conditionals import BernoulliLikelihood, GaussianPosterior
from vae_lightning.core import LatentModel, Spec
from vae_lightning.metrics import log_prob
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.train.process import tune_process


def burda() -> VAE:
    """784-200-200-50, the net of the published figures."""
    net = partial(MLP, hidden=[200, 200], activation=nn.Tanh)
    return VAE(
        Spec((1, 28, 28), 2), partial(GaussianPosterior, net=net), partial(BernoulliLikelihood, net=net), latent_size=50
    ).eval()


@torch.no_grad()
def products(samples: int, rows: int = 2048) -> float:
    """The decoder's matrix products alone, in blocks of `rows`: the limit."""
    weights = [torch.randn(200, 50), torch.randn(200, 200), torch.randn(784, 200)]
    z = torch.randn(rows, 50)

    def work() -> None:
        for _ in range(samples // rows):
            h = z
            for weight in weights:
                h = F.linear(h, weight)

    return seconds(work)


@torch.no_grad()
def in_chunks(model: LatentModel, image: torch.Tensor, k: int, batch: int = 100) -> float:
    """The common way: for each image, repeat it and encode it again for every chunk of samples."""

    def work() -> None:
        for x in image:
            for _ in range(k // batch):
                again = x.expand(batch, *x.shape)
                trace = model.trace({"image": again})
                trace.log_weight(again).logsumexp(0)

    return seconds(work)


def run(rounds: int, images: int = 40, k: int = 5000) -> None:
    tune_process()  # as the command line does
    model = burda()
    image = torch.bernoulli(torch.full((images, 1, 28, 28), 0.15))
    samples = images * k
    compare(
        "likelihood",
        {
            "matrix products alone": lambda: products(samples),
            "vae_lightning": lambda: seconds(lambda: log_prob(model, {"image": image}, k)),
            "encoded again for every chunk": lambda: 8 * in_chunks(model, image[: images // 8], k),
        },
        "matrix products alone",
        rounds,
        per=("image-samples", samples),
    )


if __name__ == "__main__":
    run(arguments(__doc__, 5).parse_args().rounds)
