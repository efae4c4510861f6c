"""What codes tell of the labels that training never saw: neighbours, a linear probe, and a probe with few labels.

Legend of shapes: codes (N, d), labels (N,) integers. Codes are standardised by the training codes' mean and standard
deviation, so that a latent that hardly varies weighs as much as any other. Accuracies are shares, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TILE_VALUES = 2**24
"""Distances held at a time: 64 MiB in float32."""


class Accuracy(NamedTuple):
    value: float
    standard_error: float


class Neighbours(NamedTuple):
    distances: Tensor  # (N,) or (N, k), nearest first
    indices: Tensor  # the same shape, int64


def distances(queries: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Euclidean distances over all values of an image or row, float32, some queries at a time: (n, references)."""
    queries, references = queries.flatten(1), references.flatten(1).float()
    for part in queries.split(max(1, TILE_VALUES // len(references))):
        yield torch.cdist(part.float(), references)


def k_nearest(queries: Tensor, references: Tensor, k: int) -> Neighbours:
    """The k nearest references of each query, (N, k)."""
    found = [d.topk(k, largest=False) for d in distances(queries, references)]
    return Neighbours(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


def knn_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 5) -> Accuracy:
    """By majority vote of the k nearest training codes; of labels with equally many votes, that of the nearest wins.

    Raises:
        ValueError: k is not in 1..training codes, or codes and labels do not fit each other.
    """
    _require_pairs("knn_accuracy", train_x, train_y, test_x, test_y)
    if not 1 <= k <= len(train_x):
        raise ValueError(f"knn_accuracy: expected k from 1 to {len(train_x)}, the training codes, got {k}.")
    train, test = _standardised(train_x, test_x)
    voters = train_y[k_nearest(test, train, k).indices]  # (N, k), nearest first
    votes = (voters[:, :, None] == voters[:, None]).sum(2)
    predicted = voters.gather(1, votes.argmax(1, keepdim=True))[:, 0]  # argmax takes the first of equals
    return share(predicted == test_y)


def linear_probe(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> Accuracy:
    """By multinomial logistic regression with an L2 penalty of 1/2 |w|^2 beside the summed loss, to convergence.

    Raises:
        ValueError: fewer than two classes to train on, or codes and labels do not fit each other.
    """
    from sklearn.linear_model import LogisticRegression

    _require_pairs("linear_probe", train_x, train_y, test_x, test_y)
    if len(train_y.unique()) < 2:
        raise ValueError(f"linear_probe: expected two classes or more in train_y, got {train_y.unique().tolist()}.")
    train, test = _standardised(train_x, test_x)
    probe = LogisticRegression(max_iter=1000).fit(train.cpu().numpy(), train_y.cpu().numpy())
    return share(torch.from_numpy(probe.predict(test.cpu().numpy())) == test_y.cpu())


def label_efficiency(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    labels: Sequence[int] = (100, 1000),
    seed: int = 0,
    draws: int = 3,
) -> dict[int, Accuracy]:
    """Number of labels -> accuracy of a linear probe on so many, mean over random subsets of the training codes.

    In a subset the classes' counts differ by at most one, and the larger holds the smaller. The standard error joins
    the spread over draws with the binomial one of the test codes, which all draws share.

    Raises:
        ValueError: fewer labels than classes, or a class with too few codes.
    """
    _require_pairs("label_efficiency", train_x, train_y, test_x, test_y)
    counts = train_y.unique(return_counts=True)[1]
    for count in labels:
        if not len(counts) <= count <= len(counts) * int(counts.min()):
            raise ValueError(
                f"label_efficiency: expected from {len(counts)} labels, one a class, to "
                f"{len(counts) * int(counts.min())}, as the rarest class has {int(counts.min())}, got {count}."
            )
    found: dict[int, list[float]] = {count: [] for count in labels}
    for draw in range(draws):
        order = _balanced_order(train_y.cpu(), torch.Generator().manual_seed(seed * draws + draw)).to(train_x.device)
        for count in labels:
            chosen = order[:count]
            found[count].append(linear_probe(train_x[chosen], train_y[chosen], test_x, test_y).value)
    return {count: _mean_over_draws(torch.tensor(values).double(), len(test_y)) for count, values in found.items()}


def _balanced_order(y: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of all indices in which every beginning has each class equally often, give or take one."""
    order = torch.randperm(len(y), generator=generator)
    rank = torch.empty_like(order)
    for label in y.unique():
        of_class = y[order] == label
        rank[of_class] = torch.arange(int(of_class.sum()))
    return order[rank.argsort(stable=True)]


def _mean_over_draws(values: Tensor, test_size: int) -> Accuracy:
    mean = values.mean().item()
    variance = values.var().item() / len(values) + mean * (1 - mean) / test_size
    return Accuracy(mean, math.sqrt(variance))


def share(right: Tensor) -> Accuracy:
    """Share of hits (N,) with its binomial standard error; nan of none."""
    if not len(right):
        return Accuracy(math.nan, math.nan)
    value = right.double().mean().item()
    return Accuracy(value, math.sqrt(value * (1 - value) / len(right)))


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets by the first one's moments. A feature whose spread is rounding error is left at its scale."""
    train, test = train.double(), test.double()
    mean, scale = train.mean(0), train.std(0)
    scale = torch.where(scale > 1e-6 * train.abs().amax(0), scale, torch.ones_like(scale))
    return (train - mean) / scale, (test - mean) / scale


def _require_pairs(name: str, train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    sizes = [tuple(t.shape) for t in (train_x, train_y, test_x, test_y)]
    if (
        train_x.dim() != 2
        or train_x.shape[1:] != test_x.shape[1:]
        or len(train_x) != len(train_y)
        or len(test_x) != len(test_y)
    ):
        raise ValueError(
            f"{name}: expected codes (N, d) and labels (N,) to train on, and (M, d) and (M,) to test on, got "
            f"{', '.join(map(str, sizes))}: flatten the codes, and give one label a code."
        )
