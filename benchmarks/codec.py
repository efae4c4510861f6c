"""Test images as files: a trained model's code beside -ELBO and beside generic coders, in bits a value.

Generic coders of bytes get all images in one stream, eight binary pixels to a byte; coders of images a file for each.
zstd and JPEG XL are measured where `zstandard` and `pillow-jxl-plugin` are installed.

python -m benchmarks.codec RUN...
"""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import json
import lzma
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness import RESULTS, arguments, machine
from vae_lightning.checkpoint import find_checkpoint
from vae_lightning.compression import decode, encode
from vae_lightning.images.input import read_data, split_files
from vae_lightning.train.process import tune_process
from vae_lightning.trained import TrainedModel, load_model

BYTES: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 9),
    "bz2": lambda data: bz2.compress(data, 9),
    "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}
PICTURES: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "method": 6, "quality": 100},
}


def optional_coders() -> None:
    """Adds those whose packages are there."""
    there = {name: importlib.util.find_spec(name) is not None for name in ("zstandard", "pillow_jxl")}
    if there["zstandard"]:
        zstd = importlib.import_module("zstandard")
        BYTES["zstd"] = lambda data: zstd.ZstdCompressor(level=22).compress(data)
    if there["pillow_jxl"]:
        importlib.import_module("pillow_jxl")
        PICTURES["JPEG XL"] = {"format": "JXL", "lossless": True, "effort": 9}
    if missing := [name for name, found in there.items() if not found]:
        print(f"left out, not installed: {', '.join(missing)}")


def picture(image: np.ndarray, levels: int) -> Image.Image:
    """(C, H, W) levels as the file's pixels: black and white where there are two."""
    if levels == 2:
        return Image.fromarray(image[0] * np.uint8(255)).convert("1")
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def file_size(image: Image.Image, options: dict[str, Any]) -> int:
    stream = io.BytesIO()
    if options["format"] == "WEBP":  # knows colours only
        image = image.convert("RGB")
    elif options["format"] == "JXL" and image.mode == "1":
        image = image.convert("L")
    image.save(stream, **options)
    return stream.tell()


def generic(images: np.ndarray, levels: int) -> dict[str, float]:
    """Coder -> bits a value."""
    data = (np.packbits(images) if levels == 2 else images).tobytes()
    sizes = {name: len(compress(data)) for name, compress in BYTES.items()}
    for name, options in PICTURES.items():
        sizes[name] = sum(
            file_size(picture(image, levels), options) for image in tqdm(images, name, leave=False, disable=None)
        )
    return {name: 8 * size / images.size for name, size in sizes.items()}


@torch.no_grad()
def elbo_bits(trained: TrainedModel, images: Tensor, passes: int = 2) -> tuple[float, float]:
    """-ELBO in bits a value: the mean over images and `passes` posterior samples of each, and its standard error from
    the samples alone, since the code is of the same images."""
    samples = torch.stack([torch.cat([trained.elbo(part) for part in images.split(500)]) for _ in range(passes)])
    means = -samples.double() / math.log(2) / images[0].numel()
    return means.mean().item(), (means.var(0).mean() / passes / len(images)).sqrt().item()


def measure(run: Path, limit: int | None, rounds: int) -> dict[str, Any]:
    checkpoint = find_checkpoint(run)
    trained = load_model(str(checkpoint))
    data = read_data(checkpoint)
    images = data.fixed("test").image[:limit].contiguous()
    files = split_files(data, "test")[:limit]
    torch.manual_seed(1)
    bound, error = elbo_bits(trained, images)
    taken: list[tuple[float, float]] = []
    for turn in range(rounds):
        start = time.perf_counter()
        coded = encode(trained.latent_model, images)
        between = time.perf_counter()
        decoded = decode(trained.latent_model, coded, trained.image_shape)
        taken.append((between - start, time.perf_counter() - between))
        if not torch.equal(decoded, images):
            raise SystemExit(f"{run}: the round trip is not exact")
        shown = f"{taken[-1][0]:.2f} s to code, {taken[-1][1]:.2f} s to decode"
        print(f"{run}, round {turn + 1} of {rounds}: {shown}, load {os.getloadavg()[0]:.2f}")
    to_code, to_decode = (statistics.median(times) for times in zip(*taken, strict=True))
    net, gross = coded.net_bits / images.numel(), coded.gross_bits / images.numel()
    print(f"\n{run}: {len(images)} images {tuple(trained.image_shape)}, {trained.levels} levels, round trip exact")
    print(f"  -ELBO {bound:.4f} +- {error:.4f}, net {net:.4f} ({100 * (net / bound - 1):+.3f} %), gross {gross:.4f}")
    print(f"  initial bits {coded.initial_bits}, {100 * coded.initial_bits / coded.gross_bits:.3f} % of all")
    rates = {"compress": len(images) / to_code, "decompress": len(images) / to_decode}
    print(f"  images/s: {rates['compress']:,.0f} to code, {rates['decompress']:,.0f} to decode")
    others = generic(images.numpy(), trained.levels)
    if files:  # which may store less than the decoded pixels
        others["the files themselves"] = 8 * sum(file.stat().st_size for file in files) / images.numel()
    for name, size in sorted({**others, "this model, gross": gross}.items(), key=lambda item: item[1]):
        print(f"  {name:20} {size:8.4f} {size / gross:6.2f}x")
    found = {"elbo": [bound, error], "net": net, "gross": gross, "initial_bits": coded.initial_bits, **rates}
    found |= {"machine": machine(), "seconds to code and to decode": taken}
    return {"run": str(run), "images": len(images), **found, "generic": others}


if __name__ == "__main__":
    parser = arguments(__doc__, 1)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of an experiment")
    parser.add_argument("--limit", type=int, help="only so many of the test images")
    options = parser.parse_args()
    tune_process()
    optional_coders()
    results = [measure(run, options.limit, options.rounds) for run in options.runs]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "codec.json").write_text(json.dumps({"runs": results}, indent=1))
