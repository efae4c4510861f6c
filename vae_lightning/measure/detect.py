"""Which of some images are anomalous, and where: scores held against those of normal images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vae_lightning.data import Images
from vae_lightning.images.defects import Benchmark
from vae_lightning.images.pictures import grid
from vae_lightning.measure.looked import SCORES, Looked, look
from vae_lightning.metrics.anomaly import AUROC, auroc
from vae_lightning.metrics.detection import Threshold, pixel_auroc, threshold
from vae_lightning.trained import TrainedModel

DEFAULT, WITHOUT_RATE = "bits_peak", "error_peak"
"""The score that verdicts are by; of an autoencoder."""
BRIGHTEST = 0.999
"""Share of the normal images' pixels that a map's colours tell apart: what lies above is white."""


@dataclass(frozen=True)
class Areas:
    """Areas under the ROC curve of one kind of defect, or of all.

    Args:
        defect: its name; "all" of them together.
        counts: images without a defect, and with it.
        image: score -> area, over images; empty where one of the counts is 0.
        pixel: "bits" and "error", the maps -> area, over the pixels of the images without a defect and of those that
            have a mask; empty without masks.
        masked: how many images have one.
    """

    defect: str
    counts: tuple[int, int]
    image: dict[str, AUROC]
    pixel: dict[str, AUROC]
    masked: int


@dataclass(frozen=True)
class Detection:
    """Args:
    names: of N images.
    looked: what the model makes of them.
    score: that verdicts are by.
    thresholds: score -> its threshold.
    shades: "bits" and "error" -> the values from which down a map is black, and from which on it is white.
    defects: what is wrong with each image, where that is known.
    masks: where, (N, H, W) bool.
    areas: by defect.
    """

    names: list[str]
    looked: Looked
    score: str
    thresholds: dict[str, Threshold]
    shades: dict[str, tuple[float, float]]
    defects: list[str | None] | None = None
    masks: Tensor | None = None
    areas: list[Areas] = field(default_factory=list)

    @property
    def threshold(self) -> Threshold:
        return self.thresholds[self.score]

    @property
    def values(self) -> Tensor:
        """The score of each image, (N,)."""
        return self.looked.scores[self.score]

    @property
    def anomalous(self) -> Tensor:
        """(N,) bool: what is not a number is no normal score either."""
        return ~(self.values <= self.threshold.value)

    @property
    def order(self) -> list[int]:
        """The least likely first."""
        return [int(row) for row in self.values.argsort(descending=True, stable=True)]

    def picture(self, images: Images, row: int, levels: int) -> Tensor:
        """The image, its reconstruction, the map of bits and that of squared errors, and the mask where there is one,
        side by side, (3, H', W') uint8."""
        shown = [
            self._shown(images.take(torch.tensor([row]))[0], levels),
            self._shown(self.looked.reconstruction[row], levels),
        ]
        for name, (black, white) in self.shades.items():
            shown.append(_coloured((getattr(self.looked, name)[row] - black) / max(white - black, 1e-12)))
        if self.masks is not None:
            shown.append(255.0 * self.masks[row].expand(3, -1, -1))
        return grid(torch.stack(shown), len(shown), 256)

    @staticmethod
    def _shown(image: Tensor, levels: int) -> Tensor:
        """(3, H, W) in 0..255."""
        colours = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
        return (255 / (levels - 1) * colours.float()).clamp(0, 255)


def _coloured(unit: Tensor) -> Tensor:
    """A map (H, W) as colours from black through red to white, (3, H, W) in 0..255; what is not a number is white."""
    import matplotlib

    colours = matplotlib.colormaps["hot"](unit.nan_to_num(1.0, 1.0, 0.0).clamp(0, 1).numpy())
    return 255 * torch.from_numpy(colours[..., :3]).permute(2, 0, 1).float()


def detect(
    trained: TrainedModel,
    images: Images,
    names: list[str],
    normal: Images,
    false_alarms: float,
    num_samples: int,
    score: str | None = None,
    p_y: Tensor | None = None,
) -> Detection:
    """Scores of images, and their thresholds at a rate of false alarms on normal images.

    Args:
        trained: the model.
        images: N of them.
        names: theirs.
        normal: images that training has not seen, such as the validation images.
        false_alarms: the rate of normal images above the threshold.
        num_samples: draws from the posterior an image.
        score: of SCORES; null for the peak of the map of bits.
        p_y: see `look`.

    Raises:
        ValueError: a score that the model does not have.
    """
    if score is not None and score not in SCORES:
        raise ValueError(f"--score: expected one of {', '.join(SCORES)}, got {score!r}.")
    model, levels = trained.latent_model, trained.spec.levels
    ours = look(model, normal, levels, num_samples, trained.device, p_y, keep=False)
    score = score or (DEFAULT if "elbo" in ours.scores else WITHOUT_RATE)
    if score not in ours.scores:
        raise ValueError(f"--score: expected one of {', '.join(ours.scores)}, got {score}, which this model has not.")
    thresholds = {name: threshold(values, false_alarms) for name, values in ours.scores.items()}
    theirs = look(model, images, levels, num_samples, trained.device, p_y)
    shades = {name: _shades(getattr(ours, name)) for name in ("bits", "error")}
    return Detection(names, theirs, score, thresholds, shades)


def _shades(maps: Tensor) -> tuple[float, float]:
    """The darkest and the brightest that are told apart; torch's own quantile takes no more than 2^24 values."""
    flat = maps.flatten()
    return flat.min().item(), flat.kthvalue(max(1, round(BRIGHTEST * len(flat)))).values.item()


def areas(found: Detection, benchmark: Benchmark, masks: Tensor) -> list[Areas]:
    """By defect and of all together, how well scores tell defective images from those without a defect, and maps
    defective pixels from sound ones."""
    defects = benchmark.defects
    good = [row for row, defect in enumerate(defects) if defect is None]
    kinds: list[tuple[str, list[int]]] = [
        (kind, [row for row, defect in enumerate(defects) if defect == kind]) for kind in benchmark.kinds
    ]
    if len(kinds) > 1:
        kinds.append(("all", [row for row, defect in enumerate(defects) if defect is not None]))
    return [_areas(found, masks, kind, good, bad) for kind, bad in kinds]


def _areas(found: Detection, masks: Tensor, kind: str, good: list[int], bad: list[int]) -> Areas:
    masked = [row for row in bad if masks[row].any()]
    image, pixel = dict[str, AUROC](), dict[str, AUROC]()
    if good and bad:
        for name, values in found.looked.scores.items():
            known = values.nan_to_num(math.inf, math.inf, -math.inf)  # what is not a number is no normal score
            image[name] = auroc(known[good], known[bad])
    if masked:
        for name in ("bits", "error"):
            maps = getattr(found.looked, name)
            if (area := pixel_auroc(maps[good + masked], masks[good + masked])) is not None:
                pixel[name] = area
    return Areas(kind, (len(good), len(bad)), image, pixel, len(masked))
