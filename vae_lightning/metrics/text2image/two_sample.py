"""Whether a classifier can tell two sets apart (Lopez-Paz & Oquab 2017). Legend of shapes: N, M rows of F numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_lightning.metrics.representation import Accuracy, share

HIDDEN = 64


def two_sample(a: Tensor, b: Tensor, given: Tensor, seed: int = 0) -> Accuracy:
    """Accuracy of a classifier that tells row a_i from b_i, both of the same caption, of which it is told, too: one
    half where they have one density given the caption, up to its error, and more as far as it finds a difference. It is
    trained on one half of the pairs and tested on the other.

    A net of one hidden layer, since a linear one sees no difference in spread; it stops early on a tenth of its half.

    Args:
        a, b: (N, F).
        given: (N, G), such as the captions' embeddings.
        seed: of halves and net.

    Raises:
        ValueError: sets of other sizes, or fewer than 20 pairs.
    """
    if a.shape != b.shape or len(given) != len(a) or len(a) < 20:
        raise ValueError(
            f"two_sample: expected 20 pairs of rows or more with what is given of each, got {tuple(a.shape)}, "
            f"{tuple(b.shape)} and {tuple(given.shape)}."
        )
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))
    halves = []
    for part in order.chunk(2):
        rows = torch.cat([torch.cat([x[part], given[part]], 1) for x in (a, b)]).double().numpy()
        halves.append((rows, [0] * len(part) + [1] * len(part)))
    net = MLPClassifier((HIDDEN,), alpha=1e-3, early_stopping=True, n_iter_no_change=10, random_state=seed)
    judge = make_pipeline(StandardScaler(), net).fit(*halves[0])
    rows, which = halves[1]
    return share(torch.from_numpy(judge.predict(rows)) == torch.tensor(which))


def matched(caption: Tensor, others: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pairs of the same caption, no row twice: numbers of rows of `caption` (N,) and of `others` (M,), chosen at random
    within each caption, (pairs,) each. What has no partner left is left out."""
    generator = torch.Generator().manual_seed(seed)
    known, count = others.unique(return_counts=True)
    shuffled = torch.randperm(len(others), generator=generator)
    by_caption = shuffled[others[shuffled].argsort(stable=True)]
    first = count.cumsum(0) - count
    mixed = torch.randperm(len(caption), generator=generator)
    own = mixed[caption[mixed].argsort(stable=True)]
    times = caption[own].unique_consecutive(return_counts=True)[1]
    place = torch.cat([torch.arange(n) for n in times.tolist()]) if len(times) else own
    number = torch.searchsorted(known, caption[own]).clamp_max(max(0, len(known) - 1))
    good = (known[number] == caption[own]) & (place < count[number])
    return own[good], by_caption[first[number[good]] + place[good]]
